"""Each rule of the simulator against a log that breaks it, so that none of them is vacuous."""

from collections.abc import Callable
from typing import Any

import pytest
from blake3 import blake3
from dispatching import one_blob

from cos2p.log import messages as m
from cos2p.log.messages import Outcome
from cos2p.model.unit_wire import UnitColumns
from cos2p.model.units import Unit, UnitTable
from cos2p.run_config import MergeConfig, RoundConfig, RunConfig
from cos2p_sim.checkers import RULES, Checker, InvariantError

TABLE = UnitTable(
    (
        Unit("stem", "core", -1, 4, 8, 1),
        Unit("block0.core", "core", 0, 2, 4, 1),
        Unit("block0.a", "neurons", 0, 3, 6, 1),
        Unit("block0.b", "neurons", 0, 3, 6, 1),
    )
)
BLOB = m.BlobRef(
    topic="updates",
    partition=0,
    first_offset=0,
    last_offset=0,
    chunk_count=1,
    byte_count=100,
    digest=b"\0" * 32,
    blob_id="b",
)
OTHER_BLOB = BLOB.model_copy(update={"blob_id": "c", "first_offset": 1, "last_offset": 1})


class LogBuilder:
    """A log told record by record; every part of it is right unless changed."""

    def __init__(self, **settings: Any) -> None:
        self.checker = Checker()
        self._next = {"fleet": 0, "decisions": 0, "models": 0}
        config = RunConfig(
            merge=MergeConfig(average_decay=settings.get("average_decay", 0.0)),
            rounds=RoundConfig(
                staleness_max=1,
                closing=settings.get("closing", "semi-async"),
            ),
        )
        self._start = {
            "config": config,
            "task": "m:t",
            "units": UnitColumns.of(TABLE),
            "checkpoint": BLOB,
        }

    def _take(self, topic: str, message: m.Message) -> None:
        offset = self._next[topic]
        self._next[topic] += 1
        self.checker.take(topic, offset, message)

    def fleet(self, kind: type[m.Message], **body: Any) -> None:
        self._take("fleet", kind(run_id="r", **body))

    def decide(self, kind: type[m.Decision], **body: Any) -> "LogBuilder":
        given = {"run_id": "r", "epoch": 1, "fleet_offset": self._next["fleet"], "at_s": 0.0} | body
        self._take("decisions", kind.model_validate(given))
        return self

    def add(self, kind: type[m.Message], **body: Any) -> "LogBuilder":
        body = {"decisions_offset": self._next["decisions"]} | body
        self._take("models", kind(run_id="r", **body))
        return self

    # ------------------------------------------------------------ parts of a right run

    def hello(self) -> None:
        profile = m.DeviceProfile(memory_bytes=1000, flops_per_s=1.0)
        self.fleet(
            m.Hello,
            worker_id="w0",
            incarnation=1,
            profile=profile,
            sample_count=1,
            units_digest=TABLE.digest,
        )

    def start(self) -> "LogBuilder":
        self.decide(m.EpochStarted, planner_id="p")
        self.hello()
        self.decide(m.RunStarted, **self._start)
        self.add(m.RunOpened, config=self._start["config"], task="m:t", units_digest=TABLE.digest)
        self.publish(0)
        return self

    def plan(self, plan_id: str = "p1", **changes: Any) -> m.Plan:
        body: dict[str, Any] = {
            "plan_id": plan_id,
            "worker_id": "w0",
            "incarnation": 1,
            "base_version": 0,
            "trained": (0, 1, 2),
            "local_steps": 1,
            "batch_size": 1,
            "learning_rate": 1e-3,
            "seed": 0,
            "deadline_s": 1.0,
            "peak_bytes": 1000,
        }
        return m.Plan.model_validate(body | changes)

    def issue(self, plan_id: str = "p1", **changes: Any) -> "LogBuilder":
        self.decide(m.PlanIssued, plan=self.plan(plan_id, **changes))
        return self

    def report(self, plan_id: str = "p1", blob: m.BlobRef = BLOB, **changes: Any) -> "LogBuilder":
        body = {"worker_id": "w0", "incarnation": 1, "plan_id": plan_id, "status": "done"}
        body |= {"steps_done": 1}
        self.fleet(m.Report, **(body | changes), blob=blob)
        return self

    def admit(self, plan_id: str = "p1", **changes: Any) -> "LogBuilder":
        body: dict[str, Any] = {
            "plan_id": plan_id,
            "worker_id": "w0",
            "blob": BLOB,
            "weight": 1.0,
            "staleness": 0,
            "steps_done": 1,
        }
        self.decide(m.UpdateAdmitted, **(body | changes))
        return self

    def aged(self) -> "LogBuilder":
        """A run at version 1, with a plan of version 0 still open."""
        self.start().issue(local_steps=2)
        self.dispatch(self.plan(local_steps=2)).close(update_count=0).publish(1)
        return self

    def refuse(self, outcome: Outcome, plan_id: str = "p1") -> "LogBuilder":
        self.decide(m.UpdateRefused, plan_id=plan_id, worker_id="w0", outcome=outcome, reason="why")
        return self

    def cancel(self, plan_id: str = "p1") -> "LogBuilder":
        body = {"plan_id": plan_id, "worker_id": "w0", "reason": "why"}
        self.decide(m.PlanCancelled, outcome=Outcome.EXPIRED, **body)
        return self

    def close(self, version: int = 1, **changes: Any) -> "LogBuilder":
        body: dict[str, Any] = {
            "version": version,
            "reason": "count",
            "update_count": 1,
            "waited_s": 1.0,
            "coverage_min": 0,
        }
        self.decide(m.RoundClosed, **(body | changes))
        return self

    def publish(self, version: int, digests: str = "abcd", **changes: Any) -> "LogBuilder":
        text = b"".join(c.encode() * 8 for c in digests)
        body: dict[str, Any] = {
            "version": version,
            "shard": 0,
            "shard_count": 1,
            "digest": blake3(text).digest(),
            "unit_digests": text,
            "checkpoint": BLOB,
        }
        self.add(m.VersionPublished, **(body | changes))
        return self

    def dispatch(self, plan: m.Plan | None = None, **changes: Any) -> "LogBuilder":
        plan = plan or self.plan()
        body = {"plan": plan, "shard": 0, "shard_count": 1} | one_blob(plan.trained, BLOB)
        self.add(m.Dispatched, **(body | changes))
        return self

    def end_run(self, version: int = 1, **changes: Any) -> "LogBuilder":
        self.decide(m.RunEnded, **({"version": version, "reason": "target"} | changes))
        return self

    def finish(self, version: int = 1) -> "LogBuilder":
        self.add(m.RunFinished, version=version, reason="target")
        return self

    def whole(self) -> "LogBuilder":
        """A run of one version, told to its end."""
        self.start().issue().dispatch().report().admit().close().publish(1, "efgd")
        return self.end_run().finish()


