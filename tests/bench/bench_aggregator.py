"""The aggregator's figures: merge rate, peak memory in models, bytes moved per byte needed.

Memory and bytes are those of an aggregator process of its own (this file run with arguments) that
obeys one version's decisions on the embedded bus; the log is written here beforehand, deltas from
one buffer. Whatever lies on disk is deleted after each case.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rows import Row

from cos2p.clock import SystemClock
from cos2p.log import messages as m
from cos2p.log.blobs import write_blob
from cos2p.log.bus import Bus, NewRecord, Offsets, Record, TopicSpec
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.log.mailbox import Outbox
from cos2p.log.topics import CHECKPOINTS, DECISIONS, UPDATES, partition_of, specs
from cos2p.model.payload import Buffer, Header, parts
from cos2p.model.unit_wire import UnitColumns
from cos2p.model.units import STEM, Unit, UnitTable, unit_digest
from cos2p.run_config import RunConfig
from cos2p.service.logs import configure_logs
from cos2p.service.role import RoleContext
from cos2p_aggregator import merge
from cos2p_aggregator.memory import give_chunks_back
from cos2p_aggregator.shell import run_aggregator

PREFIX, RUN = "bench", "bench-1"
F32 = NDArray[np.float32]
MODELS_MAX, MOVED_MAX, RATE_MIN = 3.0, 1.05, 0.7
MIB = 1 << 20


def rows() -> list[Row]:
    """All figures; about two minutes and 8 GB of disk."""
    found = merge_rows()
    for size in (25_000_000, 110_000_000):
        for workers in (4, 16):
            found += process_rows(size, workers, together=False)
    found += process_rows(25_000_000, 16, together=True)[1:]
    return found


# ---------------------------------------------------------------- merge rate


def merge_rows(size: int = 25_000_000) -> list[Row]:
    """Kernel against an in-place axpy of the same arrays on one thread."""
    delta = np.random.default_rng(0).random(size, np.float32)
    accumulator = np.zeros(size, np.float32)
    scratch = np.empty(merge.BLOCK, np.float32)
    axpy, name = in_place_axpy(delta, accumulator)

    def add() -> None:
        merge.add_weighted(accumulator, delta, 0.5, first=False, scratch=scratch)

    def check_and_add() -> None:
        merge.inspected(delta, 1e9)
        add()

    reference, plain, checked = seconds_of([axpy, add, check_and_add])
    note = f"{size / 1e6:.0f}M parameters, against {name}, one thread each"
    ratio = reference / plain
    rate = 4 * size / reference / 1e9
    return [
        Row("in-place axpy of this machine", rate, "GB/s of delta", note=name),
        Row("merge against in-place axpy", ratio, "ratio", ">= 0.7", ratio >= RATE_MIN, note),
        Row("the same with finiteness and norm", reference / checked, "ratio", note=note),
    ]


def in_place_axpy(delta: F32, accumulator: F32) -> tuple[Callable[[], object], str]:
    """The fastest one-thread y += a * x at hand."""
    try:
        import torch
    except ImportError:
        return (lambda: np.add(accumulator, delta, accumulator)), "numpy's y += x"
    torch.set_num_threads(1)
    y, x = torch.from_numpy(accumulator), torch.from_numpy(delta)
    return (lambda: y.add_(x, alpha=0.5)), "torch's y.add_(x, alpha=a)"


def seconds_of(deeds: list[Callable[[], object]], repeats: int = 9) -> list[float]:
    """The median time of each, taken in turns so that noise falls on all alike."""
    taken: list[list[float]] = [[] for _ in deeds]
    for _ in range(repeats):
        for deed, times in zip(deeds, taken, strict=True):
            begin = time.perf_counter()
            deed()
            times.append(time.perf_counter() - begin)
    return [median(times) for times in taken]


# ---------------------------------------------------------------- memory and bytes


@dataclass(frozen=True)
class Case:
    """One synthetic run of one version.

    Attributes:
        size: parameters of the model.
        workers: how many updates come.
        together: they are appended at the same time, so that their chunks lie mixed.
    """

    size: int
    workers: int
    together: bool


def process_rows(size: int, workers: int, *, together: bool) -> list[Row]:
    """Peak memory and traffic of an aggregator process."""
    case = Case(size, workers, together)
    with tempfile.TemporaryDirectory(prefix="cos2p-bench-") as folder:
        needed = asyncio.run(write_run(Path(folder), case))
        seen = measured(Path(folder))
    models = (seen["peak_bytes"] - seen["baseline_bytes"]) / (4 * size)
    moved = seen["moved_bytes"] / needed
    name = f"{size / 1e6:.0f}M parameters, {workers} workers"
    text = f"<= {MODELS_MAX:g}"
    note = (
        f"raw, average and accumulator are 3; interpreter's {seen['baseline_bytes'] / MIB:.0f} MiB "
        f"taken off; {seen['wall_s']:.1f} s"
    )
    how = "read and appended by the process; blobs " + ("mixed" if together else "one by one")
    moved_met = None if together else moved <= MOVED_MAX
    budget = "" if together else "<= 1.05"
    return [
        Row(f"peak memory, {name}", models, "models", text, models <= MODELS_MAX, note),
        Row(f"bytes moved per byte needed, {name}", moved, "ratio", budget, moved_met, how),
    ]


def measured(folder: Path) -> dict[str, Any]:
    """What the process told of itself."""
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def synthetic_table(size: int) -> UnitTable:
    """A stem of 5 % and 12 blocks of 12 heads and 24 neuron groups each."""
    block = size * 95 // 100 // 12
    norm, head = block // 1000, block // 36
    neurons = (block - norm - 12 * head) // 24
    units: list[Unit] = []
    for b in range(12):
        units.append(Unit(f"block{b}.norm", "core", b, norm, 1, 1))
        units += [Unit(f"block{b}.head.{h}", "head", b, head, 1, 1) for h in range(12)]
        units += [Unit(f"block{b}.neurons.{n}", "neurons", b, neurons, 1, 1) for n in range(24)]
    rest = size - sum(u.size for u in units)
    return UnitTable((Unit("stem", "core", STEM, rest, 1, 1), *units))


def payload(table: UnitTable, owner: str, units: Sequence[int], buffer: F32) -> Iterator[Buffer]:
    """A payload whose units are all cut from one buffer."""
    values = [buffer[: table.units[u].size] for u in units]
    digests = {len(v): unit_digest(v) for v in {len(v): v for v in values}.values()}
    return parts(Header(owner, tuple(units), 1, tuple(digests[len(v)] for v in values)), values)


async def write_run(folder: Path, case: Case) -> int:
    """A log of one version; bytes that its aggregator can't do without."""
    table = synthetic_table(case.size)
    config = RunConfig()
    bus = SqliteBus(folder / "run", SystemClock())
    await bus.create_topics(specs(PREFIX, config.partitions))
    buffer = np.random.default_rng(0).random(int(table.sizes.max()), np.float32)
    buffer *= np.float32(1e-3)  # or the largest units' deltas would be over the norm bound
    every = range(len(table))
    base = await write_blob(
        bus, CHECKPOINTS.full_name(PREFIX), 0, "v0", payload(table, "v0", every, buffer)
    )
    plans = [plan_of(table, i) for i in range(case.workers)]
    writes = [upload(bus, table, config, plan, buffer) for plan in plans]
    if case.together:
        blobs = list(await asyncio.gather(*writes))
    else:
        blobs = [await write for write in writes]
    await Outbox(bus, PREFIX, DECISIONS).send(*decisions(table, config, base, plans, blobs))
    await bus.close()
    plan_bytes = sum(b.byte_count for b in blobs)
    # Version 0 and the updates are read; submodels and a checkpoint of two states are written.
    return base.byte_count + 2 * plan_bytes + 8 * case.size


