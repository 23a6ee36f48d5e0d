"""One cell of an experiment: one policy, one setting, one seed; a whole run in one process.

Invariants: planner, aggregator, workers and evaluator are the production ones. They share one log
in memory and virtual time. Training and evaluation are real. The same spec gives the same records,
byte for byte, except for the planner's random name. The roles exchange data only over the run's
bus.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from cos2p.clock import LoopClock
from cos2p.errors import RunFailedError
from cos2p.log import codec
from cos2p.log.archive import copy, extent_of
from cos2p.log.bus import Bus, Record
from cos2p.log.messages import EpochStarted, Message, RunOpened
from cos2p.log.topics import CATALOGUE, DECISIONS, FLEET, MODELS, Topic
from cos2p.service.logs import Log
from cos2p.service.role import RoleContext
from cos2p_aggregator.shell import run_aggregator
from cos2p_experiments.fleets import Member
from cos2p_experiments.fold import Fold
from cos2p_experiments.provenance import COMMIT, machine
from cos2p_experiments.result import RUN_FILE, CellResult, Effort, Identity, write_result
from cos2p_experiments.retention import KeptLog
from cos2p_experiments.spec import CellSpec, prepare
from cos2p_experiments.virtual_trainer import VirtualTrainer
from cos2p_experiments.wire import WireBus
from cos2p_planner.shell import run_planner
from cos2p_sim.cluster import silent_log
from cos2p_sim.loop import VirtualLoop, run_virtual
from cos2p_worker.evaluator import run_evaluator
from cos2p_worker.initial import initialise
from cos2p_worker.shell import WorkerDevice, run_worker
from cos2p_worker.torch_trainer import use_threads

PREFIX = "cos2p"


TICKS, TICK_MAX_S = 50, 10.0
"""A cell reports its progress this many times, and at least every `TICK_MAX_S` virtual seconds."""


def run_cell(
    spec: CellSpec,
    folder: Path | None = None,
    *,
    log: Log | None = None,
    tell: Callable[[float], None] = lambda _: None,
) -> CellResult:
    """Run a cell to its end.

    Any error of a role is raised too. A run that stalls is a result that names what was missing.

    Args:
        spec: the cell.
        folder: the folder for the run file and the result; None keeps neither.
        log: the logger of the roles; None logs nothing.
        tell: called with the progress, 0 to 1.

    Raises:
        SettingsError: a name or value of the spec is wrong.
    """
    use_threads(1)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    cell = Cell(spec, log)

    async def work() -> None:
        await cell.run(tell)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            await cell.archive(folder / RUN_FILE)

    run_virtual(work())
    result = cell.result(
        Effort(
            cpu_s=time.process_time() - cpu_s,
            wall_s=time.perf_counter() - wall_s,
            train_cpu_s=cell.train_cpu_s,
            evaluate_cpu_s=cell.evaluate_cpu_s,
        )
    )
    if folder is not None:
        write_result(result, folder)
    return result


class Cell:
    """A cell, ready to run once on a virtual loop."""

    def __init__(self, spec: CellSpec, log: Log | None = None) -> None:
        self.spec = spec
        self._log = log or silent_log()
        self._ready = prepare(spec)
        self._clock = LoopClock()
        self.bus = KeptLog(self._clock, PREFIX, spec.keep)
        self._run_id = f"s{spec.seed}-{spec.digest}"
        self._start_s = 0.0
        self._trainers: list[VirtualTrainer] = []
        self.evaluate_cpu_s = 0.0

    @property
    def train_cpu_s(self) -> float:
        """Real seconds that this process spent on training."""
        return sum(t.cpu_s for t in self._trainers)

    async def run(self, tell: Callable[[float], None] = lambda _: None) -> None:
        """Run from the run's request to its end.

        Any error of a role is raised, except that the run has failed, which is a result.

        Args:
            tell: called with the progress, 0 to 1.
        """
        ready, self._start_s = self._ready, self._clock.now()
        await initialise(self.bus, PREFIX, self.spec.task, ready.task, ready.config, self._run_id)
        shards = range(ready.config.merge.shards)
        roles = [self._planner(), self._evaluator(), *map(self._aggregator, shards)]
        roles += map(self._worker, ready.fleet)
        ticks = asyncio.create_task(self._tick(tell))
        try:
            async with asyncio.TaskGroup() as group:
                for role in roles:
                    group.create_task(role)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            ticks.cancel()
        self.bus.end()
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualLoop):
            self.evaluate_cpu_s = loop.thread_cpu_s - self.train_cpu_s

    async def _tick(self, tell: Callable[[float], None]) -> None:
        """Report the run's progress at intervals, by its versions or by its time."""
        rounds = self._ready.config.rounds
        horizon_s = rounds.horizon_s or math.inf
        while True:
            await self._clock.sleep(min(TICK_MAX_S, horizon_s / TICKS))
            gone_s = self._clock.now() - self._start_s
            tell(min(1.0, max(gone_s / horizon_s, self.bus.version / rounds.versions)))

    def _context(self, bus: Bus | None = None) -> RoleContext:
        return RoleContext(bus or self.bus, self._clock, self._log, PREFIX)

    async def _planner(self) -> None:
        with suppress(RunFailedError):
            await run_planner(self._context(), planner_id="planner")

    async def _aggregator(self, shard: int) -> None:
        await run_aggregator(self._context(), shard=shard)

    async def _evaluator(self) -> None:
        await run_evaluator(
            self._context(),
            evaluator_id="evaluator",
            task_of=lambda _: self._ready.task,
            every_s=self.spec.evaluate_every_s,
        )

    async def _worker(self, member: Member) -> None:
        task = self._ready.task

        async def trainer_of(opened: RunOpened) -> VirtualTrainer:
            data = task.shard(member.shard, len(self._ready.fleet))
            trainer = VirtualTrainer(task, data, opened.config, member, self._clock, self.spec.seed)
            self._trainers.append(trainer)
            return trainer

        await run_worker(
            self._context(WireBus(self.bus, self._clock, PREFIX, member.bytes_per_s)),
            worker_id=member.worker_id,
            device=WorkerDevice(
                member.memory_bytes, member.board.name, bytes_per_s=member.bytes_per_s
            ),
            trainer_of=trainer_of,
        )

    # ------------------------------------------------------------ the result

    def fingerprint(self) -> str:
        """Return a digest of every kept record, except for the planner's random name."""
        hasher = blake3()
        for record in self._records(*CATALOGUE):
            value = record.value
            if record.topic == DECISIONS.full_name(PREFIX):
                message = codec.decode(record)
                if isinstance(message, EpochStarted):
                    value = str(message.epoch).encode()
            place = f"{record.topic} {record.partition} {record.offset} {record.timestamp_s!r}"
            for part in (place.encode(), record.key, value):
                hasher.update(len(part).to_bytes(8, "big") + bytes(part))
        return hasher.hexdigest(length=16)

    def result(self, effort: Effort | None = None) -> CellResult:
        """Return the result, folded from the run's small records."""
        spec, ready = self.spec, self._ready
        fold = Fold(self._start_s)
        for record, message in self._messages():
            topic = record.topic.removeprefix(f"{PREFIX}-")
            fold.take(topic, record.offset, record.timestamp_s, message)
        if fold.ended is None or fold.table is None:
            raise RunFailedError(f"{spec.key} did not start: {fold.ended and fold.ended.detail}")
        return CellResult(
            identity=self._identity(),
            config=ready.config.model_dump(mode="json"),
            horizon_s=spec.horizon_s,
            ended_s=fold.ended.at_s,
            end_reason=fold.ended.reason,
            end_detail=fold.ended.detail,
            versions=fold.ended.version,
            parameters=ready.task.units.parameter_count,
            curve=fold.curve(),
            rounds=fold.rounds(),
            devices=fold.devices({m.worker_id: m.budget for m in ready.fleet}),
            segments=fold.segments(),
            coverage=fold.coverage(),
            effort=effort or Effort(),
        )

    async def archive(self, out: Path) -> None:
        """Write the run into one file.

        Raises:
            StorageError: the disk is full, or the file can't be written.
        """
        out.unlink(missing_ok=True)
        await copy(self.bus, PREFIX, await extent_of(self.bus, PREFIX), out)

    def _messages(self) -> list[tuple[Record, Message]]:
        """Return the small records by time. At equal times causes come before effects."""
        ranked = [
            (record.timestamp_s, rank, record.offset, record)
            for rank, topic in enumerate((FLEET, DECISIONS, MODELS))
            for record in self._records(topic)
        ]
        ranked.sort(key=lambda row: row[:3])
        return [(record, codec.decode(record)) for *_, record in ranked]

    def _records(self, *topics: Topic) -> Iterator[Record]:
        for topic in topics:
            yield from self.bus.everything(topic.full_name(PREFIX))

    def _identity(self) -> Identity:
        spec = self.spec
        return Identity(
            suite=spec.suite,
            task=spec.task,
            setting=spec.setting,
            policy=spec.policy,
            base_policy=spec.base_policy,
            seed=spec.seed,
            fleet=spec.fleet,
            evaluated_on=spec.evaluate_on,
            config_digest=spec.digest,
            commit=COMMIT,
            machine=machine(),
        )
