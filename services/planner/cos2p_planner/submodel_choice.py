"""Chooses a device's submodel: the units that it holds, or those that the policy's rule chooses.

Our own rule is `choosers/knapsack.py`; the rules of others are in `baselines/`.

Invariants: a device keeps the units that it holds while the hold lasts and they fit. A question is
a function of the decision log, the devices' messages and what the aggregator has published.
"""

import math
from collections.abc import Sequence

import numpy as np

from cos2p.model.basket import Choice, Floats
from cos2p.model.cost import FLOAT_BYTES, CostModel, Workload
from cos2p_planner.baselines.policies import policy_named
from cos2p_planner.choosers.choice_request import ChoiceRequest
from cos2p_planner.choosers.nesting import WEIGHT, nested_value, waiting
from cos2p_planner.state.device import Device
from cos2p_planner.state.fleet import Fleet
from cos2p_planner.state.importance import Importance
from cos2p_planner.state.ledger import Ledger
from cos2p_planner.state.run import Run


class Chooser:
    """Chooses units by a run's policy, from the decisions and from the units' importance.

    Other code keeps the importance up to date.
    """

    def __init__(self, run: Run, importance: Importance) -> None:
        self._run, self._importance = run, importance
        self._rule = policy_named(run.config.policy).chooser(run.costs, run.config)

    @property
    def least_bytes(self) -> int:
        """The smallest budget with which a device gets plans."""
        return self._rule.least_bytes

    def choose(
        self,
        device: Device,
        ledger: Ledger,
        fleet: Fleet,
        others: Sequence[str],
        *,
        limit_s: float,
        progress: float,
    ) -> Choice | None:
        """Choose the device's units: those that it holds if the hold lasts and they fit, or others.

        The other devices can train now, too. The plan may last `limit_s` seconds. `progress` is the
        share of the run that is done.
        """
        run = self._run
        held, plans = run.holdings.held(device.worker_id)
        fits = run.costs.peak_bytes(held.trained, held.frozen) <= device.budget_bytes
        if plans and fits and plans < run.config.plans.hold_plans:
            return held
        share = run.config.plans.growth.share_at(progress)
        choice = self._rule.choose(self._request(device, ledger, fleet, others, limit_s, share))
        device.no_plan_reason = "" if choice else f"no cut of {run.config.policy} fits its budget"
        return choice

    def _request(
        self,
        device: Device,
        ledger: Ledger,
        fleet: Fleet,
        others: Sequence[str],
        limit_s: float,
        share: float,
    ) -> ChoiceRequest:
        """Make the question for a device, where this share of the model is in play."""
        run, plans = self._run, self._run.config.plans
        holdings = run.holdings
        coverage = holdings.coverage(others)
        value = plans.importance_weight * self._importance.value(device)
        value = value + nested_value(run.table, plans.nested_depth, len(others) + 1)
        prices = holdings.prices.of(coverage, float(np.ptp(value)))
        late = waiting(run.table, share)
        active_bytes = run.costs.memory_for_fraction(share)
        number, choices = holdings.turn(device.worker_id)
        seconds, fixed_s = unit_seconds(device, run.costs, run.config.local.steps_min)
        return ChoiceRequest(
            budget_bytes=min(device.budget_bytes, max(active_bytes, self._rule.least_bytes)),
            coverage=coverage,
            recency=holdings.recency(device.worker_id),
            value=value - late * WEIGHT * (len(others) + 1),
            phase=holdings.choice_count,
            width_min=plans.block_width_min,
            device=number,
            choice=choices,
            version=ledger.version,
            plan=ledger.plan_count + 1,
            fleet_budgets=tuple(d.budget_bytes for d in fleet if not (d.excluded or d.objection)),
            prices=np.where(late, 0.0, prices),
            seconds=None if math.isinf(limit_s) else seconds,
            seconds_max=limit_s - fixed_s,
            norms=self._importance.norms,
        )


def unit_seconds(device: Device, costs: CostModel, steps: int) -> tuple[Floats, float]:
    """Return what each trained unit adds to a plan of `steps` steps, and the plan's fixed time.

    In seconds; the array has shape (units,). Transfer time counts per unit until the device has
    shown its overhead outside the steps. From then on it is part of the fixed time.
    """
    profile = device.profile
    rate = device.calibration.seconds_factor / profile.flops_per_s
    seconds: Floats = steps * costs.batch_size * rate * costs.trained_flops
    speed = device.speed(Workload(0, costs.batch_size, 1, 0, 0))
    if not speed.known:
        seconds = seconds + 2 * FLOAT_BYTES * costs.table.sizes / profile.bytes_per_s
    return seconds, speed.duration_s(steps)
