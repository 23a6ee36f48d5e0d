"""Rules for the weight of a late update, by name, for replays that ask what if.

The rules are FedAsync's (arXiv 1903.03934, section 5.2) with tau versions between base and merge.
"""

import math
from collections.abc import Callable

from cos2p.errors import SettingsError

Rule = Callable[[int], float]


def staleness_rule(text: str) -> Rule:
    """Return the rule s(tau) that `text` names.

    - constant: s = 1.
    - poly:A: s = (1 + tau) ** -A.
    - hinge:A,B: s = 1 up to tau = B, then 1 / (A * (tau - B) + 1).

    Raises:
        SettingsError: no such rule, or numbers that it does not take.
    """
    name, _, rest = text.partition(":")
    numbers = _numbers(text, rest)
    if name == "constant" and not numbers:
        return lambda tau: 1.0
    if name == "poly" and len(numbers) == 1:
        exponent = numbers[0]
        return lambda tau: float((1.0 + tau) ** -exponent)
    if name == "hinge" and len(numbers) == 2:
        slope, knee = numbers
        return lambda tau: 1.0 if tau <= knee else 1.0 / (slope * (tau - knee) + 1.0)
    raise _unknown(text)


def _numbers(text: str, rest: str) -> list[float]:
    try:
        numbers = [float(part) for part in rest.split(",")] if rest else []
    except ValueError as error:
        raise _unknown(text) from error
    if any(not math.isfinite(n) or n < 0 for n in numbers):
        raise _unknown(text)
    return numbers


def _unknown(text: str) -> SettingsError:
    return SettingsError(
        f"{text[:80]!r} is not a staleness rule: use constant, poly:A or hinge:A,B with numbers "
        "from 0 on, for instance poly:0.5 or hinge:0.5,2"
    )
