"""A bus that injects faults for one process: delay, loss, repeats, lost acks, death in mid-append.

It wraps the log that all processes share. Each life of a process has its own instance.

Invariants: an append that returned has written all of its records once. A worker's records may be
written twice, as by a client that tries again. An append that raised has written all of its
records, the first of them, or none. A dead process writes nothing more.
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
    """Faults injected so far, over all processes."""

    delayed: int = 0
    lost: int = 0
    repeated: int = 0
    unacknowledged: int = 0


class FaultyBus(PassingBus):
    """See `cos2p.log.bus.Bus`.

    Args:
        rng: the random generator of this life of this process.
        count: the faults of all processes.
        fleet_topic: the topic on which a worker's records may be lost or repeated. None for other
            roles: their producers are idempotent, and the bus keeps what it acknowledged.
    """

    def __init__(
        self,
        log: Bus,
        clock: Clock,
        faults: FaultPart,
        rng: np.random.Generator,
        count: FaultCount,
        fleet_topic: str | None = None,
    ) -> None:
        super().__init__(log)
        self._clock, self._faults = clock, faults
        self._rng, self._count, self._fleet_topic = rng, count, fleet_topic
        self.dead = False
        self.acknowledged: list[tuple[str, int, int]] = []
        """(topic, partition, offset) of each record whose append returned."""

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """See `Bus.append`."""
        await self._delay()
        faults = self._faults
        if topic == self._fleet_topic and self._happens(faults.loss_share):
            self._count.lost += 1
            raise BusUnreachableError("the simulator lost this append")
        if self._happens(faults.lost_ack_share):
            self._count.unacknowledged += 1
            # The connection may break in mid-append: the first records are written, the rest not.
            kept = int(self._rng.integers(1, len(records) + 1)) if records else 0
            await self._inner.append(topic, partition, records[:kept])
            raise BusUnreachableError("the simulator lost the ack of this append")
        offsets = await self._inner.append(topic, partition, records)
        if topic == self._fleet_topic and self._happens(faults.duplicate_share):
            self._count.repeated += 1
            await self._inner.append(topic, partition, records)
        await self._delay()
        self.acknowledged += [(topic, partition, offset) for offset in offsets]
        return offsets

    def _happens(self, share: float) -> bool:
        return share > 0 and bool(self._rng.random() < share)

    async def _delay(self) -> None:
        if self.dead:
            raise asyncio.CancelledError
        if self._faults.delay_s > 0:
            self._count.delayed += 1
            await self._clock.sleep(float(self._rng.exponential(self._faults.delay_s)))
        # The process may have been killed during the delay.
        if self.dead:
            raise asyncio.CancelledError
