"""One plan, from its issue until no record can refer to it any more.

Invariants:
A row is kept while the plan is open.
It is also kept until all shards have published a version after the plan's issue.
No shard dispatches the plan after that.
"""

from dataclasses import dataclass, field

from cos2p.history.figure import REQUIRED, derived, figure
from cos2p.log import messages as m

FROM = "PlanIssued"


@dataclass
class PlanRow:
    """One plan; docs/telemetry.md describes each figure.

    Attributes:
        offset: offset of its PlanIssued in `decisions`.
        shards: aggregator shards that have dispatched it.
        ended: whether it has an outcome.
    """

    plan: m.Plan
    offset: int
    issued_s: float = figure(REQUIRED, "when it was issued", "s", FROM)
    shards: set[int] = field(default_factory=set)
    ended: bool = False

    @property
    @derived("its name", "", FROM)
    def plan_id(self) -> str:
        """The plan's id."""
        return self.plan.plan_id

    @property
    @derived("whose it is", "", FROM)
    def worker_id(self) -> str:
        """The id of the worker that the plan is for."""
        return self.plan.worker_id

    @property
    @derived("what it trains from", "", FROM)
    def base_version(self) -> int:
        """The version that the plan trains from."""
        return self.plan.base_version

    @property
    @derived("units that it holds, trained or frozen", "count", FROM)
    def units_held(self) -> int:
        """Number of units that the plan holds, trained or frozen."""
        return len(self.plan.trained) + len(self.plan.frozen)

    @property
    @derived("forecast of the device's peak", "bytes", FROM)
    def peak_bytes(self) -> int:
        """Forecast of the device's peak memory."""
        return self.plan.peak_bytes
