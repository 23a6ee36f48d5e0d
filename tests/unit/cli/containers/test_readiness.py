"""Who has come up, and why somebody keeps failing."""

from typing import Any

import pytest
from fed import Fed

from cos2p.errors import BudgetError, ExitCode
from cos2p_cli.containers.engine import ExistingContainer
from cos2p_cli.containers.readiness import error_of, failing, last_line, not_ready
from cos2p_cli.containers.specs import CLASS, MEMORY, ROLE


def found(name: str, role: str, **state: Any) -> ExistingContainer:
    return ExistingContainer(
        name, {ROLE: role}, "id", **{"status": "running", "started_s": 100.0, **state}
    )


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
    assert ["p", "a", "w0"] == not_ready(Fed(), RING)


def test_a_ring_whose_roles_have_spoken_is_ready(script: Any) -> None:
    assert [] == not_ready(heard(script, 101.0), RING)


def test_what_was_said_before_a_containers_start_does_not_count(script: Any) -> None:
    assert ["p", "w0"] == not_ready(heard(script, 50.0), RING)


def test_a_container_that_does_not_run_is_not_ready(script: Any) -> None:
    ring = [found("w0", "worker", status="restarting")]

    assert ["w0"] == not_ready(heard(script, 101.0), ring)


def test_a_second_start_is_no_reason_to_give_up() -> None:
    assert failing([found("w", "worker", restarts=2)], {"w": 0}) is None


def test_restarts_of_former_days_do_not_count() -> None:
    assert failing([found("w", "worker", restarts=7)], {"w": 6}) is None


@pytest.mark.parametrize("state", [{"restarts": 3}, {"status": "exited", "exit_code": 2}])
def test_who_dies_again_and_again_or_for_good_is_found(state: dict[str, Any]) -> None:
    assert failing([found("w", "worker", **state)], {"w": 0}) is not None


def test_who_left_in_peace_is_not_dying() -> None:
    assert failing([found("w", "worker", status="exited", exit_code=0)], {}) is None


@pytest.mark.parametrize(
    ("code", "ends_with"),
    [(2, ExitCode.USAGE), (3, ExitCode.BUS), (1, ExitCode.RUN_FAILED), (137, ExitCode.RUN_FAILED)],
)
def test_a_failed_container_is_reported_by_its_own_error_line_and_exit_code(
    code: int, ends_with: ExitCode
) -> None:
    log = '{"event": "service_started"}\nworker: 3 MB is below the smallest submodel\n'

    error = error_of(found("w", "worker", exit_code=code), log)

    assert ends_with == error.exit_code
    assert "3 MB is below the smallest submodel" in str(error)
    assert "docker logs w" in str(error)


def test_a_death_by_the_memory_limit_names_limit_and_class() -> None:
    labels = {ROLE: "worker", CLASS: "tiny", MEMORY: "600000000"}

    error = error_of(
        ExistingContainer("w", labels, "id", "restarting", 137, out_of_memory=True), ""
    )

    assert isinstance(error, BudgetError)
    assert "memory limit of 600 MB" in str(error)
    assert "tiny=N:MEMORY:CPUS" in str(error)


def test_an_empty_log_is_reported_as_empty() -> None:
    assert "its log is empty" == last_line("\n")


def test_a_log_without_a_plain_line_gives_its_last_line() -> None:
    assert '{"event": "b"}' == last_line('{"event": "a"}\n{"event": "b"}\n')
