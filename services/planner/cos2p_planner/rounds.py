"""The open round, read off the decision log's fold and the fleet: what the closing rules look at.

Invariant: nothing is decided here.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from cos2p import messages as m
from cos2p_planner.closings import OpenRound, Standing
from cos2p_planner.device import Device
from cos2p_planner.floor import devices_bound, planned_coverage
from cos2p_planner.ledger import Ledger
from cos2p_planner.pace import Pace
from cos2p_planner.run import Run
from cos2p_planner.weights import Arrival


def open_round(ledger: Ledger, run: Run, able: Sequence[Device], now: float) -> OpenRound:
    """The open version, with the devices that can train."""
    whole_s = [d.whole_s for d in able] if run.config.local.align_steps else []
    pace = Pace.of([d.expected_s for d in able], whole_s, run.intervals, run.config.rounds)
    return OpenRound(
        now=now,
        version=ledger.version,
        opened_s=run.opened_s,
        update_count=run.update_count,
        open_count=len(ledger.open),
        able_count=len(able),
        pace=pace,
        covered=run.covered,
        arrivals=run.arrivals,
        hurried_s=_hurried_s(ledger, run),
    )


def _hurried_s(ledger: Ledger, run: Run) -> float:
    """When the last worker was hurried whose update still counts, should it come in time."""
    oldest = ledger.version - run.config.rounds.staleness_max
    return max(
        (at_s for p, at_s in ledger.hurried.items() if ledger.open[p].base_version >= oldest),
        default=-math.inf,
    )


def standing(device: Device, ledger: Ledger) -> Standing:
    """An idle device, as a closing rule sees it."""
    last = ledger.newest.get(device.worker_id)
    if last is None:
        return Standing(device.joined_version)
    return Standing(device.joined_version, last.base_version, last.group)


def arrival_of(report: m.Report, staleness: int, ledger: Ledger) -> Arrival:
    """An update that is about to be admitted, as it is weighed."""
    mean_count = (ledger.accepted_count + 1) / len(ledger.newest)
    own_count = ledger.outcomes_of(report.worker_id)[m.Outcome.ACCEPTED] + 1
    return Arrival(report.sample_count, report.steps_done, staleness, own_count, mean_count)


def figures(run: Run, able: Sequence[Device], state: OpenRound) -> dict[str, Any]:
    """What RoundClosed tells of a version that closes now."""
    least, bound = run.coverage()
    return {
        "version": state.version + 1,
        "update_count": state.update_count,
        "waited_s": max(0.0, state.now - state.opened_s),
        "coverage_min": least,
        "coverage_planned": int(planned_coverage(run, able).min(initial=len(able))),
        "coverage_bound": bound,
        "devices_bound": devices_bound(run, able),
        "staleness_mean": sum(run.open_staleness) / run.update_count,
    }


def to_hurry(ledger: Ledger, run: Run) -> Iterator[tuple[m.Plan, str]]:
    """Open plans whose updates would be STALE after one version more, each once, and why."""
    rounds = run.config.rounds
    if not rounds.hurry:
        return
    for plan in list(ledger.open.values()):
        age = ledger.version - plan.base_version
        if age >= max(1, rounds.staleness_max) and plan.plan_id not in ledger.hurried:
            yield plan, f"its base is {age} versions old; the limit is {rounds.staleness_max}"
