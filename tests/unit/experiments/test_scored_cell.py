"""Importance in whole cells: real scores and norms reach the planner and change what it plans."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from cos2p.log import codec
from cos2p.log import messages as m
from cos2p.log.topics import DECISIONS, FLEET
from cos2p.service.logs import Log
from cos2p_experiments.cell import Cell
from cos2p_experiments.fleets import Scale
from cos2p_experiments.spec import CellSpec
from cos2p_sim.loop import run_virtual

SHORT = CellSpec(
    suite="test",
    task="digits",
    setting="skewed",
    policy="ours",
    base_policy="co-s2p",
    seed=3,
    alpha=0.3,
    horizon_s=1.0,
    evaluate_every_s=10.0,
    evaluate_count=50,
    scale=Scale(step_s=0.05, transfer_steps=1.0),
)


class Notes:
    """A logger that keeps the names of events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def bind(self, **_: object) -> "Notes":
        return self

    def __getattr__(self, level: str) -> Any:
        return lambda event, **_: self.events.append(event)


@dataclass(frozen=True)
class Outcome:
    """What a cell said."""

    events: list[str]
    reports: list[m.Report]
    plans: list[tuple[str, tuple[int, ...]]]


def ran(importance: str) -> Outcome:
    run: Mapping[str, Any] = {
        "local": {"steps": 2, "batch_size": 8},
        "rounds": {"update_count": 3},
        "plans": {"importance": importance, "hold_plans": 1},
    }
    notes = Notes()
    cell = Cell(replace(SHORT, run=run), cast(Log, notes))
    run_virtual(cell.run())
    fleet, decisions = (
        [codec.decode(record) for record in cell.bus.everything(topic)]
        for topic in (FLEET, DECISIONS)
    )
    return Outcome(
        notes.events,
        [x for x in fleet if isinstance(x, m.Report)],
        [(x.plan.worker_id, x.plan.trained) for x in decisions if isinstance(x, m.PlanIssued)],
    )


@pytest.fixture(scope="module")
def rotating() -> Outcome:
    return ran("none")


def test_every_report_has_scores_by_label_and_the_planner_takes_them_all(rotating: Outcome) -> None:
    scored = ran("gate")

    assert {10} == {r.scores.classes if r.scores else 0 for r in scored.reports}
    assert "plan_reported" in scored.events
    assert "scores_refused" not in scored.events
    assert rotating.plans != scored.plans
    assert not any(r.scores for r in rotating.reports)


def test_magnitude_needs_no_scores_and_changes_plans_too(rotating: Outcome) -> None:
    weighed = ran("magnitude")

    assert not any(r.scores for r in weighed.reports)
    assert rotating.plans != weighed.plans
