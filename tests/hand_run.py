"""A run written by hand, message by message, small enough to work its figures out on paper."""

from typing import Any

import numpy as np
from dispatching import one_blob
from fed import Fed, fed

from cos2p.history.version import VersionRow
from cos2p.log import messages as m
from cos2p.model.cost import CostModel
from cos2p.model.unit_wire import UnitColumns
from cos2p.model.units import STEM, Unit, UnitTable
from cos2p.run_config import LivenessConfig, MergeConfig, RoundConfig, RunConfig

TABLE = UnitTable(
    (
        Unit("stem", "core", STEM, 50, 1, 1),
        Unit("block0.norm", "core", 0, 10, 1, 1),
        Unit("block0.head.0", "head", 0, 100, 1, 1),
        Unit("block0.head.1", "head", 0, 100, 1, 1),
        Unit("block1.norm", "core", 1, 10, 1, 1),
        Unit("block1.head.0", "head", 1, 100, 1, 1),
    )
)
CORE0, HEAD0, HEAD1, CORE1, HEAD2 = 1, 2, 3, 4, 5
CONFIG = RunConfig(
    rounds=RoundConfig(coverage_window=2),
    merge=MergeConfig(server_lr=0.5),
    liveness=LivenessConfig(lost_after_s=10),
)
COSTS = CostModel.of(TABLE, CONFIG)
REF = m.BlobRef(
    topic="t",
    partition=0,
    first_offset=0,
    last_offset=0,
    chunk_count=1,
    byte_count=1,
    digest=bytes(32),
    blob_id="b",
)
NORMS = (3.0, 0.0, 2.0, 1.0, 1.0, 1.0)
"""Of the units: squares 9, 0, 4, 1, 1, 1, sum 16."""
Timed = tuple[float, m.Message]


class Writer:
    """Writes a run's messages; a second between two of them."""

    def __init__(self, config: RunConfig = CONFIG) -> None:
        self.config, self.epoch, self.now = config, 1, 0.0
        self.log: list[Timed] = []

    def append_message(self, kind: type[m.Message], **fields: Any) -> m.Message:
        stamp: dict[str, Any] = {"run_id": "r1"}
        if issubclass(kind, m.Decision):
            stamp |= {"epoch": self.epoch, "fleet_offset": 0, "at_s": 0.0}
        message = kind.model_validate(stamp | fields)
        self.now += 1
        self.log.append((self.now, message))
        return message

    def begin(self) -> "Writer":
        units = UnitColumns.of(TABLE)
        run = {"config": self.config, "task": "a:b", "checkpoint": REF, "units": units}
        self.append_message(m.RunRequested, **run)
        self.append_message(m.EpochStarted, planner_id="p")
        self.append_message(m.RunStarted, **run)
        return self

    def hello(self, worker: str, labels: tuple[int, ...] | None, **fields: Any) -> None:
        profile = m.DeviceProfile(
            device_class="small", memory_bytes=fields.pop("memory", 10_000), flops_per_s=1e9
        )
        self.append_message(
            m.Hello,
            worker_id=worker,
            incarnation=fields.pop("incarnation", 1),
            profile=profile,
            sample_count=sum(labels or (10,)),
            label_counts=labels,
            units_digest=TABLE.digest,
        )

    def plan(self, plan_id: str, worker: str, trained: tuple[int, ...], **fields: Any) -> m.Plan:
        usual = {
            "incarnation": 1,
            "base_version": 0,
            "local_steps": 10,
            "batch_size": 1,
            "learning_rate": 0.1,
            "seed": 0,
            "deadline_s": 1,
            "peak_bytes": 7_000,
        }
        plan = m.Plan.model_validate(
            usual | {"plan_id": plan_id, "worker_id": worker, "trained": (0, *trained)} | fields
        )
        self.append_message(m.PlanIssued, plan=plan)
        return plan

    def dispatched(self, plan: m.Plan, shard: int = 0, shards: int = 1) -> None:
        self.append_message(
            m.Dispatched,
            decisions_offset=0,
            plan=plan,
            shard=shard,
            shard_count=shards,
            **one_blob((*plan.trained, *plan.frozen), REF),
        )

    def admit(self, plan: m.Plan, **fields: Any) -> None:
        usual = {"weight": 1.0, "staleness": 0, "steps_done": plan.local_steps, "blob": REF}
        who = {"plan_id": plan.plan_id, "worker_id": plan.worker_id}
        self.append_message(m.UpdateAdmitted, **(usual | who | fields))

    def close(self, version: int, **fields: Any) -> None:
        usual = {"reason": "count", "update_count": 1, "waited_s": 4.0, "coverage_min": 1}
        self.append_message(m.RoundClosed, version=version, **(usual | fields))

    def publish(self, version: int, shard: int = 0, shards: int = 1, **fields: Any) -> None:
        owned = list(TABLE.owned_by(shard, shards))
        usual = {
            "decisions_offset": 0,
            "digest": bytes(32),
            "unit_digests": bytes(8 * len(owned)),
            "unit_norms": np.array(NORMS, "<f4")[owned].tobytes(),
        }
        place = {"version": version, "shard": shard, "shard_count": shards}
        self.append_message(m.VersionPublished, **(usual | place | fields))

    def folded(self, **options: Any) -> Fed:
        return fed(self.log, **options)

    def row(self, version: int = 1) -> VersionRow:
        return next(r for r in self.folded().versions if r.version == version)
