"""A ring's log and its roles' lives, without roles."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from cos2p.clock import LoopClock
from cos2p.log.codec import encode
from cos2p.log.messages import EpochStarted
from cos2p.log.topics import specs
from cos2p_sim.loop import run_virtual
from cos2p_sim.ring import RingLog, live_together


def fingerprint(**changes: Any) -> str:
    async def body() -> str:
        log = RingLog(LoopClock(), "t")
        await log.create_topics(specs("t", 1))
        fields: dict[str, Any] = {"epoch": 1, "planner_id": "p", "fleet_offset": 0, "at_s": 0.0}
        record = encode(EpochStarted(run_id="r", **(fields | changes)))
        await log.append("t-decisions", 0, [record])
        return log.fingerprint()

    return run_virtual(body())


def test_a_fingerprint_depends_on_the_records_but_not_on_the_planners_name() -> None:
    assert fingerprint() == fingerprint(planner_id="q")
    assert fingerprint() != fingerprint(epoch=2)


def test_the_first_error_of_a_role_ends_all_lives_and_is_raised() -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            ended.append("waits")

    async def fails() -> None:
        await asyncio.sleep(1)
        raise ValueError("broken")

    async def body(*lives: Coroutine[Any, Any, None]) -> None:
        await live_together(lives)

    with pytest.raises(ValueError, match="broken"):
        run_virtual(body(waits(), fails()))

    assert ["waits"] == ended
