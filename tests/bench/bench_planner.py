"""How long one plan takes in a large fleet."""

import time

import numpy as np
from rows import Row

from cos2p.log import messages as m
from cos2p.log.topics import partition_of
from cos2p.model.payload import expected_bytes
from cos2p.model.unit_wire import UnitColumns
from cos2p.model.units import Unit, UnitTable
from cos2p.run_config import RunConfig
from cos2p_planner.baselines.policies import OURS_OFF
from cos2p_planner.core import PlannerCore
from cos2p_planner.presets import merged

DEVICES, BLOCKS, HEADS, GROUPS = 1000, 12, 12, 30
FLOOR = 250
"""N*: two thirds of what the devices can hold together."""
BUDGET_MS = 20.0


def table() -> UnitTable:
    """518 units in 12 blocks."""
    units = [Unit("stem", "core", -1, 100_000, 10**6, 1000)]
    for b in range(BLOCKS):
        units.append(Unit(f"{b}.core", "core", b, 4608, 10**4, 10**5))
        units += [Unit(f"{b}.head{i}", "head", b, 196_000, 10**7, 10**5) for i in range(HEADS)]
        units += [
            Unit(f"{b}.neurons{i}", "neurons", b, 157_000, 10**7, 4 * 10**4) for i in range(GROUPS)
        ]
    units.append(Unit("classifier", "core", -1, 7690, 10**4, 1000))
    return UnitTable(tuple(units))


def rows() -> list[Row]:
    """Milliseconds from a report to the admission and the device's next plan, units chosen anew."""
    model = table()
    own = {"plans": {"hold_plans": 1, "coverage_floor": FLOOR}, "rounds": {"versions": 10**6}}
    config = RunConfig.model_validate(merged(OURS_OFF, own))
    core = PlannerCore("run-1", 1, updates_topic="t-updates")
    _request(core, model, config)
    plans = {}
    for i in range(DEVICES):
        for decision in _hello(core, model, i):
            plans[decision.plan.worker_id] = decision.plan
    took = []
    for i in range(300):
        plan = plans[f"w{i:04d}"]
        report = _report(plan, model, config)
        began = time.perf_counter()
        made = core.handle(2000 + i, report, 10.0) + core.advance(10.0)
        took.append(1000 * (time.perf_counter() - began))
        assert any(isinstance(d, m.PlanIssued) for d in made)
    value = float(np.median(took))
    note = f"{DEVICES} devices, {len(model)} units, median of {len(took)}; p95 "
    note += f"{np.percentile(took, 95):.1f} ms"
    budget = f"<= {BUDGET_MS:.0f} ms"
    return [Row("report to next plan", value, "ms", budget, value <= BUDGET_MS, note)]


def _request(core: PlannerCore, model: UnitTable, config: RunConfig) -> None:
    size = expected_bytes(model, "v0", range(len(model)))
    core.handle(
        0,
        m.RunRequested(
            run_id="run-1",
            config=config,
            task="bench:task",
            units=UnitColumns.of(model),
            checkpoint=_blob("t-checkpoints", 0, "v0", size),
        ),
        0.0,
    )


def _hello(core: PlannerCore, model: UnitTable, i: int) -> list[m.PlanIssued]:
    assert core.ledger.run is not None
    memory = core.ledger.run.costs.memory_for_fraction(0.15 + 0.45 * (i % 4) / 3)
    hello = m.Hello(
        run_id="run-1",
        worker_id=f"w{i:04d}",
        incarnation=1,
        profile=m.DeviceProfile(memory_bytes=memory, flops_per_s=1e9 * (1 + i % 8)),
        sample_count=100,
        units_digest=model.digest,
    )
    made = core.handle(1 + i, hello, 1.0) + core.advance(1.0)
    return [d for d in made if isinstance(d, m.PlanIssued)]


def _report(plan: m.Plan, model: UnitTable, config: RunConfig) -> m.Report:
    size = expected_bytes(model, plan.plan_id, plan.trained)
    partition = partition_of(plan.worker_id, config.partitions)
    return m.Report(
        run_id="run-1",
        worker_id=plan.worker_id,
        incarnation=1,
        plan_id=plan.plan_id,
        status="done",
        blob=_blob("t-updates", partition, f"{plan.plan_id}.1", size),
        sample_count=100,
        steps_done=plan.local_steps,
        train_s=1.0,
        peak_bytes=plan.peak_bytes,
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
