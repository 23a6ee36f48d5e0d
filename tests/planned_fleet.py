"""The planner's core with a fleet of unequal devices under virtual time: plans, no training.

How long a plan takes is what the cost model says, with a jitter drawn from the seed.
"""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cos2p.log import messages as m
from cos2p.log.topics import partition_of
from cos2p.model.cost import CostModel, Workload
from cos2p.model.payload import expected_bytes
from cos2p.model.unit_wire import UnitColumns, UnitScores
from cos2p.model.units import UnitTable
from cos2p.run_config import RunConfig
from cos2p_planner.baselines.policies import OURS_OFF
from cos2p_planner.core import PlannerCore
from cos2p_planner.presets import merged

JETSON16_WEAK = (
    *((0.2, 0.04),) * 4,
    *((0.5, 0.13),) * 3,
    *((0.5, 0.16),) * 3,
    *((0.65, 0.27),) * 2,
    (0.5, 0.24),
    *((0.65, 0.35),) * 2,
    (0.65, 1.0),
)
"""Budget fraction and relative speed of sixteen devices none of which holds the whole model."""
STEP_S = 0.1
"""Seconds of a whole model's step on the fastest device; sending it takes ten times that."""
JITTER = 0.1


class PlannedRun:
    """A run of the core alone.

    Args:
        table: the model's units.
        devices: budget fraction and speed of each.
        config: settings, as sections of a run file; what is ours is off unless they turn it on.
        seed: of the jitter.
        scores: squared gate scores that every device reports, shape (units, classes).
    """

    def __init__(
        self,
        table: UnitTable,
        devices: Sequence[tuple[float, float]],
        config: dict[str, Any],
        seed: int = 0,
        scores: NDArray[np.float64] | None = None,
    ) -> None:
        self.table, self._scores = table, scores
        own = merged(OURS_OFF, config | {"liveness": {"min_workers": len(devices)}})
        self.config = RunConfig.model_validate(own)
        self.costs = CostModel.of(table, self.config)
        self.core = PlannerCore("run-1", 1, updates_topic="t-updates")
        self.decisions: list[m.Decision] = []
        self._chance = np.random.default_rng(seed)
        self._queue: list[tuple[float, int, m.Plan, float]] = []
        self._offset = 0
        whole = self.config.local.batch_size * self.costs.training_flops(range(len(table)))
        model_bytes = 4 * table.parameter_count
        self._profiles = {
            f"w{i:02d}": m.DeviceProfile(
                memory_bytes=self.costs.memory_for_fraction(fraction),
                flops_per_s=speed * whole / STEP_S,
                bytes_per_s=(1.0 if i % 2 else 0.5) * model_bytes / (10 * STEP_S),
            )
            for i, (fraction, speed) in enumerate(devices)
        }
        self.bound = int(sum(fraction for fraction, _ in devices))
        """floor(sum r): the most devices that can hold every unit."""

    def play(self) -> None:
        """From the request to the last version."""
        size = expected_bytes(self.table, "v0", range(len(self.table)))
        self._append_message(
            m.RunRequested(
                run_id="run-1",
                config=self.config,
                task="tests:task",
                units=UnitColumns.of(self.table),
                checkpoint=_blob("t-checkpoints", 0, "v0", size),
            ),
            0.0,
        )
        for worker_id, profile in self._profiles.items():
            self._append_message(
                m.Hello(
                    run_id="run-1",
                    worker_id=worker_id,
                    incarnation=1,
                    profile=profile,
                    sample_count=100,
                    label_counts=(10,) * 10,
                    units_digest=self.table.digest,
                ),
                0.0,
            )
        while self._queue and self.core.ledger.ended is None:
            now, _, plan, train_s = heapq.heappop(self._queue)
            self.core.fleet.shift_last_heard(
                now - self.core.ledger.progress_s
            )  # all of them are alive
            self._append_message(self._report(plan, train_s), now)

    @property
    def closed(self) -> list[m.RoundClosed]:
        """The versions."""
        return [d for d in self.decisions if isinstance(d, m.RoundClosed)]

    def merged_in_windows(self, first: int, length: int = 4) -> list[int]:
        """Least merged updates of any prunable unit, per window of versions from `first` on."""
        plans = {d.plan.plan_id: d.plan for d in self.decisions if isinstance(d, m.PlanIssued)}
        versions = [np.zeros(len(self.table), np.int64)]
        for decision in self.decisions:
            if isinstance(decision, m.UpdateAdmitted):
                versions[-1][list(plans[decision.plan_id].trained)] += 1
            elif isinstance(decision, m.RoundClosed):
                versions.append(np.zeros(len(self.table), np.int64))
        counts = np.array(versions[:-1])[:, self.table.prunable]
        windows = range(first, len(counts) - length + 1)
        return [int(counts[w : w + length].sum(axis=0).min()) for w in windows]

    def _append_message(self, message: m.Message, now: float) -> None:
        made = self.core.handle(self._offset, message, now) + self.core.advance(now)
        self._offset += 1
        self.decisions += made
        for plan in (d.plan for d in made if isinstance(d, m.PlanIssued)):
            profile = self._profiles[plan.worker_id]
            weights = self.costs.weight_bytes(plan.trained)
            flops = self.costs.training_flops(plan.trained, plan.frozen)
            work = Workload(flops, plan.batch_size, plan.local_steps, weights, weights)
            train_s = work.train_s(profile.flops_per_s) * float(
                np.exp(JITTER * self._chance.normal())
            )
            due_s = now + train_s + work.wire_s(profile.bytes_per_s)
            heapq.heappush(self._queue, (due_s, len(self.decisions), plan, train_s))

    def _report(self, plan: m.Plan, train_s: float) -> m.Report:
        size = expected_bytes(self.table, plan.plan_id, plan.trained)
        partition = partition_of(plan.worker_id, self.config.partitions)
        return m.Report(
            run_id="run-1",
            worker_id=plan.worker_id,
            incarnation=1,
            plan_id=plan.plan_id,
            status="done",
            blob=_blob("t-updates", partition, f"{plan.plan_id}.1", size),
            sample_count=100,
            steps_done=plan.local_steps,
            train_s=train_s,
            peak_bytes=plan.peak_bytes,
            scores=self._scored(plan),
        )

    def _scored(self, plan: m.Plan) -> UnitScores | None:
        if self._scores is None:
            return None
        sums = 10 * self._scores[[u for u in plan.trained if self.table.gated[u]]]
        classes = sums.shape[1]
        return UnitScores(
            classes=classes, counts=(10,) * classes, sums=sums.astype("<f4").tobytes()
        )


def _blob(topic: str, partition: int, blob_id: str, size: int) -> m.BlobRef:
    return m.BlobRef(
        topic=topic,
        partition=partition,
        first_offset=0,
        last_offset=0,
        chunk_count=1,
        byte_count=size,
        digest=bytes(32),
        blob_id=blob_id,
    )
