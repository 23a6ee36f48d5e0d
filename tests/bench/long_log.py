"""A long run's log, made by the production cores without training: what a start has to cope with.

The planner's core plans for sixteen devices under virtual time. They send deltas of zeros, so every
version has the bytes of version 0, and what an aggregator makes of the decisions is known without
one. What would lie in `submodels` is not written: retention would have taken it.
"""

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3
from dispatching import one_blob

from cos2p.log import codec
from cos2p.log import messages as m
from cos2p.log.blobs import BLOB_HEADER, CHUNK_HEADER
from cos2p.log.bus import Bus, NewRecord
from cos2p.log.messages import BlobRef
from cos2p.log.run_request import NewRun, request_run
from cos2p.log.topics import (
    CHECKPOINTS,
    DECISIONS,
    FLEET,
    HEARTBEATS,
    MODELS,
    SUBMODELS,
    UPDATES,
    Topic,
)
from cos2p.model.payload import header_of, parts
from cos2p.model.units import STEM, Unit, UnitTable, unit_digest
from cos2p.run_config import RunConfig
from cos2p_aggregator.effects import Checkpoint
from cos2p_aggregator.store import ModelStore
from cos2p_planner.baselines.policies import OURS_OFF
from cos2p_planner.core import PlannerCore
from cos2p_planner.fold import PlannerFold
from cos2p_planner.presets import merged

RUN = "long"
DEVICES = 16
CHECKPOINT_EVERY = 100
VERSION_S = 2.16
"""Seconds of a version: 20,000 of them are 12 hours."""


Taken = Callable[[Topic, int, float, m.Message, bytes], None]
"""Called with a record's topic, offset, time, message and value."""


