"""Who has come up, and why somebody keeps dying."""

from typing import Any

import pytest
from fed import Fed

from cos2p.errors import BudgetError, BusError, RunFailedError, SettingsError
from cos2p_cli.containers.engine import Found
from cos2p_cli.containers.readiness import awaited, dying, last_words, why_dead
from cos2p_cli.containers.specs import CLASS, MEMORY, ROLE


def found(name: str, role: str, **state: Any) -> Found:
    return Found(name, {ROLE: role}, "id", **{"status": "running", "started_s": 100.0, **state})


RING = [
    found("p", "planner"),
    found("a", "aggregator"),
    found("w0", "worker"),
    found("e", "evaluator"),
]


def heard(script: Any, at_s: float) -> Fed:
    view = Fed()
    s = script
    for message in [s.requested(), *s.started(), s.opened(), s.hello("w0")]:
        view.apply(message, at_s)
    return view


def test_who_has_said_nothing_is_waited_for() -> None:
    assert ["p", "a", "w0"] == awaited(Fed(), RING)


def test_a_ring_whose_roles_have_spoken_is_ready(script: Any) -> None:
    assert [] == awaited(heard(script, 101.0), RING)


def test_what_was_said_before_a_containers_start_does_not_count(script: Any) -> None:
    assert ["p", "w0"] == awaited(heard(script, 50.0), RING)


def test_a_container_that_does_not_run_is_not_ready(script: Any) -> None:
    ring = [found("w0", "worker", status="restarting")]

    assert ["w0"] == awaited(heard(script, 101.0), ring)


def test_a_second_start_is_no_reason_to_give_up() -> None:
    assert dying([found("w", "worker", restarts=2)], {"w": 0}) is None


def test_restarts_of_former_days_do_not_count() -> None:
    assert dying([found("w", "worker", restarts=7)], {"w": 6}) is None


@pytest.mark.parametrize("state", [{"restarts": 3}, {"status": "exited", "exit_code": 2}])
def test_who_dies_again_and_again_or_for_good_is_found(state: dict[str, Any]) -> None:
    assert dying([found("w", "worker", **state)], {"w": 0}) is not None


def test_who_left_in_peace_is_not_dying() -> None:
    assert dying([found("w", "worker", status="exited", exit_code=0)], {}) is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [(2, SettingsError), (3, BusError), (1, RunFailedError), (137, RunFailedError)],
)
def test_a_death_is_told_in_its_own_last_words_with_its_own_exit_code(
    code: int, kind: type[Exception]
) -> None:
    log = '{"event": "service_started"}\nworker: 3 MB is below the smallest submodel\n'

    error = why_dead(found("w", "worker", exit_code=code), log)

    assert isinstance(error, kind)
    assert "3 MB is below the smallest submodel" in str(error)
    assert "docker logs w" in str(error)


def test_a_death_by_the_memory_limit_names_limit_and_class() -> None:
    labels = {ROLE: "worker", CLASS: "tiny", MEMORY: "600000000"}

    error = why_dead(Found("w", labels, "id", "restarting", 137, out_of_memory=True), "")

    assert isinstance(error, BudgetError)
    assert "memory limit of 600 MB" in str(error)
    assert "tiny=N:MEMORY:CPUS" in str(error)


def test_the_last_words_of_a_silent_process_say_so() -> None:
    assert "it said nothing" == last_words("\n")
