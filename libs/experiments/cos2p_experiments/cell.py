"""One cell of an experiment: one policy, one setting, one seed; a whole run in one process.

Invariants: planner, aggregator, workers and evaluator are the production ones. They share one log
in memory and virtual time. Training and evaluation are real. The same spec gives the same records,
byte for byte, except for the planner's random name. The roles exchange data only over the run's
bus.
"""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from cos2p.clock import LoopClock
from cos2p.errors import RunFailedError
from cos2p.log import codec
from cos2p.log.archive import copy, extent_of
from cos2p.log.bus import Bus
from cos2p.log.mailbox import Letter
from cos2p.log.messages import RunOpened
from cos2p.log.topics import DECISIONS, FLEET, MODELS
from cos2p.service.logs import Log
from cos2p.service.role import RoleContext
from cos2p_experiments.fleets import Member
from cos2p_experiments.fold import Fold
from cos2p_experiments.provenance import COMMIT, machine
from cos2p_experiments.result import RUN_FILE, CellResult, Effort, Identity, write_result
from cos2p_experiments.retention import KeptLog
from cos2p_experiments.spec import CellSpec, prepare
from cos2p_experiments.virtual_trainer import VirtualTrainer
from cos2p_experiments.wire import WireBus
from cos2p_sim.loop import VirtualLoop, run_virtual
from cos2p_sim.ring import Body, live_together, ring_of, silent_log
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
    on_progress: Callable[[float], None] = lambda _: None,
) -> CellResult:
    """Run a cell to its end, and call `on_progress` with the progress, 0 to 1.

    The folder gets the run file and the result; None keeps neither. Any error of a role is raised
    too. A run that stalls is a result that names what was missing.

    Raises:
        SettingsError: a name or value of the spec is wrong.
        StorageError: the disk is full, or the run file can't be written.
    """
    use_threads(1)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    cell = Cell(spec)

    async def work() -> None:
        await cell.run(on_progress)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            file, bus = folder / RUN_FILE, cell.bus
            file.unlink(missing_ok=True)
            await copy(bus, PREFIX, await extent_of(bus, PREFIX), file)

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
        self._start_s = 0.0
        self._trainers: list[VirtualTrainer] = []
        self.train_cpu_s = self.evaluate_cpu_s = 0.0
        """Real seconds that this process spent on training and on evaluation."""

    async def run(self, on_progress: Callable[[float], None] = lambda _: None) -> None:
        """Run from the run's request to its end, and call `on_progress` with the progress, 0 to 1.

        Any error of a role is raised, except that the run has failed, which is a result.
        """
        spec, ready, self._start_s = self.spec, self._ready, self._clock.now()
        run_id = f"s{spec.seed}-{spec.digest}"
        await initialise(self.bus, PREFIX, spec.task, ready.task, ready.config, run_id)
        bodies = ring_of(
            range(ready.config.merge.shards),
            {member.worker_id: self._worker(member) for member in ready.fleet},
            planner_id="planner",
            evaluator=partial(
                run_evaluator,
                evaluator_id="evaluator",
                task_of=lambda _: ready.task,
                every_s=spec.evaluate_every_s,
            ),
        )
        links = {m.worker_id: m.bytes_per_s for m in ready.fleet}
        ticks = asyncio.create_task(self._tick(on_progress))
        try:
            await live_together(self._live(body, links.get(name)) for name, body in bodies.items())
        finally:
            ticks.cancel()
        self.bus.end()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.train_cpu_s = sum(trainer.cpu_s for trainer in self._trainers)
        self.evaluate_cpu_s = loop.thread_cpu_s - self.train_cpu_s

    async def _tick(self, on_progress: Callable[[float], None]) -> None:
        """Report the run's progress at intervals, by its versions or by its time."""
        rounds = self._ready.config.rounds
        horizon_s = rounds.horizon_s or math.inf
        while True:
            await self._clock.sleep(min(TICK_MAX_S, horizon_s / TICKS))
            elapsed_s = self._clock.now() - self._start_s
            on_progress(min(1.0, max(elapsed_s / horizon_s, self.bus.version / rounds.versions)))

    async def _live(self, body: Body, bytes_per_s: float | None) -> None:
        """Run a role to its end, behind the link that it has."""
        bus: Bus = self.bus
        if bytes_per_s is not None:
            bus = WireBus(bus, self._clock, PREFIX, bytes_per_s)
        with suppress(RunFailedError):
            await body(RoleContext(bus, self._clock, self._log, PREFIX))

    def _worker(self, member: Member) -> Body:
        task, seed = self._ready.task, self.spec.seed

        async def trainer_of(opened: RunOpened) -> VirtualTrainer:
            data = task.shard(member.shard, len(self._ready.fleet))
            trainer = VirtualTrainer(task, data, opened.config, member, self._clock, seed)
            self._trainers.append(trainer)
            return trainer

        device = WorkerDevice(
            member.memory_bytes, member.board.name, bytes_per_s=member.bytes_per_s
        )
        return partial(run_worker, worker_id=member.worker_id, device=device, trainer_of=trainer_of)

    # ------------------------------------------------------------ the result

    def result(self, effort: Effort | None = None) -> CellResult:
        """Return the result, folded from the run's small records."""
        spec, ready = self.spec, self._ready
        fold = Fold(self._start_s)
        for letter in self._letters():
            fold.take(letter)
        ended = fold.run.state.end
        if ended is None or fold.run.table is None:
            raise RunFailedError(f"{spec.key} did not start: {ended and ended.detail}")
        return CellResult(
            identity=self._identity(),
            config=ready.config.model_dump(mode="json"),
            horizon_s=spec.horizon_s,
            ended_s=ended.at_s,
            end_reason=ended.reason,
            end_detail=ended.detail,
            versions=ended.version,
            parameters=ready.task.units.parameter_count,
            curve=fold.curve(),
            rounds=tuple(fold.run.versions),
            devices=fold.devices({m.worker_id: m.budget for m in ready.fleet}),
            segments=fold.segments(),
            coverage=fold.coverage(),
            effort=effort or Effort(),
        )

    def _letters(self) -> list[Letter]:
        """Return the small records by time. At equal times causes come before effects."""
        letters = [
            Letter(topic, record.offset, record.timestamp_s, codec.decode(record))
            for topic in (FLEET, DECISIONS, MODELS)
            for record in self.bus.everything(topic)
        ]
        # A stable sort: the topics are in causal order, and each topic is in its own order.
        return sorted(letters, key=lambda letter: letter.timestamp_s)

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