def plan_of(table: UnitTable, index: int) -> m.Plan:
    """Every worker gets 15, 30, 45 or 60 % of the units, at another place."""
    count = int((0.15, 0.30, 0.45, 0.60)[index % 4] * len(table))
    chosen = [(index * 97 + i) % len(table) for i in range(count)]
    return m.Plan(
        plan_id=f"p{index:06d}",
        worker_id=f"worker-{index}",
        incarnation=1,
        base_version=0,
        trained=table.close(chosen),
        local_steps=1,
        batch_size=1,
        learning_rate=1e-3,
        seed=0,
        deadline_s=1.0,
        peak_bytes=1,
    )


async def upload(
    bus: Bus, table: UnitTable, config: RunConfig, plan: m.Plan, buffer: F32
) -> m.BlobRef:
    """One worker's update."""
    partition = partition_of(plan.worker_id, config.partitions)
    content = payload(table, plan.plan_id, plan.trained, buffer)
    topic = UPDATES.full_name(PREFIX)
    return await write_blob(bus, topic, partition, f"{plan.plan_id}.1", content)


def decisions(
    table: UnitTable,
    config: RunConfig,
    base: m.BlobRef,
    plans: list[m.Plan],
    blobs: list[m.BlobRef],
) -> list[m.Decision]:
    """Start, all plans, all updates, version 1, end."""
    common: dict[str, Any] = {"run_id": RUN, "epoch": 1, "fleet_offset": 0, "at_s": 0.0}
    columns = UnitColumns.of(table)
    started = m.RunStarted(**common, config=config, task="none", units=columns, checkpoint=base)
    admitted = [
        m.UpdateAdmitted(
            **common,
            plan_id=plan.plan_id,
            worker_id=plan.worker_id,
            blob=blob,
            weight=1.0,
            staleness=0,
            steps_done=1,
        )
        for plan, blob in zip(plans, blobs, strict=True)
    ]
    closed = m.RoundClosed(
        **common, version=1, reason="count", update_count=len(plans), waited_s=0, coverage_min=0
    )
    return [
        m.EpochStarted(**common, planner_id="bench"),
        started,
        *(m.PlanIssued(**common, plan=plan) for plan in plans),
        *admitted,
        closed,
        m.RunEnded(**common, version=1, reason="target"),
    ]


