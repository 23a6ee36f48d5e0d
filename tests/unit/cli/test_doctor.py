"""The doctor: each illness by its name, with its exit code."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cos2p.clock import SystemClock
from cos2p.errors import ExitCode
from cos2p.log import messages as m
from cos2p.log.bus import NewRecord, TopicSpec
from cos2p.log.buses.memory import MemoryBus
from cos2p.settings import BusSettings
from cos2p_cli.doctor import Check, checks_of, checks_on_bus


def checked(bus: MemoryBus, *, write: bool = False) -> dict[str, Check]:
    async def body() -> dict[str, Check]:
        settings = BusSettings(prefix="t")
        return {c.name: c async for c in checks_on_bus(bus, settings, SystemClock(), write=write)}

    return asyncio.run(body())


def test_a_finished_run_is_healthy(logged: Any) -> None:
    asyncio.run(logged.whole())

    found = checked(logged.bus, write=True)

    assert {"ok"} == {c.level for c in found.values()}
    assert "finished at version 4" in found["run"].text


def test_missing_topics_are_named_with_the_command_that_makes_them(logged: Any) -> None:
    found = checked(logged.bus)

    assert "fail" == found["topics"].level
    assert ExitCode.BUS == found["topics"].code
    assert "topics create" in found["topics"].advice


def test_a_topic_with_another_partition_count_is_named(logged: Any) -> None:
    async def body() -> None:
        await logged.bus.create_topics([TopicSpec("t-fleet", 3, 1000)])
        await logged.create_but("t-fleet")

    asyncio.run(body())

    found = checked(logged.bus)

    assert "t-fleet has 3 partitions, the run needs 1" in found["topics"].text


def test_records_that_cannot_be_read_are_a_failure_with_the_code_for_data(logged: Any) -> None:
    async def body() -> None:
        await logged.whole()
        await logged.bus.append("t-decisions", 0, [NewRecord(b"junk")])

    asyncio.run(body())

    found = checked(logged.bus)

    assert ("fail", ExitCode.DATA) == (found["messages"].level, found["messages"].code)


def test_silent_roles_of_a_running_run_are_named(logged: Any) -> None:
    async def body() -> None:
        await logged.create()
        await logged.append(logged.script.requested())

    asyncio.run(body())

    found = checked(logged.bus)

    assert ("fail", "fail") == (found["planner"].level, found["aggregator"].level)
    assert "start cos2p-planner" in found["planner"].advice
    assert "warn" == found["workers"].level


def test_a_device_that_gets_no_plans_is_named_with_the_reason(logged: Any) -> None:
    async def body() -> None:
        s = logged.script
        await logged.create()
        await logged.append(s.requested(), *s.started(), s.opened(), s.hello("w0"), s.hello("w1"))
        stamp = {"run_id": "r1", "epoch": 1, "fleet_offset": 0, "at_s": 0.0}
        excluded = stamp | {"worker_id": "w1", "reason": "it has no samples"}
        await logged.append(m.DeviceExcluded.model_validate(excluded))

    asyncio.run(body())

    workers = checked(logged.bus)["workers"]

    assert "warn" == workers.level
    assert "1 of 2 workers excluded: w1 (it has no samples)" == workers.text


def test_the_doctor_writes_nothing_unless_asked(logged: Any) -> None:
    async def end() -> int:
        return int((await logged.bus.end_offsets("t-dead-letters"))[0].next)

    asyncio.run(logged.whole())
    checked(logged.bus)
    assert 0 == asyncio.run(end())

    checked(logged.bus, write=True)
    assert 1 == asyncio.run(end())
    assert "no dead letters" == checked(logged.bus)["letters"].text


def test_a_folder_that_is_not_there_ends_the_examination(tmp_path: Path) -> None:
    async def body() -> list[Check]:
        settings = BusSettings(bus=f"sqlite:{tmp_path}/none")
        return [c async for c in checks_of(settings, SystemClock())]

    found = asyncio.run(body())

    assert ("storage", "fail") == (found[-1].name, found[-1].level)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["programs", "torch", "machine"])
def test_the_machine_is_described(tmp_path: Path, name: str) -> None:
    async def body() -> list[Check]:
        settings = BusSettings(bus=f"sqlite:{tmp_path}/none")
        return [c async for c in checks_of(settings, SystemClock())]

    assert name in [c.name for c in asyncio.run(body())]
