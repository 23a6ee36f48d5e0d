"""Services that stay after their run's end, for supervisors that start again what exits."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from probes import free_port, get, hindrance, up
from ring import Ring, config, table

from cos2p.errors import ExitCode
from cos2p.log import messages as m
from cos2p.log.topics import DECISIONS

pytestmark = pytest.mark.processes


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def ring(tmp_path: Path, port: int) -> Iterator[Ring]:
    def settings(role: str) -> dict[str, str]:
        return {"stay": "true", "metrics_port": str(port)} if role == "planner" else {}

    made = Ring(f"sqlite:{tmp_path}/run", "stay", tmp_path, access=settings)
    yield made
    made.stop_all()


def test_a_service_that_stays_waits_for_its_topics_and_is_idle_after_the_end(
    ring: Ring, port: int
) -> None:
    async def body() -> None:
        await ring.bus.create_topics([])
        ring.start("planner")  # before there are its topics
        await up(port)
        await ring.request(config(versions=3), table())
        ring.start("aggregator")
        ring.start("worker", 0)
        ring.start("worker", 1)
        await ring.wait_for_end()
        planner = ring.processes["planner-0"]
        assert ExitCode.OK == await asyncio.to_thread(ring.processes["aggregator-0"].wait, 30)

        assert (200, "ok\n") == await get(port, "/readyz")
        assert planner.poll() is None
        planner.send_signal(signal.SIGTERM)
        assert ExitCode.OK == await asyncio.to_thread(planner.wait, 30)
        await ring.bus.close()

    asyncio.run(body())


def test_one_whose_run_has_failed_says_so_to_its_probes_and_in_its_exit_code(
    ring: Ring, port: int
) -> None:
    async def body() -> None:
        await ring.request(config(versions=1000, stall_after_s=3.0), table())
        ring.start("planner")
        ring.start("aggregator")
        await ring.wait_for(DECISIONS, lambda x: isinstance(x, m.RunEnded))

        planner = ring.processes["planner-0"]
        assert "stalled at version 0" in await hindrance(port)
        assert planner.poll() is None
        planner.send_signal(signal.SIGTERM)
        assert ExitCode.RUN_FAILED == await asyncio.to_thread(planner.wait, 30)
        await ring.bus.close()

    asyncio.run(body())
