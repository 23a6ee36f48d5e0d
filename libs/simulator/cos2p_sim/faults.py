"""A bus that treats one process badly: delay, loss, repeats, lost acks, and death in mid-append.

Wraps the log that all processes share; one instance per life of a process. Invariants: an append
that returned has written all of its records, once (a worker's perhaps twice, as by a client that
tries again); one that raised has written them, or the first of them, or none; what a dead process
had not written yet is never written.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cos2p.clock import Clock
from cos2p.errors import BusUnreachableError
from cos2p.log.bus import Bus, NewRecord
from cos2p.log.buses.passing import PassingBus
from cos2p_sim.scenario import FaultPart


@dataclass
class FaultCount:
    """What was done to all processes together."""

    delayed: int = 0
    lost: int = 0
    repeated: int = 0
    unacknowledged: int = 0


class FaultyBus(PassingBus):
    """See `cos2p.log.bus.Bus`.

    Args:
        log: the bus that all share.
        clock: for delays.
        faults: how often what happens.
        chance: seeded for this life of this process.
        count: where faults are counted.
        fleet_topic: the topic on which a worker's records may be lost or repeated; None for other
            roles (their producers are idempotent, and the bus keeps what it acknowledged).
    """

    def __init__(
        self,
        log: Bus,
        clock: Clock,
        faults: FaultPart,
        chance: np.random.Generator,
        count: FaultCount,
        fleet_topic: str | None = None,
    ) -> None:
        super().__init__(log)
        self._clock, self._faults = clock, faults
        self._chance, self._count, self._fleet_topic = chance, count, fleet_topic
        self.dead = False
        self.acknowledged: list[tuple[str, int, int]] = []
        """(topic, partition, offset) of each record whose append returned."""

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """See `Bus.append`."""
        await self._dawdle()
        faults = self._faults
        if topic == self._fleet_topic and self._happens(faults.loss_share):
            self._count.lost += 1
            raise BusUnreachableError("the simulator lost this append")
        if self._happens(faults.lost_ack_share):
            self._count.unacknowledged += 1
            kept = int(self._chance.integers(1, len(records) + 1)) if records else 0
            await self._inner.append(topic, partition, records[:kept])
            raise BusUnreachableError("the simulator lost the ack of this append")
        offsets = await self._inner.append(topic, partition, records)
        if topic == self._fleet_topic and self._happens(faults.duplicate_share):
            self._count.repeated += 1
            await self._inner.append(topic, partition, records)
        await self._dawdle()
        self.acknowledged += [(topic, partition, offset) for offset in offsets]
        return offsets

    def _happens(self, share: float) -> bool:
        return share > 0 and bool(self._chance.random() < share)

    async def _dawdle(self) -> None:
        if self.dead:
            raise asyncio.CancelledError
        if self._faults.delay_s > 0:
            self._count.delayed += 1
            await self._clock.sleep(float(self._chance.exponential(self._faults.delay_s)))
        if self.dead:
            raise asyncio.CancelledError
