"""The evaluator: reads published versions, never trains.

The only role beside the aggregator that sees a whole model. Invariants: versions are evaluated in
ascending order; where it lags, it goes on with the newest; the last version of a run is evaluated
before it leaves.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from cos2p.bus import Bus
from cos2p.clock import Clock
from cos2p.errors import ChunkMissingError, SettingsError
from cos2p.logs import Log
from cos2p.mailbox import Letter, Mailbox, Outbox
from cos2p.messages import Evaluated, RunFinished, RunOpened, VersionPublished
from cos2p.run_request import require_run
from cos2p.survival import Survival
from cos2p.topics import FLEET, MODELS
from cos2p_worker.evaluation import Verdict, judge_values
from cos2p_worker.layout import UnitArrays
from cos2p_worker.submodel import scaled_units
from cos2p_worker.task import Dataset, Task
from cos2p_worker.versions import Version, VersionShelf, read_version

POLL_S = 0.5


async def run_evaluator(
    bus: Bus,
    clock: Clock,
    log: Log,
    stop: asyncio.Event,
    *,
    prefix: str,
    evaluator_id: str,
    task_of: Callable[[RunOpened], Task],
    every_s: float = 0.0,
    run_id: str | None = None,
) -> None:
    """Evaluate the run under `prefix` until it is finished or `stop` is set.

    Args:
        bus: where the run is.
        clock: times the evaluations, for the log.
        log: where to tell.
        stop: set it to leave after the version at hand.
        prefix: of the topics.
        evaluator_id: its name.
        task_of: loads the task once the run is known; may raise SettingsError.
        every_s: judge once in so many seconds at most, counted from the run's opening; 0 judges
            all versions that it can keep up with.
        run_id: the run that it is for; None takes the one it finds.

    Raises:
        RunExistsError: another run than `run_id` has this prefix.
        SettingsError: the task's model is not the run's.
        BlobError: a checkpoint is damaged, or the last one has left the log.
        BusError: the bus is lost.
    """
    mailbox = Mailbox(bus, prefix, MODELS, reader=evaluator_id)
    outbox = Outbox(bus, prefix, FLEET)
    bench: _Bench | None = None
    opened_s, judged_turn = 0.0, -1.0
    while not stop.is_set():
        letters = await mailbox.poll(POLL_S)
        if letters:
            letters += await mailbox.drain()
        for letter in letters:
            if isinstance(letter.message, RunOpened) and bench is None:
                opened = letter.message
                require_run(run_id, opened.run_id, prefix)
                task = await asyncio.to_thread(_checked_task, opened, task_of)
                run_log = log.bind(run=opened.run_id)
                opened_s = letter.timestamp_s
                data = task.evaluation_data()
                scales = opened.config.evaluation.scaling == "survival"
                survival = Survival(task.units)
                bench = _Bench(bus, clock, run_log, evaluator_id, task, data, scales, survival)
        if bench is None:
            continue
        bench.take(letters)
        turn = (clock.now() - opened_s) // every_s if every_s else judged_turn + 1
        if turn <= judged_turn and not bench.finished:
            continue
        evaluated = await bench.judge_newest()
        if evaluated is not None:
            judged_turn = turn
            await outbox.send(evaluated)
        if bench.finished:
            return


@dataclass
class _Bench:
    """The versions of one run that wait to be evaluated."""

    bus: Bus
    clock: Clock
    log: Log
    evaluator_id: str
    task: Task
    data: Dataset
    scales: bool
    survival: Survival
    finished: bool = False
    run_id: str = ""
    shelf: VersionShelf = field(default_factory=VersionShelf)
    newest: int = -1

    def take(self, letters: list[Letter]) -> None:
        """Note what was published."""
        for message in (letter.message for letter in letters):
            self.run_id = message.run_id
            if isinstance(message, VersionPublished):
                self.shelf.add(message)
                self.survival.take(message)
            elif isinstance(message, RunFinished):
                self.finished = True

    async def judge_newest(self) -> Evaluated | None:
        """Evaluate the newest version that is whole, unless that was done before."""
        waiting = [v for v in self.shelf.whole() if v > self.newest]
        if not waiting:
            return None
        number = waiting[-1]
        started_s = self.clock.now()
        try:
            version = await read_version(self.bus, self.task.units, self.shelf.parts(number))
        except ChunkMissingError:
            if self.finished:
                raise
            # Retention may be short; a newer version is on its way.
            self.log.warning("version_gone", version=number)
            self.newest = number
            return None
        verdict = await asyncio.to_thread(self._judge, version)
        self.newest = number
        self.shelf.forget_below(number)
        self.log.info(
            "version_evaluated",
            version=number,
            skipped=len(waiting) - 1,
            seconds=round(self.clock.now() - started_s, 3),
        )
        return verdict

    def _judge(self, version: Version) -> Evaluated:
        factors = self.survival.at(version.number)

        def judged(values: UnitArrays, *, scales: bool) -> Verdict:
            chosen = scaled_units(self.task.model, values, factors) if scales else values
            return judge_values(self.task, chosen, self.data)

        plain = judged(version.average, scales=False)
        scaled = judged(version.average, scales=True)
        published = scaled if self.scales else plain
        return Evaluated(
            run_id=self.run_id,
            evaluator_id=self.evaluator_id,
            version=version.number,
            sample_count=len(self.data),
            loss=published.loss,
            accuracy=published.accuracy,
            raw_accuracy=judged(version.raw, scales=self.scales).accuracy,
            plain_accuracy=plain.accuracy,
            scaled_accuracy=scaled.accuracy,
            exit_accuracies=published.exit_accuracies,
            mean_accuracy=published.mean_accuracy,
        )


def _checked_task(opened: RunOpened, task_of: Callable[[RunOpened], Task]) -> Task:
    task = task_of(opened).for_run(opened.config)
    if task.units.digest != opened.units_digest:
        raise SettingsError(
            f"the model of the evaluator's task is not that of run {opened.run_id}, "
            f"which was started with {opened.task}: use the same task in the same version"
        )
    return task
