"""A run of real processes in which every word is signed, and one device speaks for another."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from ring import Ring, config, table

from cos2p.clock import SystemClock
from cos2p.log import messages as m
from cos2p.log.mailbox import Outbox
from cos2p.log.topics import DEAD_LETTERS, DECISIONS, FLEET
from cos2p.service.open_bus import open_bus
from cos2p.settings import BusSettings
from cos2p.signing.keys import new_key, register_line

pytestmark = pytest.mark.processes

SIGNERS = {"operator": "operator", "worker-0": "worker", "worker-1": "worker"}


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    lines = []
    for name, role in SIGNERS.items():
        key = new_key(tmp_path / f"{name}.pem")
        lines.append(register_line("operator" if role == "operator" else "worker", name, key))
    (tmp_path / "register").write_text("\n".join(lines))

    def settings(who: str) -> dict[str, str]:
        if who == "planner":
            return {"keys_file": str(tmp_path / "register")}
        return {"signing_key_file": str(tmp_path / f"{who}.pem")} if who in SIGNERS else {}

    made = Ring(f"sqlite:{tmp_path}/run", "signed", tmp_path, access=settings)
    yield made
    made.stop_all()


async def speak_for_another(ring: Ring, key_file: Path) -> None:
    """worker-0 signs, as well as it can, that worker-1 goes, and that the run shall stop."""
    settings = BusSettings(bus=ring.bus_url, prefix=ring.prefix, signing_key_file=key_file)
    bus = open_bus(settings, SystemClock())
    await Outbox(bus, ring.prefix, FLEET).send(
        m.Goodbye(run_id="test", worker_id="worker-1", incarnation=1 << 50),
        m.StopRequested(run_id="test", reason="sabotage"),
    )
    await bus.close()


def test_a_signed_run_ends_as_planned_whatever_one_device_says_for_others(
    ring: Ring, tmp_path: Path
) -> None:
    async def body() -> None:
        await ring.request(config(), table())
        ring.start_all(worker_count=2)
        await ring.wait_for(DECISIONS, lambda x: isinstance(x, m.RoundClosed))
        await speak_for_another(ring, tmp_path / "worker-0.pem")
        ended = await ring.wait_for_end()

        assert "target" == ended.reason, ended.detail
        refused = [x.reason for x in await ring.log(DEAD_LETTERS) if isinstance(x, m.DeadLetter)]
        assert [
            "Goodbye of worker-1: sent by worker-0 in another's name",
            "StopRequested of an operator: worker-0 is a worker, which must not send that",
        ] == refused
        assert "record_refused" in ring.errors()
        await ring.check_history()
        await ring.bus.close()

    asyncio.run(body())


def test_a_worker_without_a_key_takes_no_part(ring: Ring, tmp_path: Path) -> None:
    async def body() -> None:
        await ring.request(config(), table())
        ring.start_all(worker_count=3)
        ended = await ring.wait_for_end()

        assert "target" == ended.reason, ended.detail
        plans = [d.plan for d in await ring.log(DECISIONS) if isinstance(d, m.PlanIssued)]
        assert {"worker-0", "worker-1"} == {plan.worker_id for plan in plans}
        refused = [x.reason for x in await ring.log(DEAD_LETTERS) if isinstance(x, m.DeadLetter)]
        assert "Hello of worker-2: not signed" in refused
        await ring.bus.close()

    asyncio.run(body())
