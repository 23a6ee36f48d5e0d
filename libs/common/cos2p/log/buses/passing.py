"""A bus that passes every call to another: wrappers override single methods."""

from collections.abc import Sequence

from cos2p.log.bus import Bus, NewRecord, Offsets, Record, TopicSpec


class PassingBus:
    """A bus that passes every call to another; see `cos2p.log.bus.Bus`."""

    def __init__(self, inner: Bus) -> None:
        self._inner = inner

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See `Bus.create_topics`."""
        await self._inner.create_topics(specs)

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """See `Bus.append`."""
        return await self._inner.append(topic, partition, records)

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
        return await self._inner.read(topic, partition, offset, bytes_max=bytes_max, wait_s=wait_s)

    async def end_offsets(self, topic: str) -> dict[int, Offsets]:
        """See `Bus.end_offsets`."""
        return await self._inner.end_offsets(topic)

    async def close(self) -> None:
        """See `Bus.close`."""
        await self._inner.close()
