"""The evaluator on a memory bus whose aggregator the test plays."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import structlog
from counting_bus import CountingBus
from numpy.typing import NDArray

from cos2p.clock import LoopClock
from cos2p.errors import DigestError, SettingsError
from cos2p.log.blobs import write_blob
from cos2p.log.bus import Bus
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.mailbox import Mailbox, Outbox
from cos2p.log.messages import BlobRef, Evaluated, RunFinished, RunOpened, VersionPublished
from cos2p.log.topics import CHECKPOINTS, FLEET, MODELS, specs
from cos2p.model.payload import Header, header_of, parts
from cos2p.run_config import EvaluationConfig, LocalConfig, RunConfig
from cos2p.service.role import RoleContext
from cos2p_worker.evaluation import evaluate_values
from cos2p_worker.evaluator import run_evaluator
from cos2p_worker.initial import initial_values
from cos2p_worker.submodel import scaled_units
from cos2p_worker.task import Task

UnitValues = dict[int, NDArray[np.float32]]


@dataclass
class Stage:
    """A run's log, and the test's hands on it."""

    task: Task
    shards: int = 1
    bus: MemoryBus = field(default_factory=lambda: MemoryBus(LoopClock()))
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self) -> None:
        await self.bus.create_topics(specs("t", 1))
        self.models = Outbox(self.bus, "t", MODELS)
        await self.say_opened()

    async def say_opened(self) -> None:
        digest = self.task.units.digest
        opened = RunOpened(
            run_id="r", decisions_offset=1, config=self.task.run, task="m:T", units_digest=digest
        )
        await self.models.send(opened)

    async def publish(
        self,
        number: int,
        raw: UnitValues,
        average: UnitValues,
        *,
        checkpoint: bool = True,
        shares: Sequence[float] = (),
    ) -> None:
        for shard in range(self.shards):
            await self.publish_shard(
                number, shard, raw, average, checkpoint=checkpoint, shares=shares
            )

    async def publish_shard(
        self,
        number: int,
        shard: int,
        raw: UnitValues,
        average: UnitValues,
        *,
        checkpoint: bool = True,
        shares: Sequence[float] = (),
        damage: bool = False,
    ) -> None:
        units = self.task.units.owned_by(shard, self.shards) if number else tuple(sorted(raw))
        blob = None
        if checkpoint:
            blob = await self.write(number, shard, units, raw, average, damage=damage)
        await self.models.send(
            VersionPublished(
                run_id="r",
                version=number,
                shard=shard,
                shard_count=self.shards,
                decisions_offset=1,
                digest=b"\0" * 32,
                unit_digests=b"",
                unit_shares=np.array(shares, "<f4")[list(units)].tobytes() if shares else b"",
                checkpoint=blob,
            )
        )

    async def write(
        self,
        number: int,
        shard: int,
        units: tuple[int, ...],
        raw: UnitValues,
        average: UnitValues,
        *,
        damage: bool,
    ) -> BlobRef:
        states = [np.concatenate([raw[u], average[u]]) if number else raw[u] for u in units]
        owner = f"v{number}.s{shard}" if number else "v0"
        made = header_of(owner, units, states)
        header = Header(owner, made.units, 2 if number else 1, made.digests)
        if damage:
            states = [-state for state in states]
        topic = CHECKPOINTS.full_name("t")
        return await write_blob(self.bus, topic, 0, owner, parts(header, states))

    async def finish(self, number: int) -> None:
        await self.models.send(
            RunFinished(run_id="r", decisions_offset=1, version=number, reason="target")
        )

    async def evaluate(self, every_s: float = 0.0, on: Bus | None = None) -> list[Evaluated]:
        await run_evaluator(
            RoleContext(on or self.bus, LoopClock(), structlog.get_logger(), "t", self.stop),
            evaluator_id="evaluator",
            task_of=lambda opened: self.task,
            every_s=every_s,
        )
        return await self.heard()

    async def heard(self) -> list[Evaluated]:
        letters = Mailbox(self.bus, "t", FLEET, reader="test").stream()
        return [x.message async for x in letters if isinstance(x.message, Evaluated)]


def within(limit_s: float, scenario: Awaitable[None]) -> None:
    async def run() -> None:
        async with asyncio.timeout(limit_s):
            await scenario

    asyncio.run(run())


@pytest.mark.parametrize("shards", [1, 2])
def test_it_judges_the_average_and_the_raw_weights(task: Task, shards: int) -> None:
    async def scenario() -> None:
        raw, average = initial_values(task, 1), initial_values(task, 2)
        stage = Stage(task, shards)
        await stage.open()
        await stage.publish(5, raw, average)
        await stage.finish(5)

        found = (await stage.evaluate())[0]

        data = task.evaluation_data()
        assert evaluate_values(task, average, data).accuracy == found.accuracy
        assert evaluate_values(task, average, data).loss == pytest.approx(found.loss)
        assert evaluate_values(task, raw, data).accuracy == found.raw_accuracy
        assert (5, 100) == (found.version, found.sample_count)

    within(20, scenario())


def thirds(task: Task, first: float, rest: float) -> list[float]:
    """Shares: of every third unit, and of the others."""
    return [rest if u % 3 else first for u in range(len(task.units))]


@pytest.mark.parametrize("shards", [1, 2])
def test_units_are_scaled_by_how_often_they_were_there(task: Task, shards: int) -> None:
    """By hand: every third unit (0.9 * 1 + 0.5) / 1.9, the others (0.9 * 0 + 0.25) / 1.9."""

    async def scenario() -> None:
        run = RunConfig(local=LocalConfig(objective="exits"))
        exited = replace(task.for_run(run), run=run)
        raw, average = initial_values(exited, 1), initial_values(exited, 2)
        stage = Stage(exited, shards)
        await stage.open()
        await stage.publish(1, raw, average, checkpoint=False, shares=thirds(exited, 1, 0))
        await stage.publish(2, raw, average, shares=thirds(exited, 0.5, 0.25))
        await stage.finish(2)

        found = (await stage.evaluate())[0]

        factors = np.array(thirds(exited, 1.4 / 1.9, 0.25 / 1.9))
        data = task.evaluation_data()
        expected = evaluate_values(exited, scaled_units(exited.model, average, factors), data)
        assert expected.loss == pytest.approx(found.loss)
        assert expected.exit_accuracies == found.exit_accuracies
        assert (expected.accuracy, expected.mean_accuracy) == (found.accuracy, found.mean_accuracy)
        of_raw = evaluate_values(exited, scaled_units(exited.model, raw, factors), data)
        assert of_raw.accuracy == found.raw_accuracy

    within(20, scenario())


async def judged_alone(task: Task) -> Evaluated:
    """The verdict on one version, half of whose units half of the submodels held."""
    values = initial_values(task, 3)
    stage = Stage(task)
    await stage.open()
    await stage.publish(1, values, values, shares=[0.5] * len(task.units))
    await stage.finish(1)
    return (await stage.evaluate())[0]


def test_the_published_models_accuracy_unscaled_is_told_beside(task: Task) -> None:
    async def scenario() -> None:
        found = await judged_alone(task)

        plain = evaluate_values(task, initial_values(task, 3), task.evaluation_data())
        assert plain.accuracy == found.plain_accuracy != found.accuracy
        assert found.scaled_accuracy == found.accuracy

    within(20, scenario())


def test_a_run_may_ask_for_units_as_they_are(task: Task) -> None:
    async def scenario() -> None:
        run = task.run.model_copy(update={"evaluation": EvaluationConfig(scaling="none")})
        found = await judged_alone(replace(task, run=run))

        plain = evaluate_values(task, initial_values(task, 3), task.evaluation_data())
        assert plain.loss == pytest.approx(found.loss)
        assert plain.accuracy == found.accuracy
        assert plain.accuracy == found.plain_accuracy == found.raw_accuracy
        assert found.scaled_accuracy != found.accuracy

    within(20, scenario())


def test_a_run_opened_again_forgets_no_version(task: Task) -> None:
    """Version 1 lacks every third unit, version 2 the others: both have come before the verdict."""

    async def scenario() -> None:
        values = initial_values(task, 1)
        stage = Stage(task)
        await stage.open()
        await stage.publish(1, values, values, shares=thirds(task, 0, 1))
        running = asyncio.create_task(stage.evaluate())
        await until(stage, 1)
        await stage.say_opened()
        await stage.publish(2, values, values, shares=thirds(task, 1, 0))
        await stage.finish(2)

        found = (await running)[-1]

        factors = np.array(thirds(task, 1 / 1.9, 0.9 / 1.9))
        scaled = scaled_units(task.model, values, factors)
        assert evaluate_values(task, scaled, task.evaluation_data()).loss == pytest.approx(
            found.loss
        )

    within(20, scenario())


@pytest.mark.parametrize("shards", [1, 2])
def test_a_restart_in_a_long_run_reads_the_end_and_judges_alike(task: Task, shards: int) -> None:
    """Whoever followed 900 versions scales the last one's units as whoever came for it alone."""

    async def scenario() -> None:
        values = initial_values(task, 1)
        found: list[Evaluated] = []
        read: list[int] = []
        for first in (1, 451):
            stage = Stage(task, shards)
            counted = CountingBus(stage.bus)
            await stage.open()
            for number in range(first, 901):
                whole = number in (899, first)
                shares = thirds(task, number % 5 / 4, number % 7 / 6)
                await stage.publish(number, values, values, checkpoint=whole, shares=shares)
            await stage.finish(900)
            found += await stage.evaluate(on=counted)
            read.append(counted.counts[MODELS.full_name("t")])

        assert found[0] == found[1]
        assert 899 == found[0].version
        assert read[0] == pytest.approx(read[1], abs=5)

    within(60, scenario())


