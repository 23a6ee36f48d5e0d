"""A bus that counts its records and bytes, and reports whether it answers.

Invariants:
It does not change what the inner bus does or raises.
A call that is still waiting reports nothing.
"""

from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Literal, TypeVar

from cos2p.errors import BusError, BusUnreachableError, StorageError
from cos2p.log.bus import Bus, NewRecord, Offsets, Record, TopicSpec
from cos2p.log.buses.passing import PassingBus
from cos2p.monitoring.watch import Watch

T = TypeVar("T")
Direction = Literal["in", "out"]


class MeteredBus(PassingBus):
    """A bus that counts its traffic; see `cos2p.log.bus.Bus`.

    `watch` receives the cause `bus` until the first answer, and while calls fail.
    """

    def __init__(self, inner: Bus, watch: Watch) -> None:
        super().__init__(inner)
        self._watch = watch
        watch.blocked("bus", "it has not answered yet")
        self.byte_count: Counter[tuple[str, Direction]] = Counter()
        """Bytes of values and keys, by topic's full name and direction (out: appended)."""
        self.record_count: Counter[tuple[str, Direction]] = Counter()
        self.error_count: Counter[str] = Counter()
        """Number of failed calls, by the error's name."""

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See `Bus.create_topics`."""
        await self._watched(super().create_topics(specs))

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """See `Bus.append`."""
        offsets = await self._watched(super().append(topic, partition, records))
        self._count(topic, "out", records)
        return offsets

    async def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        bytes_max: int = 4 << 20,
        wait_s: float = 0,
    ) -> list[Record]:
        """See `Bus.read`."""
        found = await self._watched(
            super().read(topic, partition, offset, bytes_max=bytes_max, wait_s=wait_s)
        )
        self._count(topic, "in", found)
        return found

    async def end_offsets(self, topic: str) -> dict[int, Offsets]:
        """See `Bus.end_offsets`."""
        return await self._watched(super().end_offsets(topic))

    def _count(
        self, topic: str, direction: Direction, records: Sequence[NewRecord] | Sequence[Record]
    ) -> None:
        self.record_count[topic, direction] += len(records)
        self.byte_count[topic, direction] += sum(len(r.value) + len(r.key) for r in records)

    async def _watched(self, call: Awaitable[T]) -> T:
        try:
            answer = await call
        except (BusError, StorageError) as error:
            self.error_count[type(error).__name__] += 1
            if isinstance(error, (BusUnreachableError, StorageError)):
                self._watch.blocked("bus", str(error))
            else:
                self._watch.unblocked("bus")
            raise
        self._watch.unblocked("bus")
        return answer
