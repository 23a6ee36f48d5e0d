"""The open round, read off the decision log's fold and the fleet: what the closing rules look at.

Invariant: nothing is decided here.
"""

from collections.abc import Sequence
from typing import Any

from cos2p_planner.rules.closing import OpenRound, Standing
from cos2p_planner.rules.coverage_floor import devices_bound, planned_coverage
from cos2p_planner.rules.pace import Pace
from cos2p_planner.state.device import Device
from cos2p_planner.state.ledger import Ledger
from cos2p_planner.state.run import Run


def open_round(ledger: Ledger, run: Run, able: Sequence[Device], now: float) -> OpenRound:
    """The open version, with the devices that can train."""
    whole_s = [d.whole_s for d in able] if run.config.local.align_steps else []
    pace = Pace.of([d.expected_s for d in able], whole_s, run.intervals)
    return OpenRound(
        now=now,
        version=ledger.version,
        opened_s=run.opened_s,
        update_count=run.update_count,
        open_count=len(ledger.open),
        able_count=len(able),
        pace=pace,
        arrivals=run.arrivals,
    )


def standing(device: Device, ledger: Ledger) -> Standing:
    """An idle device, as a closing rule sees it."""
    last = ledger.newest.get(device.worker_id)
    if last is None:
        return Standing(device.joined_version)
    return Standing(device.joined_version, last.base_version, last.group)


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
