"""Two sites that took one prefix: what is meant for one run takes no part in another."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
from ring import Ring, config, table

from cos2p.errors import ExitCode
from cos2p.log import messages as m
from cos2p.log.topics import MODELS

pytestmark = pytest.mark.processes


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    made = Ring(f"sqlite:{tmp_path}/run", "shared", tmp_path)
    yield made
    made.stop_all()


def test_no_role_joins_a_run_of_another_name(ring: Ring, tmp_path: Path) -> None:
    environ = {"bus": ring.bus_url, "prefix": ring.prefix, "run_id": "mine"}

    async def body() -> None:
        await ring.request(config(versions=1000), table())
        ring.start("planner")
        ring.start("aggregator")
        await ring.wait_for(MODELS, lambda x: isinstance(x, m.RunOpened))
        for role in ("planner", "aggregator", "worker"):
            process = programs.start(role, cwd=tmp_path, environ=environ)
            code, _, stderr = await asyncio.to_thread(programs.end_of, process)
            assert ExitCode.USAGE == code, stderr
            assert "the run at prefix 'shared' is 'test', not 'mine' (COS2P_RUN_ID)" in stderr
        await ring.bus.close()

    asyncio.run(body())
