"""One service's state as others may see it: what blocks it, what it counted, what its run is like.

Invariants: a service is ready while nothing blocks it, and waiting for a run blocks nothing; the
fold of the run is fed by what the role itself reads and appends, so it costs no second reader.
"""

from collections import Counter
from collections.abc import Iterator

from cos2p import messages as m
from cos2p.bus import Bus
from cos2p.clock import Clock
from cos2p.messages import Message
from cos2p.monitoring import metrics as of
from cos2p.monitoring.metered_bus import MeteredBus
from cos2p.monitoring.samples import Sample, run_samples
from cos2p.monitoring.watch import Watch
from cos2p.telemetry import Telemetry

ROWS_KEPT = 64
"""Versions of which the fold is kept: the coverage window and what is not published yet."""


class Monitor(Watch):
    """Hears a role, and answers for it.

    Args:
        role: its name.
        version: of the program.
        prefix: of its topics.
        clock: of the bus.
    """

    def __init__(self, role: str, version: str, prefix: str, clock: Clock) -> None:
        self._role, self._version, self._prefix, self._clock = role, version, prefix, clock
        self._causes: dict[str, str] = {}
        self._telemetry = Telemetry(rows_max=ROWS_KEPT)
        self._run_id = ""
        self._stall: tuple[float, float] | None = None
        self._bus: MeteredBus | None = None
        self._refused: Counter[str] = Counter()

    def metered(self, bus: Bus) -> Bus:
        """The bus that the role shall use instead."""
        self._bus = MeteredBus(bus, self)
        return self._bus

    @property
    def hindrances(self) -> dict[str, str]:
        """What blocks the service now, by cause; empty where it is ready."""
        return {cause: text for cause, text in self._causes.items() if text}

    def blocked(self, cause: str, text: str) -> None:
        """See `Watch.blocked`."""
        self._causes[cause] = text or "no reason given"

    def freed(self, cause: str) -> None:
        """See `Watch.freed`."""
        self._causes[cause] = ""

    def saw(self, message: Message, at_s: float) -> None:
        """See `Watch.saw`."""
        self._run_id = message.run_id
        if not self._telemetry.take(message, at_s):
            return
        if isinstance(message, m.RunStarted):
            self._stall = (at_s, message.config.liveness.patience_s)
        elif isinstance(message, m.RoundClosed) and self._stall is not None:
            self._stall = (at_s, self._stall[1])
        elif isinstance(message, m.RunEnded):
            self._stall = None

    def refused(self, topic: str) -> None:
        """See `Watch.refused`."""
        self._refused[topic] += 1

    def samples(self) -> Iterator[Sample]:
        """All metrics, now."""
        now = self._clock.now()
        yield Sample(of.INFO, 1, (self._role, self._version))
        for cause, text in sorted({"bus": "", **self._causes}.items()):
            yield Sample(of.BLOCKED, float(bool(text)), (cause,))
        if self._bus is not None:
            yield from self._of_bus(self._bus)
        yield from (Sample(of.REFUSED, n, (topic,)) for topic, n in sorted(self._refused.items()))
        if self._stall is not None:
            since_s, patience_s = self._stall
            yield Sample(of.STALL, max(0.0, now - since_s) / patience_s)
        yield from run_samples(self._telemetry, self._run_id, now)

    def _of_bus(self, bus: MeteredBus) -> Iterator[Sample]:
        for counts, metric in ((bus.byte_count, of.BUS_BYTES), (bus.record_count, of.BUS_RECORDS)):
            for (topic, direction), count in sorted(counts.items()):
                yield Sample(metric, count, (topic.removeprefix(f"{self._prefix}-"), direction))
        for name, count in sorted(bus.error_count.items()):
            yield Sample(of.BUS_ERRORS, count, (name,))
