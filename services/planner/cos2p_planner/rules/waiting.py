"""What a run waits for: by name when it stalls, and for how long for a plan.

When a run counts as stalled is `liveness.stall_after_s`, in `core.py`.
"""

from cos2p.log import messages as m
from cos2p_planner.rules.coverage_floor import out_of_reach
from cos2p_planner.state.device import Device
from cos2p_planner.state.fleet import Fleet
from cos2p_planner.state.ledger import Ledger
from cos2p_planner.state.publications import Publications

NAMES_MAX = 10
OVERDUE = 4.0
"""A plan too old to count is given up after this many times its device's usual duration. A slow
device's report is worth waiting for even then, because its pace sets the next plan's steps."""


def waiting_for(ledger: Ledger, fleet: Fleet, publications: Publications, now: float) -> str:
    """Name, in one line, the parts and devices that the next version is waiting for."""
    if ledger.run is None:
        return "no run was requested"
    liveness = ledger.run.config.liveness
    causes = [publications.missing(ledger.version)]
    if not len(fleet):
        causes.append("no device has sent a Hello")
    elif not ledger.plan_count:
        there = fleet.present(now, liveness.lost_after_s)
        if there < liveness.min_workers:
            causes.append(f"{there} of the {liveness.min_workers} required devices are present")
    named = [
        f"{d.worker_id} ({text})"
        for d in fleet
        if (text := _why_waiting(d, ledger, publications, now - liveness.lost_after_s, now))
    ]
    if named:
        more = f" and {len(named) - NAMES_MAX} more" if len(named) > NAMES_MAX else ""
        causes.append("waiting for " + ", ".join(named[:NAMES_MAX]) + more)
    trainable_now = [d for d in fleet if d.can_train(now, liveness.lost_after_s)]
    causes.append(out_of_reach(ledger.run, trainable_now))
    return "; ".join(c for c in causes if c)[:2000] or "waiting for updates"


def _why_waiting(
    device: Device, ledger: Ledger, publications: Publications, lost_s: float, now: float
) -> str:
    """Return why a device brings no update; a device last heard before `lost_s` is lost."""
    if device.gone is not None:
        return f"left: {device.gone}"
    if device.heard_s < lost_s:
        return f"silent {now - device.heard_s:.0f} s"
    if reason := device.excluded or device.objection:
        return reason
    plan_id = ledger.open_of.get(device.worker_id)
    if plan_id is None:
        return f"{device.failures} failures in a row" if device.failures else device.no_plan_reason
    age = f"{plan_id} for {now - ledger.newest[device.worker_id].issued_s:.0f} s"
    if plan_id not in publications.dispatched_s:
        return f"{age}, its weights were never dispatched"
    return f"{age}, {device.state}"


def why_expired(
    plan: m.Plan,
    ledger: Ledger,
    device: Device | None,
    heard_s: float,
    publications: Publications,
    now: float,
) -> str:
    """Return why no report of an open plan can be expected any more; empty while one can.

    The device was heard last at `heard_s`; it is None where it has not sent this planner a Hello.
    """
    assert ledger.run is not None
    config = ledger.run.config
    patience_s = config.liveness.lost_after_s
    if now - heard_s > patience_s:
        return f"silent for {now - heard_s:.1f} s"
    if device is None:
        return ""
    cut_s = publications.dispatched_s.get(plan.plan_id)
    if cut_s is not None and device.idle_since_s is not None:
        idle_s = now - max(device.idle_since_s, cut_s)
        if idle_s > patience_s:
            return f"the worker has been idle for {idle_s:.1f} s since its weights were there"
    age = ledger.version - plan.base_version
    took_s = now - ledger.newest[plan.worker_id].issued_s
    if age > config.rounds.staleness_max and took_s > max(patience_s, OVERDUE * device.expected_s):
        return f"no report after {took_s:.1f} s, and its base is {age} versions old already"
    return ""
