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


class Tale:
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

    def decide(self, kind: type[m.Decision], **body: Any) -> "Tale":
        given = {"run_id": "r", "epoch": 1, "fleet_offset": self._next["fleet"], "at_s": 0.0} | body
        self._take("decisions", kind.model_validate(given))
        return self

    def tell(self, kind: type[m.Message], **body: Any) -> "Tale":
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

    def start(self) -> "Tale":
        self.decide(m.EpochStarted, planner_id="p")
        self.hello()
        self.decide(m.RunStarted, **self._start)
        self.tell(m.RunOpened, config=self._start["config"], task="m:t", units_digest=TABLE.digest)
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

    def issue(self, plan_id: str = "p1", **changes: Any) -> "Tale":
        self.decide(m.PlanIssued, plan=self.plan(plan_id, **changes))
        return self

    def report(self, plan_id: str = "p1", blob: m.BlobRef = BLOB, **changes: Any) -> "Tale":
        body = {"worker_id": "w0", "incarnation": 1, "plan_id": plan_id, "status": "done"}
        body |= {"steps_done": 1}
        self.fleet(m.Report, **(body | changes), blob=blob)
        return self

    def admit(self, plan_id: str = "p1", **changes: Any) -> "Tale":
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

    def aged(self) -> "Tale":
        """A run at version 1, with a plan of version 0 still open."""
        self.start().issue(local_steps=2)
        self.dispatch(self.plan(local_steps=2)).close(update_count=0).publish(1)
        return self

    def refuse(self, outcome: Outcome, plan_id: str = "p1") -> "Tale":
        self.decide(m.UpdateRefused, plan_id=plan_id, worker_id="w0", outcome=outcome, reason="why")
        return self

    def cancel(self, plan_id: str = "p1") -> "Tale":
        body = {"plan_id": plan_id, "worker_id": "w0", "reason": "why"}
        self.decide(m.PlanCancelled, outcome=Outcome.EXPIRED, **body)
        return self

    def close(self, version: int = 1, **changes: Any) -> "Tale":
        body: dict[str, Any] = {
            "version": version,
            "reason": "count",
            "update_count": 1,
            "waited_s": 1.0,
            "coverage_min": 0,
        }
        self.decide(m.RoundClosed, **(body | changes))
        return self

    def publish(self, version: int, digests: str = "abcd", **changes: Any) -> "Tale":
        text = b"".join(c.encode() * 8 for c in digests)
        body: dict[str, Any] = {
            "version": version,
            "shard": 0,
            "shard_count": 1,
            "digest": blake3(text).digest(),
            "unit_digests": text,
            "checkpoint": BLOB,
        }
        self.tell(m.VersionPublished, **(body | changes))
        return self

    def dispatch(self, plan: m.Plan | None = None, **changes: Any) -> "Tale":
        plan = plan or self.plan()
        body = {"plan": plan, "shard": 0, "shard_count": 1} | one_blob(plan.trained, BLOB)
        self.tell(m.Dispatched, **(body | changes))
        return self

    def end_run(self, version: int = 1, **changes: Any) -> "Tale":
        self.decide(m.RunEnded, **({"version": version, "reason": "target"} | changes))
        return self

    def finish(self, version: int = 1) -> "Tale":
        self.tell(m.RunFinished, version=version, reason="target")
        return self

    def whole(self) -> "Tale":
        """A run of one version, told to its end."""
        self.start().issue().dispatch().report().admit().close().publish(1, "efgd")
        return self.end_run().finish()


def test_a_right_log_breaks_no_rule() -> None:
    tale = Tale().whole()

    tale.checker.end([], ends="target")


def test_a_device_asked_again_behind_a_barrier_where_all_have_failed_breaks_no_rule() -> None:
    Tale(closing="synchronous").start().issue().cancel().issue("p2")


def test_right_refusals_and_repeats_break_no_rule() -> None:
    tale = Tale().start().issue().report().refuse(Outcome.INVALID).report()
    tale.refuse(Outcome.DUPLICATE).issue("p2").cancel("p2").issue("p3")


def test_a_version_told_again_with_the_same_digests_breaks_no_rule() -> None:
    Tale().start().publish(0)


def test_with_a_moving_average_digests_may_move_without_training() -> None:
    tale = Tale(average_decay=0.9).start().issue().report().admit().close()

    tale.publish(1, "efgh")


def test_what_the_fence_holds_back_is_counted_and_not_judged() -> None:
    tale = Tale().start().issue()

    tale.decide(m.EpochStarted, planner_id="q", epoch=2)
    tale.admit("p9")

    assert 1 == tale.checker.fenced_count


