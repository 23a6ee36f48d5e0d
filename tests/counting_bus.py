"""A bus that counts the records that are read from it."""

from collections import Counter
from typing import Any

from cos2p.log.bus import Bus, Record
from cos2p.log.buses.passing import PassingBus


class CountingBus(PassingBus):
    """Counts by topic."""

    def __init__(self, inner: Bus) -> None:
        super().__init__(inner)
        self.counts: Counter[str] = Counter()

    async def read(self, topic: str, partition: int, offset: int, **how: Any) -> list[Record]:
        records = await super().read(topic, partition, offset, **how)
        self.counts[topic] += len(records)
        return records