class SetClock:
    """A clock that the maker of the log sets."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        """The time, seconds since the epoch."""
        return self._now

    def set(self, now: float) -> None:
        """It is later."""
        self._now = max(self._now, now)

    async def sleep(self, seconds: float) -> None:
        """Nothing here waits."""
        await asyncio.sleep(0)


def table(blocks: int = 8, size: int = 24) -> UnitTable:
    """A model of a stem and blocks of two heads and four neuron groups."""
    units = [Unit("stem", "core", STEM, size, size, 10)]
    for b in range(blocks):
        units.append(Unit(f"block{b}.core", "core", b, 8, 8, 10))
        units += [Unit(f"block{b}.head.{i}", "head", b, size, size, 10) for i in range(2)]
        units += [Unit(f"block{b}.neurons.{i}", "neurons", b, size, size, 10) for i in range(4)]
    return UnitTable(tuple(units))


def config(versions: int) -> RunConfig:
    """Four updates a version, a checkpoint every hundred versions."""
    own = {
        "rounds": {"versions": versions, "update_count": 4, "staleness_max": 20},
        "local": {"steps": 5, "batch_size": 4},
        "merge": {"average_decay": 0.0, "checkpoint_every": CHECKPOINT_EVERY},
        "liveness": {"min_workers": DEVICES, "stall_after_s": 3600.0},
        "plans": {"hold_plans": 4},
        "partitions": 1,
    }
    return RunConfig.model_validate(merged(OURS_OFF, own))


@dataclass(frozen=True)
class Made:
    """What was written.

    Attributes:
        versions: closed.
        plans: issued.
    """

    versions: int
    plans: int


class Spool:
    """Records of one partition on their way to the bus, some hundred at a time."""

    def __init__(self, bus: Bus, topic: str, first: int = 0) -> None:
        self._bus, self._topic = bus, topic
        self._waiting: list[NewRecord] = []
        self.next = first

    def put(self, record: NewRecord) -> int:
        """Take a record; its offset."""
        self._waiting.append(record)
        self.next += 1
        return self.next - 1

    async def flush(self) -> None:
        """Append what waits."""
        waiting, self._waiting = self._waiting, []
        await self._bus.append(self._topic, 0, waiting)


class LongRun:
    """A run that is not over, up to a version.

    Args:
        bus: an empty bus on `clock`.
        clock: set as the run goes on.
        prefix: of the topics' names.
        taken: called with each record of the small topics.
    """

    def __init__(
        self,
        bus: Bus,
        clock: SetClock,
        prefix: str,
        taken: Taken = lambda topic, offset, at_s, message, value: None,
    ) -> None:
        self._bus, self._clock, self._prefix, self._taken = bus, clock, prefix, taken
        self._table = table()
        self._planner = PlannerCore(RUN, 1, updates_topic=UPDATES.full_name(prefix))
        self._spools = {
            topic: Spool(bus, topic.full_name(prefix))
            for topic in (FLEET, DECISIONS, MODELS, UPDATES, CHECKPOINTS)
        }
        self._queue: list[tuple[float, int, m.Plan]] = []
        self._order = itertools.count()
        self._publish: dict[str, Any] = {}
        self._issued_at: dict[str, int] = {}

    @property
    def known(self) -> PlannerFold:
        """What the planner knows."""
        return self._planner.known

    async def write(
        self, versions: int, flushed: Callable[[int], Awaitable[None]] | None = None
    ) -> Made:
        """Write the log of this many versions.

        Args:
            versions: how many.
            flushed: called with the newest version whenever records have been appended.
        """
        settings = config(versions * 10)
        values = [np.zeros(n, np.float32) for n in self._table.sizes]
        request = await request_run(
            self._bus, self._prefix, NewRun(RUN, "long:log", settings, self._table, values)
        )
        self._spools[FLEET].next = self._spools[CHECKPOINTS].next = 1
        now = self._clock.now()
        opened = m.EpochStarted(run_id=RUN, epoch=1, fleet_offset=0, at_s=now, planner_id="maker")
        self._decide([opened])
        self._decide(self._planner.handle(0, request, now))
        for i in range(DEVICES):
            self._append_message(self._hello(i))
        ledger, reports = self._planner.ledger, 0
        while ledger.version < versions:
            due_s, _, plan = heapq.heappop(self._queue)
            self._clock.set(due_s)
            self._planner.fleet.shift_last_heard(1e3)  # all of them are alive
            self._append_message(self._report(plan))
            reports += 1
            if not reports % 200:
                await self._flush()
                if flushed is not None:
                    await flushed(ledger.version)
        await self._flush()
        return Made(ledger.version, ledger.plan_count)

    async def _flush(self) -> None:
        for topic in (CHECKPOINTS, UPDATES, FLEET, DECISIONS, MODELS):
            await self._spools[topic].flush()

    def _hello(self, i: int) -> m.Hello:
        run = self._planner.ledger.run
        assert run is not None
        whole = run.config.local.batch_size * run.costs.training_flops(range(len(run.table)))
        memory = run.costs.memory_for_fraction(0.2 + 0.05 * i)
        profile = m.DeviceProfile(memory_bytes=memory, flops_per_s=whole * (1 + i))
        return m.Hello(
            run_id=RUN,
            worker_id=f"worker-{i}",
            incarnation=1,
            profile=profile,
            sample_count=100,
            label_counts=(10,) * 10,
            units_digest=self._table.digest,
        )

    def _report(self, plan: m.Plan) -> m.Report:
        values = [np.zeros(self._table.sizes[u], np.float32) for u in plan.trained]
        header = header_of(plan.plan_id, plan.trained, values)
        blob = self._blob(
            UPDATES, f"{plan.plan_id}.{plan.incarnation}", b"".join(parts(header, values))
        )
        return m.Report(
            run_id=RUN,
            worker_id=plan.worker_id,
            incarnation=1,
            plan_id=plan.plan_id,
            status="done",
            blob=blob,
            sample_count=100,
            steps_done=plan.local_steps,
            idle_s=0.1,
            fetch_s=0.2,
            train_s=VERSION_S,
            upload_s=0.2,
            peak_bytes=plan.peak_bytes,
            bytes_down=1000,
            bytes_up=blob.byte_count,
            loss_first=1.0,
            loss_last=0.5,
        )

    def _blob(self, topic: Topic, blob_id: str, payload: bytes) -> BlobRef:
        headers = {BLOB_HEADER: blob_id.encode(), CHUNK_HEADER: b"0"}
        offset = self._spools[topic].put(NewRecord(payload, blob_id.encode(), headers))
        return BlobRef(
            topic=topic.full_name(self._prefix),
            partition=0,
            first_offset=offset,
            last_offset=offset,
            chunk_count=1,
            byte_count=len(payload),
            digest=blake3(payload).digest(),
            blob_id=blob_id,
        )

    def _put(self, topic: Topic, message: m.Message) -> int:
        record = codec.encode(message)
        offset = self._spools[topic].put(record)
        self._taken(topic, offset, self._clock.now(), message, bytes(record.value))
        return offset

    def _append_message(self, message: m.Message) -> None:
        offset = self._put(FLEET, message)
        now = self._clock.now()
        made = self._planner.handle(offset, message, now)
        self._decide(made + self._planner.advance(now))

    def _decide(self, decisions: list[m.Decision]) -> None:
        for decision in decisions:
            offset = self._put(DECISIONS, decision)
            for made in self._obey(decision, offset + 1):
                self._put(MODELS, made)
                self._planner.handle_model(made, self._clock.now())
        self._planner.fleet.notices.clear()

    def _obey(self, decision: m.Decision, after: int) -> Iterator[m.Message]:
        """What an aggregator makes of a decision, where no update changes a byte."""
        stamp = {"run_id": RUN, "decisions_offset": after}
        match decision:
            case m.RunStarted():
                yield m.RunOpened.model_validate(
                    stamp
                    | {"config": decision.config, "task": decision.task}
                    | {"units_digest": self._table.digest}
                )
                digests = b"".join(unit_digest(np.zeros(n, np.float32)) for n in self._table.sizes)
                zeros = np.zeros(len(self._table), "<f4").tobytes()
                self._publish = {"shard": 0, "shard_count": 1, "unit_digests": digests}
                self._publish |= {"digest": blake3(digests).digest(), "unit_norms": zeros}
                first = {"version": 0, "checkpoint": decision.checkpoint}
                yield m.VersionPublished.model_validate(stamp | self._publish | first)
            case m.PlanIssued():
                plan = decision.plan
                late_s = VERSION_S * DEVICES / 4 * (0.5 + 1.0 / (1 + plan.seed % 7))
                due_s = self._clock.now() + late_s
                self._issued_at[plan.plan_id] = after - 1
                heapq.heappush(self._queue, (due_s, next(self._order), plan))
                yield m.Dispatched.model_validate(
                    stamp
                    | {"plan": plan, "shard": 0, "shard_count": 1}
                    | one_blob((*plan.trained, *plan.frozen), self._submodel(plan, after))
                )
            case m.RoundClosed():
                shares = np.ones(len(self._table), "<f4").tobytes()
                body: dict[str, Any] = {"version": decision.version, "unit_shares": shares}
                if not decision.version % CHECKPOINT_EVERY:
                    open_now = self._planner.ledger.open
                    at = {p: o for p, o in self._issued_at.items() if p in open_now}
                    self._issued_at = at
                    body["checkpoint"] = self._checkpoint(decision.version)
                    body["open_plans"] = tuple(sorted(at.values()))
                yield m.VersionPublished.model_validate(
                    stamp | self._publish | body | {"merged_count": decision.update_count}
                )
            case _:
                pass

    def _checkpoint(self, version: int) -> BlobRef:
        values = [np.zeros(n, np.float32) for n in self._table.sizes]
        store = ModelStore(self._table, tuple(range(len(self._table))), averaged=False)
        for unit, value in enumerate(values):
            store.load(unit, value)
        made = Checkpoint(f"v{version}.s0", store)
        return self._blob(CHECKPOINTS, made.owner, b"".join(made.payload()))

    def _submodel(self, plan: m.Plan, offset: int) -> BlobRef:
        return BlobRef(
            topic=SUBMODELS.full_name(self._prefix),
            partition=0,
            first_offset=offset,
            last_offset=offset,
            chunk_count=1,
            byte_count=1000,
            digest=bytes(32),
            blob_id=f"{plan.plan_id}.s0",
        )


async def write_beats(bus: Bus, prefix: str, count: int) -> None:
    """Append heartbeats, many at a time: how they came does not matter to who reads them."""
    name = HEARTBEATS.full_name(prefix)
    beats = [
        m.Heartbeat(run_id=RUN, worker_id=f"worker-{i}", incarnation=1, state="training")
        for i in range(DEVICES)
    ]
    encoded = [codec.encode(beat) for beat in beats]
    batch = encoded * 125
    for _ in range(count // len(batch)):
        await bus.append(name, 0, batch)


async def copy_topics(source: Bus, target: Bus, prefix: str, topics: list[Topic]) -> None:
    """Append one bus's records to another, which must be empty: the offsets stay."""
    for topic in topics:
        name = topic.full_name(prefix)
        for partition, ends in (await source.end_offsets(name)).items():
            offset = ends.first
            while offset < ends.next:
                records = await source.read(name, partition, offset)
                news = [NewRecord(r.value, r.key, r.headers) for r in records]
                await target.append(name, partition, news)
                offset = records[-1].offset + 1