def test_a_right_log_breaks_no_rule() -> None:
    builder = LogBuilder().whole()

    builder.checker.end([], ends="target")


def test_a_device_asked_again_behind_a_barrier_where_all_have_failed_breaks_no_rule() -> None:
    LogBuilder(closing="synchronous").start().issue().cancel().issue("p2")


def test_right_refusals_and_repeats_break_no_rule() -> None:
    builder = LogBuilder().start().issue().report().refuse(Outcome.INVALID).report()
    builder.refuse(Outcome.DUPLICATE).issue("p2").cancel("p2").issue("p3")


def test_a_version_told_again_with_the_same_digests_breaks_no_rule() -> None:
    LogBuilder().start().publish(0)


def test_with_a_moving_average_digests_may_move_without_training() -> None:
    builder = LogBuilder(average_decay=0.9).start().issue().report().admit().close()

    builder.publish(1, "efgh")


def test_what_the_fence_holds_back_is_counted_and_not_judged() -> None:
    builder = LogBuilder().start().issue()

    builder.decide(m.EpochStarted, planner_id="q", epoch=2)
    builder.admit("p9")

    assert 1 == builder.checker.fenced_count


WRONG: dict[str, list[Callable[[], object]]] = {
    "workers_report_their_own_plans": [
        lambda: LogBuilder().start().report(),
        lambda: LogBuilder().start().issue().report(incarnation=2),
        lambda: LogBuilder().start().issue().report(worker_id="w1"),
    ],
    "order_of_the_run": [
        lambda: LogBuilder().start().decide(m.RunStarted, **LogBuilder()._start),
        lambda: (t := LogBuilder(), t.decide(m.EpochStarted, planner_id="p"), t.issue()),
        lambda: LogBuilder().whole().issue("p2"),
    ],
    "versions_rise_by_one": [
        lambda: LogBuilder().start().issue().report().admit().close(2),
        lambda: LogBuilder().start().issue().report().admit().close(1, update_count=2),
        lambda: LogBuilder().start().end_run(1),
    ],
    "plans_are_sound": [
        lambda: LogBuilder().start().issue().cancel().issue(),
        lambda: LogBuilder().start().issue().issue("p2"),
        lambda: LogBuilder().start().issue(base_version=1),
        lambda: LogBuilder().start().issue(incarnation=2),
        lambda: LogBuilder().start().issue(worker_id="w1"),
        lambda: LogBuilder().start().issue(peak_bytes=1001),
        lambda: LogBuilder().start().issue(trained=(0, 2)),
        lambda: LogBuilder().start().issue(trained=()),
        lambda: LogBuilder().start().issue(trained=(0, 1, 2), frozen=(2,)),
    ],
    "one_outcome_per_plan": [
        lambda: LogBuilder().start().issue().report().admit().cancel(),
        lambda: LogBuilder().start().issue().report().admit().refuse(Outcome.STALE),
        lambda: LogBuilder().start().issue().cancel().cancel(),
        lambda: LogBuilder().start().cancel("p9"),
        lambda: LogBuilder().start().issue().report().admit(worker_id="w1"),
        lambda: LogBuilder().start().issue().refuse(Outcome.DUPLICATE),
        lambda: LogBuilder().start().issue().end_run(0),
    ],
    "done_plans_have_all_their_steps": [
        lambda: LogBuilder().start().issue(local_steps=2).report(),
        lambda: LogBuilder().start().issue().report(steps_done=0),
    ],
    "barriers_wait_for_all": [
        lambda: LogBuilder(closing="synchronous").aged(),
        lambda: LogBuilder(closing="synchronous").start().issue().report().admit().issue("p2"),
    ],
    "one_answer_per_report": [
        lambda: LogBuilder().start().issue().report().admit().refuse(Outcome.DUPLICATE),
    ],
    "admitted_updates_count_right": [
        lambda: LogBuilder().start().issue().admit(),
        lambda: LogBuilder().start().issue().report().admit(blob=OTHER_BLOB),
        lambda: LogBuilder().start().issue().report().admit(staleness=1),
        lambda: (
            LogBuilder()
            .start()
            .issue()
            .report()
            .admit()
            .close()
            .issue("p2", base_version=1)
            .report("p2")
            .admit("p2")
        ),
    ],
    "fleet_is_followed": [
        lambda: LogBuilder().start().issue().report().admit(fleet_offset=7),
        lambda: (
            LogBuilder()
            .start()
            .issue()
            .report()
            .cancel()
            .issue("p2", base_version=0)
            .decide(
                m.PlanCancelled,
                plan_id="p2",
                worker_id="w0",
                outcome=Outcome.EXPIRED,
                reason="why",
                fleet_offset=0,
                at_s=0.0,
            )
        ),
    ],
    "the_run_opens_once": [
        lambda: (
            LogBuilder()
            .start()
            .add(m.RunOpened, config=RunConfig(), task="m:t", units_digest=TABLE.digest)
        ),
        lambda: LogBuilder().start().finish(0),
        lambda: LogBuilder().whole().finish(),
        lambda: (
            t := LogBuilder(),
            t.decide(m.EpochStarted, planner_id="p"),
            t.decide(m.RunStarted, **t._start),
            t.publish(0),
        ),
    ],
    "dispatches_match_plans": [
        lambda: LogBuilder().start().dispatch(),
        lambda: LogBuilder().start().issue().dispatch(LogBuilder().plan(seed=9)),
        lambda: LogBuilder().start().issue().dispatch().dispatch(),
        lambda: LogBuilder().start().issue().dispatch(shard=1, shard_count=2),
    ],
    "versions_are_published_in_order": [
        lambda: LogBuilder().start().publish(1),
        lambda: LogBuilder().start().publish(0, decisions_offset=1),
        lambda: LogBuilder().start().publish(0, "abce"),
        lambda: LogBuilder().start().publish(0, digest=b"\1" * 32),
        lambda: LogBuilder().start().publish(0, "abc"),
        lambda: (
            LogBuilder()
            .start()
            .issue()
            .report()
            .admit()
            .close()
            .issue("p2", base_version=1)
            .report("p2", OTHER_BLOB)
            .admit("p2", blob=OTHER_BLOB)
            .close(2)
            .publish(2)
        ),
        lambda: (
            LogBuilder()
            .start()
            .publish(0, left_out=(m.LeftOut(plan_id="p9", worker_id="w0", unit=0, reason="norm"),))
        ),
    ],
    "untrained_units_keep_their_bytes": [
        lambda: LogBuilder().start().issue().report().admit().close().publish(1, "abce"),
    ],
}


