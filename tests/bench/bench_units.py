"""What the weights of a version cost on the wire: bytes written and fetched, per byte needed.

Whole rings on virtual time, with a stand-in for training. The production aggregator and workers
count for themselves; here the log is read afterwards.
"""

import asyncio
from collections import defaultdict
from functools import partial
from typing import Any

import numpy as np
from rows import Row

from cos2p.clock import LoopClock
from cos2p.log import codec
from cos2p.log import messages as m
from cos2p.log.run_request import NewRun, request_run
from cos2p.log.topics import FLEET, MODELS, SUBMODELS
from cos2p.log.unit_blobs import read_digests
from cos2p.model.units import STEM, Unit, UnitTable
from cos2p.run_config import AnchorConfig, LocalConfig, PlanConfig, RoundConfig, RunConfig
from cos2p.service.role import RoleContext
from cos2p_sim.learner import Behaviour, stand_in
from cos2p_sim.loop import run_virtual
from cos2p_sim.ring import RingLog, live_together, ring_of, silent_log
from cos2p_worker.shell import WorkerDevice, run_worker

PREFIX, VERSIONS = "bench", 5
SIZES = {"large": 50_000, "small": 3_000}
WRITTEN_MAX, FETCHED_MAX = 1.1, 1.05
MEMORY_BYTES = 1 << 30


def rows() -> list[Row]:
    """The ratios for fleets of three sizes, and for large and small units."""
    found = []
    for kind, size in SIZES.items():
        for count in (4, 16, 64):
            found += _rows(kind, count, *run_virtual(_measure(_table(size), count)))
    return found


def _rows(kind: str, count: int, written: float, fetched: float) -> list[Row]:
    of = f"{kind} units, {count} workers"
    how = f"{VERSIONS} versions, each device holds what fits it"
    return [
        Row(
            f"bytes written / bytes of units that plans needed, {of}",
            written,
            "x",
            f"<= {WRITTEN_MAX}",
            written <= WRITTEN_MAX,
            how,
        ),
        Row(
            f"bytes fetched / bytes that the device lacked, {of}",
            fetched,
            "x",
            f"<= {FETCHED_MAX}",
            fetched <= FETCHED_MAX,
            how,
        ),
    ]


def _table(size: int) -> UnitTable:
    units = [Unit("stem", "core", STEM, size, size, 10)]
    for block in range(6):
        units.append(Unit(f"block{block}.core", "core", block, 500, 500, 10))
        units += [Unit(f"block{block}.head.{i}", "head", block, size, size, 10) for i in range(4)]
    return UnitTable(tuple(units))


def _config() -> RunConfig:
    return RunConfig(
        rounds=RoundConfig(versions=VERSIONS),
        local=LocalConfig(steps=3, batch_size=4, anchor=AnchorConfig(share=0.0)),
        plans=PlanConfig(nested_depth=0.0),
        partitions=4,
    )


async def _measure(table: UnitTable, count: int) -> tuple[float, float]:
    clock = LoopClock()
    log = RingLog(clock, PREFIX)
    chance = np.random.default_rng(0)
    values = [chance.standard_normal(int(n), np.float32) for n in table.sizes]
    await request_run(log, PREFIX, NewRun("r", "bench:stand-in", _config(), table, values))
    need = 16 * table.parameter_count
    workers: dict[str, Any] = {}
    for i in range(count):
        # A quarter of the devices each: 40, 60, 80 and 120 % of what the whole model takes.
        memory = int(need * (0.4, 0.6, 0.8, 1.2)[i % 4]) + (1 << 20)
        trainer_of = stand_in(table, Behaviour(1e7 * (1 + i % 3), MEMORY_BYTES), clock)
        body = partial(run_worker, device=WorkerDevice(memory), trainer_of=trainer_of)
        workers[f"worker-{i}"] = partial(body, worker_id=f"worker-{i}")
    bodies = ring_of((0,), workers, planner_id="planner")
    quiet = silent_log()
    await live_together(
        body(RoleContext(log, clock, quiet, PREFIX, asyncio.Event())) for body in bodies.values()
    )
    return await _ratios(log, table)


async def _ratios(log: RingLog, table: UnitTable) -> tuple[float, float]:
    """Bytes written, and bytes fetched, each by the bytes that were needed."""
    sizes = 4 * table.sizes
    written = sum(len(r.value) for r in log.everything(SUBMODELS))
    ever: set[tuple[int, bytes]] = set()
    had: dict[str, set[tuple[int, bytes]]] = defaultdict(set)
    lacked: dict[str, int] = {}
    for record in log.everything(MODELS):
        message = codec.decode(record)
        if isinstance(message, m.Dispatched):
            held: dict[int, bytes] = {}
            for place in reversed(message.blobs):
                held |= await read_digests(log, place)
            plan = message.plan
            mine = {(unit, held[unit]) for unit in (*plan.trained, *plan.frozen)}
            own = had[plan.worker_id]
            lacked[plan.plan_id] = sum(int(sizes[unit]) for unit, _ in mine - own)
            own |= mine
            ever |= mine
    fetched = needed = 0
    for record in log.everything(FLEET):
        message = codec.decode(record)
        if isinstance(message, m.Report):
            fetched += message.bytes_down
            needed += lacked[message.plan_id]
    return written / sum(int(sizes[unit]) for unit, _ in ever), fetched / needed
