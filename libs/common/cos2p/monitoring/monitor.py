"""The visible state of one service: what blocks it, its counters, and its run.

Invariants:
A service is ready while nothing blocks it.
Waiting for a run does not block it.
The run is shown from the history that the role itself keeps, so it needs no second reader.
"""

from collections import Counter
from collections.abc import Iterator

from cos2p.clock import Clock
from cos2p.history.run import RunHistory
from cos2p.log.bus import Bus
from cos2p.monitoring import metrics as of
from cos2p.monitoring.metered_bus import MeteredBus
from cos2p.monitoring.samples import Sample, run_samples
from cos2p.monitoring.watch import Watch


class Monitor(Watch):
    """Receives a role's reports and gives its metrics."""

    def __init__(self, role: str, version: str, prefix: str, clock: Clock) -> None:
        self._role, self._version, self._prefix, self._clock = role, version, prefix, clock
        self._causes: dict[str, str] = {}
        self._history: RunHistory | None = None
        self._bus: MeteredBus | None = None
        self._refused: Counter[str] = Counter()

    def metered(self, bus: Bus) -> Bus:
        """Make the metered bus that the role must use instead of `bus`."""
        self._bus = MeteredBus(bus, self)
        return self._bus

    @property
    def blockers(self) -> dict[str, str]:
        """What blocks the service now, by cause; empty if it is ready."""
        return {cause: text for cause, text in self._causes.items() if text}

    def blocked(self, cause: str, text: str) -> None:
        """See `Watch.blocked`."""
        self._causes[cause] = text or "no reason given"

    def unblocked(self, cause: str) -> None:
        """See `Watch.unblocked`."""
        self._causes[cause] = ""

    def show_history(self, history: RunHistory) -> None:
        """See `Watch.show_history`."""
        self._history = history

    def refused(self, topic: str) -> None:
        """See `Watch.refused`."""
        self._refused[topic] += 1

    def samples(self) -> Iterator[Sample]:
        """Give the current samples of all metrics."""
        yield Sample(of.INFO, 1, (self._role, self._version))
        for cause, text in sorted({"bus": "", **self._causes}.items()):
            yield Sample(of.BLOCKED, float(bool(text)), (cause,))
        if self._bus is not None:
            yield from self._of_bus(self._bus)
        yield from (Sample(of.REFUSED, n, (topic,)) for topic, n in sorted(self._refused.items()))
        if self._history is not None:
            yield from run_samples(self._history, self._clock.now())

    def _of_bus(self, bus: MeteredBus) -> Iterator[Sample]:
        for counts, metric in ((bus.byte_count, of.BUS_BYTES), (bus.record_count, of.BUS_RECORDS)):
            for (topic, direction), count in sorted(counts.items()):
                yield Sample(metric, count, (topic.removeprefix(f"{self._prefix}-"), direction))
        for name, count in sorted(bus.error_count.items()):
            yield Sample(of.BUS_ERRORS, count, (name,))
