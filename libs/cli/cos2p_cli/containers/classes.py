"""Device classes of an emulated fleet, written as `orin=2,tiny=1:600m:0.5`.

Invariants: a class consists of two limits of its containers: memory and processors. A class that
is not built in needs limits in the text, or existing workers that have them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cos2p.errors import SettingsError
from cos2p_cli import figures

GIB = 1 << 30
COUNT_MAX = 64
MEMORY_MIN = 64 << 20
"""The least memory of a class. Python and numpy need more, so the unit was forgotten."""
CPUS_MIN, CPUS_MAX = 0.05, 1024
"""The least processors of a class. Docker allows 0.01, but a start then takes minutes."""
FORM = "write CLASS=COUNT or CLASS=COUNT:MEMORY:CPUS, for instance orin=2,tiny=1:800m:0.5"
_CLASS = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9-]{0,30})=(?P<count>\d+)"
    r"(:(?P<memory>[^:]+):(?P<cpus>\d+\.?\d*|\.\d+))?"
)


@dataclass(frozen=True)
class Limits:
    """The limits of one device of a class.

    Attributes:
        memory_bytes: the memory of the whole container, PyTorch's own share included.
        cpus: the number of processors, also a fraction.
    """

    memory_bytes: int
    cpus: float


BUILT_IN: Mapping[str, Limits] = {
    "x86": Limits(4 * GIB, 4.0),
    "orin": Limits(2 * GIB, 2.0),
    "nano": Limits(1 * GIB, 1.0),
}
"""Small limits in the proportion of an x86 box, a Jetson Orin Nano and a Nano."""
DEFAULT_FLEET = "orin=2,nano=2"


@dataclass(frozen=True)
class ClassRequest:
    """The number of devices asked for of a class, and their limits if given."""

    device_class: str
    count: int
    limits: Limits | None = None


def parse_fleet(text: str) -> tuple[ClassRequest, ...]:
    """Parse the classes in a text such as `orin=2,tiny=1:600m:0.5`.

    Raises:
        SettingsError: a name, number or size is not valid. The text shows how to write it.
    """
    asked = tuple(_parse(part.strip()) for part in text.split(",") if part.strip())
    names = [a.device_class for a in asked]
    if not asked:
        raise SettingsError(f"--workers names no class: {FORM}")
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"--workers names the class {name} twice")
    return asked


def limits_of(asked: ClassRequest, known: Mapping[str, Limits]) -> Limits:
    """Return a class's limits: those given, else those of its workers, else the built-in ones.

    `known` holds the limits of the classes that have workers.

    Raises:
        SettingsError: the class is unknown.
    """
    limits = asked.limits or known.get(asked.device_class) or BUILT_IN.get(asked.device_class)
    if limits is None:
        raise SettingsError(
            f"--workers: the class {asked.device_class!r} is unknown; built in are "
            f"{', '.join(BUILT_IN)}, any other needs limits: "
            f"{asked.device_class}={asked.count}:1g:1"
        )
    return limits


def _parse(part: str) -> ClassRequest:
    match = _CLASS.fullmatch(part)
    if match is None:
        raise SettingsError(f"--workers: {part!r} is not a class with its count: {FORM}")
    name, count = match["name"], int(match["count"])
    if count > COUNT_MAX:
        raise SettingsError(f"--workers: {name}={count}: a count is at most {COUNT_MAX}")
    if match["memory"] is None:
        return ClassRequest(name, count)
    # In Docker's units 600m is 600 MiB and 2g is 2 GiB.
    memory_bytes = figures.parse_size(re.sub(r"(?<=\d)[kmgKMG]$", r"\g<0>ib", match["memory"]))
    if memory_bytes < MEMORY_MIN:
        raise SettingsError(
            f"--workers: {name}: {match['memory']} of memory is below {MEMORY_MIN >> 20} MiB; "
            "write for instance 800m or 2g"
        )
    cpus = float(match["cpus"])
    if not CPUS_MIN <= cpus <= CPUS_MAX:
        raise SettingsError(
            f"--workers: {name}: {cpus:g} processors are too few or too many: write 0.5 or 2"
        )
    return ClassRequest(name, count, Limits(memory_bytes, cpus))