# ---------------------------------------------------------------- the measured process


class CountingBus:
    """A bus that counts the bytes of the values that pass."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.moved_bytes = 0

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See `Bus`."""
        await self._bus.create_topics(specs)

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """See `Bus`."""
        self.moved_bytes += sum(len(r.value) for r in records)
        return await self._bus.append(topic, partition, records)

    async def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        bytes_max: int = 4 << 20,
        wait_s: float = 0,
    ) -> list[Record]:
        """See `Bus`."""
        records = await self._bus.read(topic, partition, offset, bytes_max=bytes_max, wait_s=wait_s)
        self.moved_bytes += sum(len(r.value) for r in records)
        return records

    async def end_offsets(self, topic: str) -> dict[int, Offsets]:
        """See `Bus`."""
        return await self._bus.end_offsets(topic)

    async def close(self) -> None:
        """See `Bus`."""
        await self._bus.close()


def status_bytes(field: str) -> int:
    """A line of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


async def obey(folder: Path) -> dict[str, float]:
    """Run the aggregator to the end of the run and look at this process."""
    give_chunks_back()
    clock, log = SystemClock(), configure_logs("error", "json")
    bus = CountingBus(SqliteBus(folder / "run", clock))
    await bus.end_offsets(DECISIONS.full_name(PREFIX))
    baseline, begin = status_bytes("VmRSS"), clock.now()
    await run_aggregator(RoleContext(bus, clock, log, PREFIX), shard=0)
    wall_s = clock.now() - begin
    await bus.close()
    return {
        "baseline_bytes": baseline,
        "peak_bytes": status_bytes("VmHWM"),
        "moved_bytes": bus.moved_bytes,
        "wall_s": wall_s,
    }


if __name__ == "__main__":
    json.dump(asyncio.run(obey(Path(sys.argv[1]))), sys.stdout)
