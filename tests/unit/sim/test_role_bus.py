"""A role of the simulator may do what the catalogue has it do."""

import asyncio

import pytest

from cos2p.clock import LoopClock
from cos2p.log.bus import NewRecord
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.topics import specs
from cos2p_sim.checkers import InvariantError
from cos2p_sim.role_bus import RoleBus


async def worker() -> RoleBus:
    shared = MemoryBus(LoopClock())
    await shared.create_topics(specs("t", 1))
    return RoleBus(shared, "worker", "t")


def test_what_the_catalogue_grants_passes() -> None:
    async def body() -> list[int]:
        return await (await worker()).append("t-fleet", 0, [NewRecord(b"x")])

    assert [0] == asyncio.run(body())


def test_writing_what_is_not_ones_own_breaks_a_rule() -> None:
    async def body() -> None:
        await (await worker()).append("t-decisions", 0, [NewRecord(b"x")])

    with pytest.raises(InvariantError, match="worker needs Write on t-decisions"):
        asyncio.run(body())


def test_reading_what_one_only_writes_breaks_a_rule() -> None:
    async def body() -> None:
        await (await worker()).read("t-fleet", 0, 0)

    with pytest.raises(InvariantError, match="worker needs Read on t-fleet"):
        asyncio.run(body())
