"""Metrics and readiness of real processes in mid-run."""

import asyncio
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from ring import Ring, config, table

from cos2p import messages as m
from cos2p.topics import DECISIONS

pytestmark = pytest.mark.processes


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def ports() -> dict[str, int]:
    return {"planner": free_port(), "aggregator": free_port()}


@pytest.fixture
def ring(tmp_path: Path, ports: dict[str, int]) -> Iterator[Ring]:
    def settings(role: str) -> dict[str, str]:
        return {"metrics_port": str(ports[role])} if role in ports else {}

    made = Ring(f"sqlite:{tmp_path}/run", "metrics", tmp_path, access=settings)
    yield made
    made.stop_all()


async def get(port: int, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        session.get(path) as answer,
    ):
        return answer.status, await answer.text()


async def hindrance(port: int) -> str:
    """Why a service is not ready, once it is not."""
    async with asyncio.timeout(40):
        for pause_s in itertools.repeat(0.2):
            status, text = await get(port, "/readyz")
            if status == 503:
                return text
            await asyncio.sleep(pause_s)
    raise AssertionError("unreachable")


def test_a_run_shows_its_devices_and_turns_unready_by_name_when_it_stalls(
    ring: Ring, ports: dict[str, int]
) -> None:
    async def body() -> None:
        await ring.request(config(versions=1000, stall_after_s=20.0), table())
        ring.start_all(worker_count=2)
        await ring.wait_for(DECISIONS, lambda x: isinstance(x, m.RoundClosed), count=3)

        assert (200, "ok\n") == await get(ports["planner"], "/readyz")
        _, shown = await get(ports["planner"], "/metrics")
        assert 'cos2p_device_plans_total{device_class="default",outcome="accepted"' in shown
        assert "cos2p_coverage_block_updates" in shown
        _, shown = await get(ports["aggregator"], "/metrics")
        assert 'cos2p_bus_bytes_total{direction="out",topic="submodels"}' in shown

        ring.kill("worker-0")
        ring.kill("worker-1")
        assert "worker-0" in await hindrance(ports["planner"])
        assert (200, "ok\n") == await get(ports["planner"], "/healthz")
        await ring.bus.close()

    asyncio.run(body())
