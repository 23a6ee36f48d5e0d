"""The invariants of a run, one function each, checked at every record before it is folded.

Each function takes the history so far and the next record's message. It yields each fault of that
record. `Checker` raises the first fault as an error that names the invariant.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from blake3 import blake3

from cos2p.log import messages as m
from cos2p.log.fence import EpochFence
from cos2p.log.messages import Outcome
from cos2p.log.topics import DECISIONS, FLEET, MODELS
from cos2p.model.units import UNIT_DIGEST_BYTES
from cos2p_sim.history import History

Faults = Iterator[str]


class InvariantError(Exception):
    """The run has broken a rule. The text names the rule and the record."""


# ---------------------------------------------------------------- fleet


def workers_report_their_own_plans(h: History, x: m.Message) -> Faults:
    """A worker reports only plans that were made for it and for this incarnation of it."""
    if isinstance(x, m.Report):
        plan = h.plans.get(x.plan_id)
        if plan is None:
            yield f"plan {x.plan_id} was never issued"
        elif (plan.worker_id, plan.incarnation) != (x.worker_id, x.incarnation):
            yield f"plan {x.plan_id} was made for another worker, or another life of it"


def done_plans_have_all_their_steps(h: History, x: m.Message) -> Faults:
    """A report of a finished plan covers as many steps as were planned."""
    if isinstance(x, m.Report) and x.status == "done" and x.plan_id in h.plans:
        planned = h.plans[x.plan_id].local_steps
        if x.steps_done != planned:
            yield f"plan {x.plan_id} reports {x.steps_done} steps of {planned}"


# ---------------------------------------------------------------- decisions


def order_of_the_run(h: History, d: m.Decision) -> Faults:
    """A run starts once. After its end come only new epochs and answers to late reports."""
    if isinstance(d, m.EpochStarted):
        return
    if isinstance(d, m.RunStarted):
        if h.started is not None:
            yield "the run starts twice"
    elif h.started is None and not isinstance(d, m.RunEnded):
        yield "a decision before the run started"
    answers_late_report = isinstance(d, m.UpdateRefused) and d.outcome is Outcome.DUPLICATE
    if h.ended is not None and not answers_late_report:
        yield "a decision after the run's end"


def versions_rise_by_one(h: History, d: m.Decision) -> Faults:
    """Versions rise by one, and a version counts the updates that were admitted to it."""
    if isinstance(d, m.RoundClosed):
        if d.version != h.version + 1:
            yield f"version {d.version} follows {h.version}"
        count = len(h.merged.get(h.version + 1, []))
        if d.update_count != count:
            yield f"it counts {d.update_count} updates where {count} were admitted"
    if isinstance(d, m.RunEnded) and d.version != h.version:
        yield f"the run ends at {d.version} after {h.version}"


def plans_are_sound(h: History, d: m.Decision) -> Faults:
    """Plan ids are new, a device has one open plan, and the plan fits model and device."""
    if not isinstance(d, m.PlanIssued):
        return
    plan = d.plan
    if plan.plan_id in h.plans:
        yield f"plan {plan.plan_id} is issued twice"
    busy = h.open_plan_of(plan.worker_id)
    if busy is not None:
        yield f"{plan.worker_id} still has {busy}"
    if plan.base_version != h.version:
        yield f"its base is {plan.base_version} where {h.version} is current"
    hello = h.hellos.get((plan.worker_id, plan.incarnation))
    if hello is None:
        yield f"{plan.worker_id} never sent a Hello in incarnation {plan.incarnation}"
    elif _bound(h) and plan.peak_bytes > hello.profile.memory_bytes:
        yield f"it needs {plan.peak_bytes} bytes; the device has {hello.profile.memory_bytes}"
    units = (*plan.trained, *plan.frozen)
    if not plan.trained or h.table.close(units) != tuple(sorted(units)):
        yield "its units lack cores, or repeat"


def barriers_wait_for_all(h: History, d: m.Decision) -> Faults:
    """With a barrier, a version closes with no plan open and asks each device once.

    The planner asks a device again only if all devices that it asked have failed.
    """
    if h.started is None or h.started.config.rounds.closing != "synchronous":
        return
    if isinstance(d, m.RoundClosed) and h.open_plans:
        yield f"version {d.version} closes, and {sorted(h.open_plans)} are open"
    if isinstance(d, m.PlanIssued):
        asked = (d.plan.worker_id, d.plan.base_version) in h.asked_for
        if asked and h.merged.get(h.version + 1):
            yield f"{d.plan.worker_id} is asked for version {h.version + 1} twice"


def _bound(h: History) -> bool:
    return h.started is not None and h.started.config.plans.enforce_memory


def one_outcome_per_plan(h: History, d: m.Decision) -> Faults:
    """Each plan ends in exactly one outcome. A DUPLICATE concerns a plan that has ended before."""
    if isinstance(d, m.UpdateAdmitted | m.UpdateRefused | m.PlanCancelled):
        repeat = isinstance(d, m.UpdateRefused) and d.outcome is Outcome.DUPLICATE
        plan = h.plans.get(d.plan_id)
        if plan is None and not repeat:
            yield f"plan {d.plan_id} was never issued"
        elif plan is not None and plan.worker_id != d.worker_id and not repeat:
            yield f"plan {d.plan_id} is not that of {d.worker_id}"
        if d.plan_id in h.plan_ends and not repeat:
            yield f"plan {d.plan_id} has ended before: {h.plan_ends[d.plan_id]}"
        if repeat and plan is not None and d.plan_id not in h.plan_ends:
            yield f"plan {d.plan_id} has not ended, so nothing repeats it"
    if isinstance(d, m.RunEnded) and len(h.plan_ends) < len(h.plans):
        yield f"plans without an outcome: {sorted(set(h.plans) - set(h.plan_ends))}"


def one_answer_per_report(h: History, d: m.Decision) -> Faults:
    """A report is answered once over all planners. A restarted planner does not answer it again."""
    again = (getattr(d, "plan_id", ""), d.fleet_offset - 1) in h.answered
    if again and isinstance(d, m.UpdateAdmitted | m.UpdateRefused):
        yield f"the report of {d.plan_id} at fleet record {d.fleet_offset - 1} is answered twice"


def admitted_updates_count_right(h: History, d: m.Decision) -> Faults:
    """A merged update was reported for its plan, is fresh enough, has weight and counts once."""
    if not isinstance(d, m.UpdateAdmitted) or d.plan_id not in h.plans:
        return
    assert h.started is not None
    plan = h.plans[d.plan_id]
    staleness = h.version - plan.base_version
    if d.staleness != staleness:
        yield f"staleness {d.staleness} is recorded, but it is {staleness}"
    if staleness > h.started.config.rounds.staleness_max:
        yield f"staleness {staleness} is over the limit"
    if not (math.isfinite(d.weight) and d.weight > 0 and math.isfinite(d.scale) and d.scale > 0):
        yield f"weight {d.weight} or scale {d.scale} can't be"
    reported = [
        r
        for r in h.reports.get(d.plan_id, [])
        if r.status == "done" and r.blob == d.blob and r.incarnation == plan.incarnation
    ]
    if not reported:
        yield f"no report of plan {d.plan_id} named this blob"
    if any(d.blob == other.blob for updates in h.merged.values() for other in updates):
        yield f"the blob of plan {d.plan_id} is merged twice"


def fleet_is_followed(h: History, d: m.Decision) -> Faults:
    """Each decision names how far it has read `fleet`: never backwards, never beyond the end."""
    if isinstance(d, m.EpochStarted):
        return
    if d.fleet_offset < h.fleet_offset:
        yield f"it goes back in the fleet's records from {h.fleet_offset} to {d.fleet_offset}"
    if d.fleet_offset > h.fleet_next:
        yield f"fleet record {d.fleet_offset - 1} is not there yet"


# ---------------------------------------------------------------- models


def the_run_opens_once(h: History, x: m.Message) -> Faults:
    """RunOpened comes first and once. RunFinished comes last and once, after the RunEnded."""
    if isinstance(x, m.RunOpened):
        if h.opened:
            yield "the run is opened twice"
    # Other shards may write before the one that opens the run.
    elif not h.opened and h.shards == 1:
        yield "a record before the run is opened"
    if isinstance(x, m.RunFinished):
        if h.ended is None or x.version != h.ended.version:
            yield "the run is finished, the planner has not ended it at this version"
        if h.finished is not None:
            yield "the run is finished twice"


def dispatches_match_plans(h: History, x: m.Message) -> Faults:
    """A dispatched plan equals the issued one. Each shard dispatches it once."""
    if not isinstance(x, m.Dispatched):
        return
    if h.plans.get(x.plan.plan_id) != x.plan:
        yield f"plan {x.plan.plan_id} was not issued like this"
    if (x.plan.plan_id, x.shard) in h.dispatched:
        yield f"shard {x.shard} dispatches {x.plan.plan_id} twice"
    if x.shard_count != h.shards or x.shard >= h.shards:
        yield f"shard {x.shard} of {x.shard_count} in a run of {h.shards}"


def versions_are_published_in_order(h: History, x: m.Message) -> Faults:
    """Each shard publishes each version in order. A repeated version has the same digests."""
    if not isinstance(x, m.VersionPublished):
        return
    if x.version not in h.closed_at:
        yield f"version {x.version} was never closed"
    elif x.decisions_offset != h.closed_at[x.version] + 1:
        yield f"version {x.version} names decision {x.decisions_offset} as its next"
    owned = h.table.owned_by(x.shard, h.shards)
    if len(x.unit_digests) != UNIT_DIGEST_BYTES * len(owned):
        yield f"version {x.version}: digests of another number of units than shard {x.shard} has"
    if blake3(x.unit_digests).digest() != x.digest:
        yield f"version {x.version}: its digest is not that of its units"
    before = h.published.get((x.shard, x.version))
    if before is not None and before.unit_digests != x.unit_digests:
        yield f"version {x.version} is published again with other digests"
    if before is None and x.version and (x.shard, x.version - 1) not in h.published:
        yield f"shard {x.shard} publishes {x.version} before {x.version - 1}"
    members = {u.plan_id for u in h.merged.get(x.version, [])}
    foreign = {out.plan_id for out in x.left_out} - members
    if foreign:
        yield f"version {x.version} leaves out units of {sorted(foreign)}, which are not in it"


def untrained_units_keep_their_bytes(h: History, x: m.Message) -> Faults:
    """A unit that no merged update trained keeps its digest, if there is no moving average."""
    if not isinstance(x, m.VersionPublished) or h.started is None:
        return
    before = h.published.get((x.shard, x.version - 1))
    if before is None or h.started.config.merge.average_decay > 0:
        return
    trained = {
        unit for update in h.merged.get(x.version, []) for unit in h.plans[update.plan_id].trained
    }
    for place, unit in enumerate(h.table.owned_by(x.shard, h.shards)):
        cut = slice(place * UNIT_DIGEST_BYTES, (place + 1) * UNIT_DIGEST_BYTES)
        if x.unit_digests[cut] != before.unit_digests[cut] and unit not in trained:
            yield f"version {x.version} changed unit {unit}, which no update trained"


# ---------------------------------------------------------------- all together

RULES: dict[str, tuple[Callable[[History, Any], Faults], ...]] = {
    FLEET.name: (workers_report_their_own_plans, done_plans_have_all_their_steps),
    DECISIONS.name: (
        order_of_the_run,
        versions_rise_by_one,
        plans_are_sound,
        barriers_wait_for_all,
        one_outcome_per_plan,
        one_answer_per_report,
        admitted_updates_count_right,
        fleet_is_followed,
    ),
    MODELS.name: (
        the_run_opens_once,
        dispatches_match_plans,
        versions_are_published_in_order,
        untrained_units_keep_their_bytes,
    ),
}
"""The rules for the records of each topic."""


class Checker:
    """Checks records in the order in which they come.

    Raises:
        InvariantError: each method raises it at the first fault.
    """

    def __init__(self) -> None:
        self.history = History()
        self.record_count = 0
        self.fenced_count = 0
        self._fence = EpochFence()

    def take(self, topic: str, offset: int, message: m.Message) -> None:
        """Check and fold the next record of a topic, unless the fence holds a decision back."""
        self.record_count += 1
        if isinstance(message, m.Decision) and not self._fence.admits(message):
            self.fenced_count += 1
            return
        for rule in RULES[topic]:
            _judge(rule.__name__, f"{topic}@{offset}", message, rule(self.history, message))
        self.history.take(topic, offset, message)

    def end(self, acknowledged: Iterable[m.Message], *, ends: str) -> None:
        """Check that everything that a finished run needs is there.

        Args:
            acknowledged: the fleet messages whose append returned to their worker.
            ends: the reason with which the run must have ended.
        """
        _judge("the_run_ends", "end", None, self._missing(ends))
        _judge("acknowledged_reports_are_answered", "end", None, self._unanswered(acknowledged))

    def _missing(self, ends: str) -> Faults:
        h = self.history
        if h.ended is None:
            yield "the planner has not ended the run"
            return
        if h.ended.reason != ends:
            yield f"it ended as {h.ended.reason} ({h.ended.detail}), not as {ends}"
        if h.finished is None:
            yield "the aggregator has not finished the run"
        if ends == "target":
            lacking = {(s, h.version) for s in range(h.shards)} - h.whole
            if lacking:
                yield f"no whole last version from {sorted(lacking)}"

    def _unanswered(self, acknowledged: Iterable[m.Message]) -> Faults:
        for message in acknowledged:
            if isinstance(message, m.Report) and message.plan_id not in self.history.plan_ends:
                yield f"the report of plan {message.plan_id} has no outcome"


def _judge(rule: str, where: str, message: m.Message | None, faults: Faults) -> None:
    for fault in faults:
        kind = f" {type(message).__name__}" if message is not None else ""
        raise InvariantError(f"{rule} broken at {where}{kind}: {fault}")
