"""The audit: it finds what a planner that cheats, or an aggregator that sends too much, does."""

from typing import Any

from fed import TOPIC_OF, Fed

from cos2p.log import messages as m
from cos2p.log.mailbox import Letter
from cos2p.model.cost import CostModel
from cos2p_cli.audit import Audit


def audited(
    script: Any, *plans: m.PlanIssued, memory: int, models: list[m.Message] | None = None
) -> Audit:
    sent = models if models is not None else [script.dispatched(p.plan) for p in plans]
    found, run = Audit(), Fed()
    for message in [script.hello("w0", memory=memory), *script.started(), *plans, *sent]:
        run.apply(message, 1.0)
        found.take(Letter(TOPIC_OF[type(message)], 0, 1.0, message, b""), run)
    return found


def test_plans_within_the_budget_pass(script: Any) -> None:
    plan = script.issued("p1", "w0")
    exact = CostModel.of(script.table, script.config).peak_bytes(plan.plan.trained)

    found = audited(script, plan, memory=exact)

    assert [] == found.findings
    assert (1, 1) == (found.plan_count, found.dispatch_count)


def test_a_plan_one_byte_over_the_budget_is_found_whatever_it_says_of_itself(script: Any) -> None:
    plan = script.issued("p1", "w0")
    exact = CostModel.of(script.table, script.config).peak_bytes(plan.plan.trained)

    found = audited(script, plan, memory=exact - 1)

    assert 1 == len(found.findings)
    assert "over its budget" in found.findings[0]


def test_a_dispatch_that_lacks_a_unit_of_its_plan_is_found(script: Any) -> None:
    plan = script.issued("p1", "w0")

    found = audited(script, plan, memory=10**6, models=[script.dispatched(plan.plan, lacking=1)])

    assert "no blob holds 1 of the 3 units" in found.findings[0]


def test_a_dispatch_of_other_units_than_planned_is_found(script: Any) -> None:
    plan = script.issued("p1", "w0")
    other = plan.plan.model_copy(update={"trained": (0, 1, 2, 3)})

    found = audited(script, plan, memory=10**6, models=[script.dispatched(other)])

    assert "differs from the issued one" in found.findings[0]


def test_a_plan_for_a_worker_that_never_announced_itself_is_found(script: Any) -> None:
    found = audited(script, script.issued("p1", "w7"), memory=10**6)

    assert "never announced this start" in found.findings[0]


def test_the_largest_share_and_parameter_count_are_told(script: Any) -> None:
    found = audited(
        script,
        script.issued("p1", "w0", trained=(0, 1, 2)),
        script.issued("p2", "w0", trained=(0, 1, 2, 3)),
        memory=10**6,
    )

    assert 50 + 10 + 100 + 100 == found.parameters_max
    assert 0.4 < found.share_max < 0.6
    assert {"w0": found.share_max} == found.share_by_worker