def test_version_0_is_one_blob_for_all_shards(task: Task) -> None:
    async def scenario() -> None:
        values = initial_values(task, 1)
        stage = Stage(task, shards=2)
        await stage.open()
        await stage.publish(0, values, values)
        await stage.finish(0)

        found = (await stage.evaluate())[0]

        assert found.accuracy == found.raw_accuracy
        assert 0 == found.version

    within(20, scenario())


def test_it_skips_to_the_newest_version_when_it_lags(task: Task) -> None:
    async def scenario() -> None:
        values = initial_values(task, 1)
        stage = Stage(task)
        await stage.open()
        for number in range(4):
            await stage.publish(number, values, values)
        await stage.publish(4, values, values, checkpoint=False)
        await stage.finish(4)

        assert [3] == [e.version for e in await stage.evaluate()]

    within(20, scenario())


def test_it_waits_until_every_shard_has_published(task: Task) -> None:
    async def scenario() -> None:
        values = initial_values(task, 1)
        stage = Stage(task, shards=2)
        await stage.open()
        await stage.publish(1, values, values)
        await stage.publish_shard(2, 0, values, values)
        running = asyncio.create_task(stage.evaluate())
        await until(stage, 1)
        await stage.publish_shard(2, 1, values, values)
        await until(stage, 2)
        await stage.finish(2)

        assert [1, 2] == [e.version for e in await running]

    within(20, scenario())


