"""Whether a report, or a request to run, counts. Pure functions.

They check a report's small fields, in one fixed order.

Invariants:
- A report about a plan that is not open, or not the reporter's, ends nothing (DUPLICATE).
- Any other report ends its plan with exactly one outcome.
- No part of a report is believed that the plan, the device's Hello or the unit table contradicts.
- The aggregator checks the payload itself, unit by unit.

`state/fleet.py` counts a device's failed checks, and `core.py` excludes the device.
"""

from dataclasses import dataclass

from cos2p.errors import SettingsError
from cos2p.log import messages as m
from cos2p.log.messages import Outcome
from cos2p.log.run_request import VERSION_0
from cos2p.log.topics import partition_of
from cos2p.model.payload import expected_bytes
from cos2p_planner.state.device import Device
from cos2p_planner.state.ledger import Ledger
from cos2p_planner.state.run import Run


@dataclass(frozen=True)
class ReportAnswer:
    """The outcome of a report, with its reason and staleness."""

    outcome: Outcome
    reason: str = ""
    staleness: int = 0


def judge(
    report: m.Report, ledger: Ledger, run: Run, device: Device | None, updates_topic: str
) -> ReportAnswer:
    """Judge a report; `device` is None where the reporter never sent a Hello."""
    plan = ledger.open.get(report.plan_id)
    if plan is None or plan.worker_id != report.worker_id:
        return ReportAnswer(Outcome.DUPLICATE, _why_not_open(report, ledger, device))
    if report.incarnation != plan.incarnation:
        age = "old" if report.incarnation < plan.incarnation else "unknown"
        return ReportAnswer(
            Outcome.INVALID,
            f"{age} incarnation {report.incarnation}: the plan is for {plan.incarnation}",
        )
    if report.status != "done":
        return ReportAnswer(Outcome.CANCELLED, _why_no_update(report))
    wrong = _wrong_work(report, plan, run, device) or _wrong_blob(report, plan, run, updates_topic)
    if wrong:
        return ReportAnswer(Outcome.INVALID, wrong)
    staleness = ledger.version - plan.base_version
    if staleness > run.config.rounds.staleness_max:
        return ReportAnswer(
            Outcome.STALE,
            f"its base is {staleness} versions old; the limit is {run.config.rounds.staleness_max}",
            staleness,
        )
    return ReportAnswer(Outcome.ACCEPTED, staleness=staleness)


def _why_not_open(report: m.Report, ledger: Ledger, device: Device | None) -> str:
    other = ledger.open.get(report.plan_id)
    if other is not None:
        return f"the plan is {other.worker_id}'s"
    facts = ledger.facts_of(report.plan_id, report.worker_id)
    ended = f"the plan had ended ({facts.outcome})" if facts else "no plan of this name is open"
    if device is not None and report.incarnation < device.incarnation:
        return f"old incarnation {report.incarnation}; {ended}"
    return ended


def _why_no_update(report: m.Report) -> str:
    texts = {"out_of_memory": "out of memory", "abandoned": "abandoned", "failed": "failed"}
    text = texts[report.status]
    return f"{text}: {report.detail}"[:2000] if report.detail else text


def _wrong_work(report: m.Report, plan: m.Plan, run: Run, device: Device | None) -> str:
    if report.steps_done != plan.local_steps:
        return f"{report.steps_done} steps reported of {plan.local_steps} planned"
    if report.sample_count < 1:
        return "no samples"
    known = device.sample_count if device is not None else 0
    if report.sample_count > known:
        return f"{report.sample_count} samples reported, {known} announced"
    return ""


def _wrong_blob(report: m.Report, plan: m.Plan, run: Run, updates_topic: str) -> str:
    blob = report.blob
    if blob is None:
        return "done, but without a delta"
    place = (blob.topic, blob.partition)
    due = (updates_topic, partition_of(plan.worker_id, run.config.partitions))
    if place != due:
        return f"the delta is in {place[0]}[{place[1]}], not in {due[0]}[{due[1]}]"[:2000]
    blob_id = f"{plan.plan_id}.{plan.incarnation}"
    if blob.blob_id != blob_id:
        return f"the delta is named {blob.blob_id!r}, not {blob_id!r}"
    if blob.last_offset - blob.first_offset + 1 < blob.chunk_count:
        return f"{blob.chunk_count} chunks don't fit between the delta's offsets"
    size = expected_bytes(run.table, plan.plan_id, plan.trained)
    if blob.byte_count != size:
        return f"the delta has {blob.byte_count} bytes, its units make {size}"
    return ""


def wrong_request(request: m.RunRequested) -> str:
    """Return why a run can't be started; empty where it can."""
    try:
        table = request.units.table()
    except (SettingsError, ValueError) as error:
        return f"the request's unit table is wrong: {error}"
    size = expected_bytes(table, VERSION_0, range(len(table)))
    if request.checkpoint.byte_count != size:
        return f"version 0 has {request.checkpoint.byte_count} bytes, its units make {size}"
    return ""