WRONG: dict[str, list[Callable[[], object]]] = {
    "workers_report_their_own_plans": [
        lambda: Tale().start().report(),
        lambda: Tale().start().issue().report(incarnation=2),
        lambda: Tale().start().issue().report(worker_id="w1"),
    ],
    "order_of_the_run": [
        lambda: Tale().start().decide(m.RunStarted, **Tale()._start),
        lambda: (t := Tale(), t.decide(m.EpochStarted, planner_id="p"), t.issue()),
        lambda: Tale().whole().issue("p2"),
    ],
    "versions_rise_by_one": [
        lambda: Tale().start().issue().report().admit().close(2),
        lambda: Tale().start().issue().report().admit().close(1, update_count=2),
        lambda: Tale().start().end_run(1),
    ],
    "plans_are_sound": [
        lambda: Tale().start().issue().cancel().issue(),
        lambda: Tale().start().issue().issue("p2"),
        lambda: Tale().start().issue(base_version=1),
        lambda: Tale().start().issue(incarnation=2),
        lambda: Tale().start().issue(worker_id="w1"),
        lambda: Tale().start().issue(peak_bytes=1001),
        lambda: Tale().start().issue(trained=(0, 2)),
        lambda: Tale().start().issue(trained=()),
        lambda: Tale().start().issue(trained=(0, 1, 2), frozen=(2,)),
    ],
    "one_outcome_per_plan": [
        lambda: Tale().start().issue().report().admit().cancel(),
        lambda: Tale().start().issue().report().admit().refuse(Outcome.STALE),
        lambda: Tale().start().issue().cancel().cancel(),
        lambda: Tale().start().cancel("p9"),
        lambda: Tale().start().issue().report().admit(worker_id="w1"),
        lambda: Tale().start().issue().refuse(Outcome.DUPLICATE),
        lambda: Tale().start().issue().end_run(0),
    ],
    "done_plans_have_all_their_steps": [
        lambda: Tale().start().issue(local_steps=2).report(),
        lambda: Tale().start().issue().report(steps_done=0),
    ],
    "barriers_wait_for_all": [
        lambda: Tale(closing="synchronous").aged(),
        lambda: Tale(closing="synchronous").start().issue().report().admit().issue("p2"),
    ],
    "one_answer_per_report": [
        lambda: Tale().start().issue().report().admit().refuse(Outcome.DUPLICATE),
    ],
    "admitted_updates_count_right": [
        lambda: Tale().start().issue().admit(),
        lambda: Tale().start().issue().report().admit(blob=OTHER_BLOB),
        lambda: Tale().start().issue().report().admit(staleness=1),
        lambda: (
            Tale()
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
        lambda: Tale().start().issue().report().admit(fleet_offset=7),
        lambda: (
            Tale()
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
            Tale()
            .start()
            .tell(m.RunOpened, config=RunConfig(), task="m:t", units_digest=TABLE.digest)
        ),
        lambda: Tale().start().finish(0),
        lambda: Tale().whole().finish(),
        lambda: (
            t := Tale(),
            t.decide(m.EpochStarted, planner_id="p"),
            t.decide(m.RunStarted, **t._start),
            t.publish(0),
        ),
    ],
    "dispatches_match_plans": [
        lambda: Tale().start().dispatch(),
        lambda: Tale().start().issue().dispatch(Tale().plan(seed=9)),
        lambda: Tale().start().issue().dispatch().dispatch(),
        lambda: Tale().start().issue().dispatch(shard=1, shard_count=2),
    ],
    "versions_are_published_in_order": [
        lambda: Tale().start().publish(1),
        lambda: Tale().start().publish(0, decisions_offset=1),
        lambda: Tale().start().publish(0, "abce"),
        lambda: Tale().start().publish(0, digest=b"\1" * 32),
        lambda: Tale().start().publish(0, "abc"),
        lambda: (
            Tale()
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
            Tale()
            .start()
            .publish(0, left_out=(m.LeftOut(plan_id="p9", worker_id="w0", unit=0, reason="norm"),))
        ),
    ],
    "untrained_units_keep_their_bytes": [
        lambda: Tale().start().issue().report().admit().close().publish(1, "abce"),
    ],
}


@pytest.mark.parametrize(
    ("rule", "tell"), [(rule, tell) for rule, tales in WRONG.items() for tell in tales]
)
def test_a_log_that_breaks_a_rule_is_an_error_that_names_it(
    rule: str, tell: Callable[[], object]
) -> None:
    with pytest.raises(InvariantError, match=f"{rule} broken"):
        tell()


def test_every_rule_has_a_log_that_breaks_it() -> None:
    assert {rule.__name__ for rules in RULES.values() for rule in rules} == set(WRONG)


def test_an_update_older_than_the_limit_must_not_be_admitted() -> None:
    tale = Tale().start().issue()
    tale.hello()
    for version, plan_id in ((1, "q1"), (2, "q2")):
        blob = BLOB.model_copy(update={"blob_id": plan_id})
        tale.fleet(
            m.Hello,
            worker_id=f"v{version}",
            incarnation=1,
            profile=m.DeviceProfile(memory_bytes=1000, flops_per_s=1.0),
            sample_count=1,
            units_digest=TABLE.digest,
        )
        tale.issue(plan_id, worker_id=f"v{version}", base_version=version - 1)
        tale.report(plan_id, blob, worker_id=f"v{version}").admit(
            plan_id, worker_id=f"v{version}", blob=blob
        )
        tale.close(version)
    tale.report()

    with pytest.raises(InvariantError, match="staleness 2 is over the limit"):
        tale.admit(staleness=2)


@pytest.mark.parametrize(
    ("tale", "fault"),
    [
        (lambda: Tale().start(), "has not ended the run"),
        (lambda: Tale().start().end_run(0), "has not finished the run"),
        (lambda: Tale().start().end_run(0, reason="stalled").finish(0), "ended as stalled"),
        (
            lambda: (
                Tale()
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
    tale: Callable[[], Tale], fault: str
) -> None:
    with pytest.raises(InvariantError, match=fault):
        tale().checker.end([], ends="target")


def test_an_acknowledged_report_without_an_outcome_is_an_error() -> None:
    report = m.Report(run_id="r", worker_id="w0", incarnation=1, plan_id="p9", status="done")

    with pytest.raises(InvariantError, match="report of plan p9 has no outcome"):
        Tale().whole().checker.end([report], ends="target")
