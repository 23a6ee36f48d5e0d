"""kill -9 of real processes at several points of a run: it ends, and replays to the same bytes."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ring import Ring, config, table

from cos2p.log import messages as m
from cos2p.log.messages import Message
from cos2p.log.topics import DECISIONS, FLEET, MODELS, Topic

pytestmark = pytest.mark.processes


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    made = Ring(f"sqlite:{tmp_path}/run", "crash", tmp_path)
    yield made
    made.stop_all()


def is_a(kind: type[Message]) -> Callable[[Message], bool]:
    return lambda message: isinstance(message, kind)


async def run_with_a_crash(
    ring: Ring, victim: str, topic: Topic, kind: type[Message], nth: int
) -> None:
    await ring.request(config(), table())
    ring.start_all(worker_count=3)
    await ring.wait_for(topic, is_a(kind), count=nth)
    ring.kill(victim)
    assert not any(isinstance(d, m.RunEnded) for d in await ring.log(DECISIONS))
    role, index = victim.split("-")
    ring.start(role, int(index))
    ended = await ring.wait_for_end()

    assert ended.reason == "target", ended.detail
    assert ended.version == 6
    await ring.check_history()
    await ring.check_replay()
    await ring.bus.close()


LATER = pytest.mark.slow
"""Points that `make test-slow` takes; a point is a whole run of five processes."""
POINTS = [
    (DECISIONS, m.RunStarted, 1),
    pytest.param(DECISIONS, m.PlanIssued, 2, marks=LATER),
    (DECISIONS, m.UpdateAdmitted, 1),
    pytest.param(DECISIONS, m.RoundClosed, 3, marks=LATER),
    pytest.param(MODELS, m.Dispatched, 5, marks=LATER),
    (MODELS, m.VersionPublished, 4),
]


@pytest.mark.parametrize(("topic", "kind", "nth"), POINTS)
def test_a_killed_aggregator_ends_at_the_same_bytes(
    ring: Ring, topic: Topic, kind: type[Message], nth: int
) -> None:
    asyncio.run(run_with_a_crash(ring, "aggregator-0", topic, kind, nth))


@pytest.mark.parametrize(("topic", "kind", "nth"), [*POINTS, (FLEET, m.Report, 4)])
def test_a_killed_planner_decides_nothing_twice(
    ring: Ring, topic: Topic, kind: type[Message], nth: int
) -> None:
    asyncio.run(run_with_a_crash(ring, "planner-0", topic, kind, nth))


@pytest.mark.parametrize(
    ("topic", "kind", "nth"), [(MODELS, m.Dispatched, 2), (FLEET, m.Report, 3), (FLEET, m.Hello, 3)]
)
def test_a_killed_worker_comes_back_as_a_new_incarnation(
    ring: Ring, topic: Topic, kind: type[Message], nth: int
) -> None:
    asyncio.run(run_with_a_crash(ring, "worker-1", topic, kind, nth))


def test_two_shards_survive_the_crash_of_one(ring: Ring) -> None:
    async def body() -> None:
        await ring.request(config(shards=2), table())
        ring.start_all(worker_count=3, shard_count=2)
        await ring.wait_for(DECISIONS, is_a(m.RoundClosed), count=2)
        ring.kill("aggregator-1")
        ring.start("aggregator", 1)
        ended = await ring.wait_for_end()

        assert ended.version == 6
        await ring.check_history()
        await ring.check_replay()
        await ring.bus.close()

    asyncio.run(body())


def test_of_two_planners_the_older_leaves(ring: Ring) -> None:
    async def body() -> None:
        await ring.request(config(versions=60), table())
        ring.start_all(worker_count=3)
        await ring.wait_for(DECISIONS, is_a(m.PlanIssued))
        older = ring.processes["planner-0"]
        ring.start("planner", 1)
        assert await asyncio.to_thread(older.wait, 20) == 7
        ended = await ring.wait_for_end()

        assert ended.version == 60
        await ring.check_history()
        await ring.bus.close()

    asyncio.run(body())


def test_a_run_without_workers_ends_and_says_so(ring: Ring) -> None:
    async def body() -> None:
        await ring.request(config(stall_after_s=2.0), table())
        ring.start_all(worker_count=0)
        ended = await ring.wait_for_end()

        assert ended.reason == "stalled"
        assert "no device" in ended.detail
        assert ring.processes["planner-0"].wait(10) == 8
        await ring.bus.close()

    asyncio.run(body())
