"""One plan, from its issue until nobody can refer to it any more.

Invariant: a row is kept while the plan is open, and until a whole version has been published behind
its issue: then every shard has dispatched it that ever will.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from cos2p.history.figure import Figure, derived, json_of
from cos2p.log import messages as m

FROM = "PlanIssued"


@dataclass
class PlanRow:
    """One plan.

    Attributes:
        plan: the order itself.
        offset: of its issue in `decisions`.
        shards: aggregator shards that have dispatched it.
        ended: it has an outcome.
    """

    plan: m.Plan
    offset: int
    issued_s: Annotated[float, Figure("when it was issued", "s", FROM)]
    shards: set[int] = field(default_factory=set)
    ended: bool = False

    @property
    @derived(Figure("its name", "", FROM))
    def plan_id(self) -> str:
        """Its name."""
        return self.plan.plan_id

    @property
    @derived(Figure("whose it is", "", FROM))
    def worker_id(self) -> str:
        """Whose it is."""
        return self.plan.worker_id

    @property
    @derived(Figure("what it trains from", "", FROM))
    def base_version(self) -> int:
        """What it trains from."""
        return self.plan.base_version

    @property
    @derived(Figure("units that it holds, trained or frozen", "count", FROM))
    def units_held(self) -> int:
        """Units that it holds."""
        return len(self.plan.trained) + len(self.plan.frozen)

    @property
    @derived(Figure("forecast of the device's peak", "bytes", FROM))
    def peak_bytes(self) -> int:
        """Forecast of the device's peak."""
        return self.plan.peak_bytes

    def to_json(self) -> dict[str, Any]:
        """The row's one JSON form."""
        return json_of(self)