def test_between_its_turns_it_judges_the_last_version_alone(task: Task) -> None:
    async def scenario() -> None:
        values = initial_values(task, 1)
        stage = Stage(task)
        await stage.open()
        await stage.publish(0, values, values)
        running = asyncio.create_task(stage.evaluate(every_s=1000.0))
        await until(stage, 1)
        for number in (1, 2):
            await stage.publish(number, values, values)
            await asyncio.sleep(0.05)
        await stage.finish(2)

        assert [0, 2] == [e.version for e in await running]

    within(20, scenario())


async def until(stage: Stage, count: int) -> None:
    while len(await stage.heard()) < count:  # noqa: ASYNC110 - the log has no event to wait for
        await asyncio.sleep(0.01)


def test_it_leaves_when_asked_to(task: Task) -> None:
    async def scenario() -> None:
        stage = Stage(task)
        await stage.open()
        asyncio.get_running_loop().call_later(0.1, stage.stop.set)

        assert [] == await stage.evaluate()

    within(20, scenario())


def test_a_damaged_checkpoint_names_the_unit(task: Task) -> None:
    async def scenario() -> None:
        values = initial_values(task, 1)
        stage = Stage(task)
        await stage.open()
        await stage.publish_shard(3, 0, values, values, damage=True)
        await stage.finish(3)

        with pytest.raises(DigestError, match="unit embed of version 3 is damaged"):
            await stage.evaluate()

    within(20, scenario())


def test_another_model_than_the_runs_is_refused(
    task: Task, values_of: Callable[..., UnitValues]
) -> None:
    from cos2p_worker.models.stems import Patches
    from cos2p_worker.models.transformer import BlockShape, TransformerConfig, transformer

    async def scenario() -> None:
        stage = Stage(task)
        await stage.open()
        other = transformer(TransformerConfig(Patches(8, 1, 4), 16, (BlockShape(1, 16),), 8, 16, 4))
        stage.task = replace(task, model=other)

        with pytest.raises(SettingsError, match="was started with m:T"):
            await stage.evaluate()

    within(20, scenario())
