"""A log for the contract suite: of any kind of bus, with as many views of it as a test opens."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cos2p.clock import SystemClock
from cos2p.log.bus import Bus, NewRecord, TopicSpec
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.settings import BusSettings

RETENTION_S = 3600.0


class JumpingClock(SystemClock):
    """Real time, and a jump ahead when a test asks for one."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_s = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_s


@dataclass
class BusLog:
    """One log and its topic `topic`, which no other test has."""

    kind: str
    open: Callable[[], Bus]
    clock: JumpingClock
    topic: str
    bootstrap: str = ""
    opened: list[Bus] = field(default_factory=list)

    def spec(
        self,
        partitions: int = 1,
        record_bytes_max: int = 1_000_000,
        *,
        bulk: bool = False,
        compacted: bool = False,
    ) -> TopicSpec:
        """What the topic shall be."""
        return TopicSpec(self.topic, partitions, record_bytes_max, RETENTION_S, bulk, compacted)

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """One more view of the log."""
        bus = self.open()
        try:
            yield bus
        finally:
            await bus.close()

    @asynccontextmanager
    async def topic_bus(
        self,
        partitions: int = 1,
        record_bytes_max: int = 1_000_000,
        *,
        bulk: bool = False,
        compacted: bool = False,
    ) -> AsyncIterator[Bus]:
        """One more view of the log, the topic made."""
        spec = self.spec(partitions, record_bytes_max, bulk=bulk, compacted=compacted)
        async with self.bus() as bus:
            await bus.create_topics([spec])
            yield bus

    def pass_retention(self) -> None:
        """What was appended by now is over its retention."""
        self.clock.ahead_s += 2 * RETENTION_S

    async def expire(self, bus: Bus, before: int) -> None:
        """Let the log forget what retention allows: the records of partition 0 below `before`.

        They must have been appended before `pass_retention`, the others after it. A test of a log
        in which nothing expires ends here.
        """
        if self.kind == "sqlite-file":
            pytest.skip("in a single file nothing expires: see test_bus_sqlite")
        if isinstance(bus, MemoryBus):
            bus.expire(self.topic, 0, before)
        elif isinstance(bus, SqliteBus):
            await run_retention(bus)
        else:
            await _delete_from_kafka(self.bootstrap, self.topic, before)


async def run_retention(bus: SqliteBus) -> None:
    """Appends to a topic of their own, which remove all that has expired from the other topics.

    The bus must not have done so within the last minute.
    """
    await bus.create_topics([TopicSpec("retention", 1, 100)])
    for _ in range(3):
        await bus.append("retention", 0, [NewRecord(b"")])


async def _delete_from_kafka(bootstrap: str, topic: str, before: int) -> None:
    from aiokafka import TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before)})
    finally:
        await admin.close()


def memory_log(topic: str) -> BusLog:
    """A log in memory: all views are one object."""
    clock = JumpingClock()
    bus = MemoryBus(clock)
    return BusLog("memory", lambda: bus, clock, topic)


def sqlite_log(path: Path, topic: str) -> BusLog:
    """A log in a run's folder, or in a single file."""
    clock = JumpingClock()
    kind = "sqlite-file" if path.suffix else "sqlite"
    return BusLog(kind, lambda: SqliteBus(path, clock), clock, topic)


def kafka_log(bootstrap: str, topic: str) -> BusLog:
    """A log on a broker."""
    from cos2p.log.buses.kafka import KafkaBus

    settings = BusSettings(bus=f"kafka://{bootstrap}")
    return BusLog("kafka", lambda: KafkaBus(bootstrap, settings), JumpingClock(), topic, bootstrap)
