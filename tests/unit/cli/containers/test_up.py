"""`up` on an engine of dictionaries: what it does, and how it fails."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cos2p.errors import BudgetError, ExitCode, RunExistsError, RunFailedError, SettingsError
from cos2p_cli.supervisor import ChildError

ALL = ["r1-kafka", "r1-init", "r1-planner", "r1-aggregator-0", "r1-evaluator", "r1-worker-orin-0"]


def go(ring: Any, **chosen: Any) -> Any:
    return asyncio.run(ring.up(**{"workers": "orin=1", **chosen}))


def test_a_ring_comes_up_from_nothing_kafka_first_and_workers_last(ring: Any) -> None:
    result = go(ring)

    assert ALL == ring.engine.started
    assert "running" == result.run.phase
    assert "r1-init" not in ring.engine.there


def test_asked_again_nothing_is_touched(ring: Any) -> None:
    go(ring)
    ring.engine.started.clear()

    result = go(ring, workers=None)

    assert [] == ring.engine.started
    assert {"kept"} == {c.verb for c in result.changes}
    assert "r1-worker-orin-0" in {c.name for c in result.changes}


def test_it_scales_up_and_down(ring: Any) -> None:
    go(ring)

    go(ring, workers="orin=2")
    assert "r1-worker-orin-1" in ring.engine.there

    go(ring, workers="orin=1")
    assert "r1-worker-orin-1" not in ring.engine.there
    assert ["r1-worker-orin-1"] == ring.engine.ended


def test_it_goes_on_with_a_run_that_is_there(ring: Any) -> None:
    go(ring)
    for name in list(ring.engine.there):
        ring.engine.remove("container", name)
    ring.engine.started.clear()
    ring._spoke.clear()

    go(ring)

    assert "r1-init" not in ring.engine.started
    assert "r1-worker-orin-0" in ring.engine.started


def test_a_run_that_has_ended_is_told_and_nobody_is_started_for_it(ring: Any) -> None:
    asyncio.run(ring.logged.whole())

    result = go(ring)

    assert ["r1-kafka"] == ring.engine.started
    assert "has ended at version 4 (target)" in result.next_steps()[0]


def test_a_missing_image_is_named_with_the_command_that_builds_it(ring: Any) -> None:
    del ring.engine.images["co-s2p-worker:1"]

    with pytest.raises(SettingsError, match=r"--target worker -t co-s2p-worker:1 \."):
        go(ring)
    assert {} == ring.engine.there


@pytest.mark.parametrize("kind", ["container", "network", "volume"])
def test_a_name_that_somebody_else_has_is_left_alone(ring: Any, kind: str) -> None:
    name = {"container": "r1-planner", "network": "r1", "volume": "r1-kafka"}[kind]
    ring.engine.others[kind, name] = {}

    with pytest.raises(SettingsError, match=f"{kind} {name} exists already"):
        go(ring)
    assert [] == ring.engine.started


def test_a_port_in_use_ends_before_anything_is_made(ring: Any) -> None:
    ring.engine.ports_taken = {9092}

    with pytest.raises(SettingsError, match="9092 is in use"):
        go(ring, port=9092)
    assert {} == ring.engine.others


def test_another_task_than_the_runs_is_refused(ring: Any) -> None:
    go(ring)

    with pytest.raises(RunExistsError, match="trains a:b, not digits"):
        go(ring, task="digits")


def test_the_parts_of_the_data_are_remembered_and_cannot_change(ring: Any) -> None:
    go(ring, parts=3)

    assert 3 == go(ring, workers=None).site.parts
    with pytest.raises(SettingsError, match="cut into 3 parts"):
        go(ring, parts=4)


def test_a_bad_run_file_ends_before_anything_is_made(ring: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[rounds]\nversoins = 3\n")

    with pytest.raises(SettingsError, match="versoins"):
        go(ring, config=file)
    assert {} == ring.engine.others


def test_what_init_says_is_what_is_told(ring: Any) -> None:
    ring.mute = {"r1-init"}
    ring.engine.logs["r1-init"] = "cos2p: there is no task 'digist'\n"
    ring.trouble = lambda: ring.engine.put("r1-init", status="exited", exit_code=2)

    with pytest.raises(ChildError, match=r"^there is no task 'digist'$") as caught:
        go(ring)
    assert ExitCode.USAGE == caught.value.exit_code
    assert "r1-init" not in ring.engine.there


def test_who_does_not_come_up_in_time_is_named_with_its_last_word(ring: Any) -> None:
    ring.mute = {"r1-worker-orin-0"}
    ring.engine.logs["r1-worker-orin-0"] = "still loading\n"

    with pytest.raises(RunFailedError, match=r"r1-worker-orin-0; .*still loading"):
        go(ring, timeout_s=20.0)


def test_a_worker_that_keeps_dying_is_told_with_its_reason(ring: Any) -> None:
    worker = "r1-worker-orin-0"
    ring.mute = {worker}
    ring.engine.logs[worker] = "worker: 1 MB is below the smallest submodel\n"

    def trouble() -> None:
        if worker in ring.engine.there:
            ring.engine.put(worker, restarts=3, exit_code=2, status="restarting")

    ring.trouble = trouble

    with pytest.raises(ChildError, match="below the smallest submodel"):
        go(ring)


def test_a_worker_that_its_limit_kills_is_told_as_that(ring: Any) -> None:
    worker = "r1-worker-orin-0"
    ring.mute = {worker}

    def trouble() -> None:
        if worker in ring.engine.there:
            ring.engine.put(worker, restarts=3, out_of_memory=True, status="restarting")

    ring.trouble = trouble

    with pytest.raises(BudgetError, match="killed by its memory limit"):
        go(ring)


def test_the_document_names_every_container_and_what_was_done(ring: Any) -> None:
    shown = go(ring).plain()

    assert "kafka://127.0.0.1:50000" == shown["bus"]
    assert {"r1-kafka": "created", "r1-worker-orin-0": "created"}.items() <= {
        c["name"]: c["did"] for c in shown["containers"]
    }.items()