@pytest.mark.parametrize(
    ("rule", "build"), [(rule, build) for rule, builders in WRONG.items() for build in builders]
)
def test_a_log_that_breaks_a_rule_is_an_error_that_names_it(
    rule: str, build: Callable[[], object]
) -> None:
    with pytest.raises(InvariantError, match=f"{rule} broken"):
        build()


def test_every_rule_has_a_log_that_breaks_it() -> None:
    assert {rule.__name__ for rules in RULES.values() for rule in rules} == set(WRONG)


def test_an_update_older_than_the_limit_must_not_be_admitted() -> None:
    builder = LogBuilder().start().issue()
    builder.hello()
    for version, plan_id in ((1, "q1"), (2, "q2")):
        blob = BLOB.model_copy(update={"blob_id": plan_id})
        builder.fleet(
            m.Hello,
            worker_id=f"v{version}",
            incarnation=1,
            profile=m.DeviceProfile(memory_bytes=1000, flops_per_s=1.0),
            sample_count=1,
            units_digest=TABLE.digest,
        )
        builder.issue(plan_id, worker_id=f"v{version}", base_version=version - 1)
        builder.report(plan_id, blob, worker_id=f"v{version}").admit(
            plan_id, worker_id=f"v{version}", blob=blob
        )
        builder.close(version)
    builder.report()

    with pytest.raises(InvariantError, match="staleness 2 is over the limit"):
        builder.admit(staleness=2)


@pytest.mark.parametrize(
    ("builder", "fault"),
    [
        (lambda: LogBuilder().start(), "has not ended the run"),
        (lambda: LogBuilder().start().end_run(0), "has not finished the run"),
        (lambda: LogBuilder().start().end_run(0, reason="stalled").finish(0), "ended as stalled"),
        (
            lambda: (
                LogBuilder()
                .start()
                .issue()
                .report()
                .admit()
                .close()
                .publish(1, "efgd", checkpoint=None)
                .end_run()
                .finish()
            ),
            "no whole last version",
        ),
    ],
)
def test_a_run_that_lacks_something_at_its_end_is_an_error(
    builder: Callable[[], LogBuilder], fault: str
) -> None:
    with pytest.raises(InvariantError, match=fault):
        builder().checker.end([], ends="target")


def test_an_acknowledged_report_without_an_outcome_is_an_error() -> None:
    report = m.Report(run_id="r", worker_id="w0", incarnation=1, plan_id="p9", status="done")

    with pytest.raises(InvariantError, match="report of plan p9 has no outcome"):
        LogBuilder().whole().checker.end([report], ends="target")
