"""The devices of a local run: how many, of which class, with which budget and speed.

Invariant: the same number of workers gives the same fleet.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceClass:
    """A kind of device that the demo simulates.

    Attributes:
        share: the share of the model's prunable cost that a device may hold.
        slowdown: how many times slower a device seems. It sleeps between steps.
    """

    name: str
    share: float
    slowdown: float


DEMO_CLASSES = (
    DeviceClass("large", 0.60, 1.0),
    DeviceClass("medium", 0.45, 2.0),
    DeviceClass("small", 0.30, 4.0),
    DeviceClass("tiny", 0.15, 8.0),
)


@dataclass(frozen=True)
class LocalDevice:
    """One worker of a local run.

    Attributes:
        index: the number of its part of the training data.
        kind: the device class; None for a worker that finds its limits itself.
        memory_bytes: the memory that its training may use; None to find out.
    """

    worker_id: str
    index: int
    kind: DeviceClass | None = None
    memory_bytes: int | None = None


def demo_devices(worker_count: int) -> list[LocalDevice]:
    """Return the demo's fleet, spread over the four classes: eight workers are two of each."""
    kinds = [DEMO_CLASSES[i % len(DEMO_CLASSES)] for i in range(worker_count)]
    kinds.sort(key=DEMO_CLASSES.index)
    return [LocalDevice(f"worker-{i}", i, kind) for i, kind in enumerate(kinds)]


def plain_devices(worker_count: int, memory_bytes: int | None) -> list[LocalDevice]:
    """Return workers without a simulated class."""
    return [LocalDevice(f"worker-{i}", i, None, memory_bytes) for i in range(worker_count)]


def describe(devices: Sequence[LocalDevice]) -> list[str]:
    """Describe the fleet, with a line per class."""
    counts = Counter(d.kind for d in devices)
    return [
        f"{n} {k.name:<7} may hold {100 * k.share:.0f} % of the prunable cost, "
        + (f"{k.slowdown:g} times slower" if k.slowdown > 1 else "full speed")
        for k, n in counts.items()
        if k is not None
    ]
