"""A bus with a device's link: blobs take virtual time, small records take none.

Invariant: the records are those of the shared log. Only the time of writing and reading differs.
"""

from collections.abc import Sequence
from typing import Any

from cos2p.clock import Clock
from cos2p.log.bus import Bus, NewRecord, Record
from cos2p.log.buses.passing import PassingBus
from cos2p.log.topics import SUBMODELS, UPDATES


class WireBus(PassingBus):
    """See `cos2p.log.bus.Bus`; `bytes_per_s` is the speed of the link in each direction."""

    def __init__(self, log: Bus, clock: Clock, prefix: str, bytes_per_s: float) -> None:
        super().__init__(log)
        self._clock, self._bytes_per_s = clock, bytes_per_s
        self._down, self._up = SUBMODELS.full_name(prefix), UPDATES.full_name(prefix)

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """See `Bus.append`. A delta is written only after its last byte has been sent."""
        if topic == self._up:
            await self._pass(sum(len(r.value) for r in records))
        return await super().append(topic, partition, records)

    async def read(self, topic: str, partition: int, offset: int, **how: Any) -> list[Record]:
        """See `Bus.read`. Weights are returned only after their last byte has arrived."""
        found = await super().read(topic, partition, offset, **how)
        if topic == self._down:
            await self._pass(sum(len(r.value) for r in found))
        return found

    async def _pass(self, byte_count: int) -> None:
        await self._clock.sleep(byte_count / self._bytes_per_s)
