"""The evaluator: reads published versions, never trains.

It is the only role besides the aggregator that sees a whole model.

Invariants: versions are evaluated in ascending order. Where it lags, it continues with the newest.
The last version of a run is evaluated before the evaluator leaves. A restart reads the end of
`models` and has the same result for the same version.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cos2p.errors import ChunkMissingError
from cos2p.history.survival import Survival, first_version
from cos2p.log.backwards import end_of, newest_first
from cos2p.log.mailbox import Mailbox, Outbox
from cos2p.log.messages import Evaluated, Message, RunFinished, RunOpened, VersionPublished
from cos2p.log.topics import FLEET, MODELS
from cos2p.service.role import RoleContext
from cos2p_worker.evaluation import Evaluation, evaluate_values
from cos2p_worker.joining import await_run, require_model
from cos2p_worker.layout import UnitArrays
from cos2p_worker.submodel import scaled_units
from cos2p_worker.task import Task
from cos2p_worker.versions import Backlog, Version, VersionCollector, read_version

POLL_S = 0.5


async def run_evaluator(
    context: RoleContext,
    *,
    evaluator_id: str,
    task_of: Callable[[RunOpened], Task],
    every_s: float = 0.0,
) -> None:
    """Evaluate the context's run until it is finished or the evaluator is asked to stop.

    A stop takes effect after the current version. `task_of` loads the task once the run is known,
    and may raise SettingsError. `every_s` is the least time between two evaluations, counted from
    the run's opening; 0 evaluates all versions that it can keep up with.

    Raises:
        RunExistsError: another run than the context's has this prefix.
        SettingsError: the task's model is not the run's.
        BlobError: a checkpoint is damaged, or the last one has left the log.
        BusError: the bus is lost.
    """
    bus, clock, prefix, stop = context.bus, context.clock, context.prefix, context.stop
    mailbox = Mailbox(bus, prefix, MODELS, reader=evaluator_id)
    found = await await_run(context, mailbox)
    if found is None:
        return
    opened, opened_s = found
    task = await asyncio.to_thread(lambda: task_of(opened).for_run(opened.config))
    require_model(opened, task.units.digest, "the evaluator")
    context = replace(context, log=context.log.bind(run=opened.run_id))
    evaluator = _VersionEvaluator(context, evaluator_id, task, opened)
    outbox = Outbox(bus, prefix, FLEET)
    mailbox.offset = await end_of(bus, prefix, MODELS)
    await evaluator.look_back(mailbox.offset)
    last_turn = -1.0
    while not stop.is_set():
        turn = (clock.now() - opened_s) // every_s if every_s else last_turn + 1
        if turn > last_turn or evaluator.finished:
            evaluated = await evaluator.evaluate_newest()
            if evaluated is not None:
                last_turn = turn
                await outbox.send(evaluated)
            if evaluator.finished:
                return
        for letter in await mailbox.poll(POLL_S):
            evaluator.take(letter.message)
        async for letter in mailbox.stream():
            evaluator.take(letter.message)


@dataclass
class _VersionEvaluator:
    """The versions of one run that wait to be evaluated."""

    context: RoleContext
    evaluator_id: str
    task: Task
    opened: RunOpened
    finished: bool = False
    collector: VersionCollector = field(default_factory=VersionCollector)
    newest: int = -1

    def __post_init__(self) -> None:
        self.bus, self.clock, self.log = self.context.bus, self.context.clock, self.context.log
        self.survival = Survival(self.task.units)
        self.data = self.task.evaluation_data()

    async def look_back(self, before: int) -> None:
        """Read `models` from an offset back to what the newest whole version needs."""
        kinds, back = (RunFinished, VersionPublished), Backlog()
        prefix, run_id = self.context.prefix, self.opened.run_id
        async for letter in newest_first(
            self.bus, prefix, MODELS, kinds, run_id=run_id, before=before
        ):
            message = letter.message
            self.take(message)
            if isinstance(message, VersionPublished):
                if whole := self.collector.whole_versions():
                    back.needed = first_version(whole[-1])
                if back.ends_with(message):
                    break

    def take(self, message: Message) -> None:
        """Note a published version, or the run's end."""
        if isinstance(message, VersionPublished):
            self.collector.add(message)
            self.survival.take(message)
            if self.collector.whole(message.version):
                self.survival.forget_before(message.version)
        elif isinstance(message, RunFinished):
            self.finished = True

    async def evaluate_newest(self) -> Evaluated | None:
        """Evaluate the newest version that is whole, unless that was done before."""
        waiting = [v for v in self.collector.whole_versions() if v > self.newest]
        if not waiting:
            return None
        number = waiting[-1]
        started_s = self.clock.now()
        try:
            version = await read_version(self.bus, self.task.units, self.collector.parts(number))
        except ChunkMissingError:
            if self.finished:
                raise
            # Retention may be short, and a newer version is coming.
            self.log.warning("version_expired", version=number)
            self.newest = number
            return None
        verdict = await asyncio.to_thread(self._evaluate, version)
        self.newest = number
        self.collector.forget_below(number)
        self.log.info(
            "version_evaluated",
            version=number,
            skipped=len(waiting) - 1,
            seconds=round(self.clock.now() - started_s, 3),
        )
        return verdict

    def _evaluate(self, version: Version) -> Evaluated:
        factors = self.survival.at(version.number)
        scales = self.opened.config.evaluation.scaling == "survival"

        def evaluation_of(values: UnitArrays, *, scales: bool) -> Evaluation:
            chosen = scaled_units(self.task.model, values, factors) if scales else values
            return evaluate_values(self.task, chosen, self.data)

        plain = evaluation_of(version.average, scales=False)
        scaled = evaluation_of(version.average, scales=True)
        published = scaled if scales else plain
        return Evaluated(
            run_id=self.opened.run_id,
            evaluator_id=self.evaluator_id,
            version=version.number,
            sample_count=len(self.data),
            loss=published.loss,
            accuracy=published.accuracy,
            raw_accuracy=evaluation_of(version.raw, scales=scales).accuracy,
            plain_accuracy=plain.accuracy,
            scaled_accuracy=scaled.accuracy,
            exit_accuracies=published.exit_accuracies,
            mean_accuracy=published.mean_accuracy,
        )
