"""`down`: who leaves when, and what stays."""

import asyncio
from typing import Any

import pytest
from rich.console import Console

from cos2p.errors import SettingsError
from cos2p_cli.containers.down import take_down
from cos2p_cli.containers.steps import StepPrinter


def go(ring: Any, name: str = "r1", **chosen: Any) -> dict[str, Any]:
    with StepPrinter(Console(quiet=True), as_json=True) as steps:
        return asyncio.run(take_down(name, ring.engine, steps, **chosen))


def test_workers_leave_first_and_kafka_last(ring: Any) -> None:
    asyncio.run(ring.up(workers="orin=1"))

    go(ring)

    order = ["r1-evaluator", "r1-worker-orin-0", "r1-planner", "r1-aggregator-0", "r1-kafka"]
    assert order == ring.engine.ended


def test_nothing_is_left_but_the_log(ring: Any) -> None:
    asyncio.run(ring.up(workers="orin=1"))

    result = go(ring)

    assert {} == ring.engine.there
    assert {("volume", "r1-kafka")} == set(ring.engine.others)
    assert ("kept", True) == (result["volume"], result["network"])


def test_the_log_goes_when_it_is_told_to(ring: Any) -> None:
    asyncio.run(ring.up(workers="orin=1"))

    assert "removed" == go(ring, volumes=True)["volume"]
    assert {} == ring.engine.others


def test_where_nothing_is_nothing_is_done(ring: Any) -> None:
    assert {"containers": [], "network": False, "volume": "absent"} == go(ring)


def test_containers_of_another_ring_stay(ring: Any) -> None:
    asyncio.run(ring.up(workers="orin=1"))
    ring.engine.others["network", "r2"] = {"co-s2p.name": "r2"}

    go(ring, "r2")

    assert "r1-planner" in ring.engine.there


def test_a_network_of_somebody_elses_is_left_alone(ring: Any) -> None:
    ring.engine.others["network", "r1"] = {}

    with pytest.raises(SettingsError, match="does not belong to this ring"):
        go(ring)
