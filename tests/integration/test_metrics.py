"""Metrics and readiness of real processes in mid-run."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from probes import free_port, get, hindrance
from ring import Ring, config, table

from cos2p.log import messages as m
from cos2p.log.topics import DECISIONS

pytestmark = pytest.mark.processes


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
