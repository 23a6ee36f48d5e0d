"""Device classes of an emulated fleet, as people write them: `orin=2,tiny=1:600m:0.5`.

Invariants: a class is what its containers may use, memory and processors, nothing else; a class
that is not built in must bring its limits, or be known from workers that are there.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cos2p.errors import SettingsError
from cos2p_cli import figures

GIB = 1 << 30
COUNT_MAX = 64
MEMORY_MIN = 64 << 20
"""Not even Python and numpy run in less: a unit was forgotten."""
CPUS_MIN = 0.05
"""Docker's own is 0.01; with so little a worker takes minutes to start."""
FORM = "write CLASS=COUNT or CLASS=COUNT:MEMORY:CPUS, for instance orin=2,tiny=1:800m:0.5"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


@dataclass(frozen=True)
class Limits:
    """What one device of a class may use.

    Attributes:
        memory_bytes: of the whole container, PyTorch's own share included.
        cpus: processors, also parts of one.
    """

    memory_bytes: int
    cpus: float


BUILT_IN: Mapping[str, Limits] = {
    "x86": Limits(4 * GIB, 4.0),
    "orin": Limits(2 * GIB, 2.0),
    "nano": Limits(1 * GIB, 1.0),
}
"""Small ones of their kind, in the proportion of an x86 box, a Jetson Orin Nano and a Nano."""
DEFAULT_FLEET = "orin=2,nano=2"


@dataclass(frozen=True)
class Asked:
    """How many devices of a class, and their limits where they were given."""

    device_class: str
    count: int
    limits: Limits | None = None


def parse_fleet(text: str) -> tuple[Asked, ...]:
    """The classes of a text such as `orin=2,tiny=1:600m:0.5`.

    Raises:
        SettingsError: a name, number or size that is none; the text shows how to write it.
    """
    asked = tuple(_parse(part.strip()) for part in text.split(",") if part.strip())
    names = [a.device_class for a in asked]
    if not asked:
        raise SettingsError(f"--workers names no class: {FORM}")
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"--workers names the class {name} twice")
    return asked


def limits_of(asked: Asked, known: Mapping[str, Limits]) -> Limits:
    """The limits of a class: those given, else those of its workers, else the built-in ones.

    Args:
        asked: the class.
        known: limits of the classes whose workers are there.

    Raises:
        SettingsError: nobody knows that class.
    """
    limits = asked.limits or known.get(asked.device_class) or BUILT_IN.get(asked.device_class)
    if limits is None:
        raise SettingsError(
            f"--workers: the class {asked.device_class!r} is not known; built in are "
            f"{', '.join(BUILT_IN)}, any other brings its limits: "
            f"{asked.device_class}={asked.count}:1g:1"
        )
    return limits


def _parse(part: str) -> Asked:
    name, equals, rest = part.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise SettingsError(f"--workers: {part!r} is no class with its count: {FORM}")
    count, *limits = rest.split(":")
    if not count.isdigit() or int(count) > COUNT_MAX:
        raise SettingsError(f"--workers: {name}={count}: a count lies between 0 and {COUNT_MAX}")
    if len(limits) not in (0, 2):
        raise SettingsError(f"--workers: {part!r} gives one limit of two: {FORM}")
    return Asked(name, int(count), _limits(name, limits) if limits else None)


def _limits(name: str, words: Sequence[str]) -> Limits:
    memory_bytes = figures.parse_size(_as_docker_writes(words[0]))
    if memory_bytes < MEMORY_MIN:
        raise SettingsError(
            f"--workers: {name}: {words[0]} of memory is below {MEMORY_MIN >> 20} MiB; "
            "write for instance 800m or 2g"
        )
    try:
        cpus = float(words[1])
    except ValueError:
        cpus = 0.0
    if not CPUS_MIN <= cpus <= 1024:
        raise SettingsError(
            f"--workers: {name}: {words[1]!r} is no number of processors: write 0.5 or 2"
        )
    return Limits(memory_bytes, cpus)


def _as_docker_writes(text: str) -> str:
    """Docker's units: 600m is 600 MiB, 2g is 2 GiB."""
    return f"{text}ib" if re.fullmatch(r"[\d.]+[kmgKMG]", text) else text
