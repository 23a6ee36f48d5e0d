"""Checks from the log, after the fact, that no device ever received more than its budget.

Invariants: the planner's own forecasts are not trusted. The cost of a plan is computed again from
the unit table. The amount that was really sent is the byte count of the dispatched blobs.
"""

from dataclasses import dataclass, field

from cos2p.history.follow import HistoryReader
from cos2p.history.run import RunHistory
from cos2p.log import messages as m
from cos2p.log.bus import Bus
from cos2p.log.mailbox import Letter
from cos2p.model.cost import CostModel
from cos2p.model.unit_wire import unpack_units


@dataclass
class Audit:
    """The audit of a run. `take` checks each message of a history read from the log's start.

    Attributes:
        share_by_worker: the largest part of the prunable cost that each worker ever held.
        parameters_max: the most parameters that a worker ever held.
        parameters: the parameters of the whole model.
        findings: a sentence for each breach; empty when there is none.
    """

    plan_count: int = 0
    dispatch_count: int = 0
    share_by_worker: dict[str, float] = field(default_factory=dict)
    parameters_max: int = 0
    parameters: int = 0
    findings: list[str] = field(default_factory=list)
    _cost: CostModel | None = field(default=None, repr=False)

    @property
    def share_max(self) -> float:
        """The largest part of the prunable cost that any worker ever held."""
        return max(self.share_by_worker.values(), default=0.0)

    def take(self, letter: Letter, run: RunHistory) -> None:
        """Check a message that the history has just folded."""
        match letter.message:
            case m.RunStarted() as started:
                self._cost = CostModel.of(started.units.table(), started.config)
                self.parameters = self._cost.table.parameter_count
            case m.PlanIssued(plan=plan) if self._cost is not None:
                self._check_plan(self._cost, plan, run)
            case m.Dispatched() as dispatched if self._cost is not None:
                self._check_dispatch(self._cost, dispatched, run)
            case _:
                pass

    def _check_plan(self, cost: CostModel, plan: m.Plan, run: RunHistory) -> None:
        self.plan_count += 1
        held = (*plan.trained, *plan.frozen)
        parameters = int(cost.table.sizes[list(held)].sum())
        self.parameters_max = max(self.parameters_max, parameters)
        known = self.share_by_worker.get(plan.worker_id, 0.0)
        self.share_by_worker[plan.worker_id] = max(known, cost.share(held))
        device = run.devices[plan.worker_id]
        peak = cost.peak_bytes(plan.trained, plan.frozen)
        if device.incarnation != plan.incarnation:
            self.findings.append(f"{plan.plan_id}: {plan.worker_id} never announced this start")
        elif peak > device.memory_bytes:
            self.findings.append(
                f"{plan.plan_id}: {plan.worker_id} got units that need {peak} bytes, "
                f"over its budget of {device.memory_bytes}"
            )

    def _check_dispatch(self, cost: CostModel, message: m.Dispatched, run: RunHistory) -> None:
        plan, row = message.plan, run.state.plans.get(message.plan.plan_id)
        # A restarted shard may dispatch a plan again whose row the history has dropped.
        late = row is None and message.decisions_offset <= run.state.obeyed
        if not late and (row is None or row.plan != plan):
            self.findings.append(f"{plan.plan_id}: the dispatched plan differs from the issued one")
            return
        self.dispatch_count += 1
        owned = set(cost.table.owned_by(message.shard, message.shard_count))
        units = [u for u in sorted({*plan.trained, *plan.frozen}) if u in owned]
        held = {unit for found in message.blobs for unit in unpack_units(found.units)}
        if missing := set(units) - held:
            self.findings.append(
                f"{plan.plan_id}: no blob holds {len(missing)} of the {len(units)} units "
                f"that were sent to {plan.worker_id}"
            )


async def audit_budgets(bus: Bus, prefix: str) -> Audit:
    """Check every plan and every dispatched blob of a run against the devices' budgets.

    Raises:
        BusError: the topics can't be read.
    """
    found = Audit()
    await HistoryReader(bus, prefix, history=RunHistory(), taken=found.take).poll()
    return found
