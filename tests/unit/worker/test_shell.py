"""The worker's shell on a memory bus whose other roles the test plays."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import structlog
import structlog.testing
from counting_bus import CountingBus
from dispatching import one_blob, with_digests, written
from numpy.typing import NDArray

from cos2p.clock import LoopClock
from cos2p.errors import BudgetError, SettingsError, StorageError
from cos2p.log.blobs import read_blob, write_blob
from cos2p.log.bus import NewRecord
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.codec import encode
from cos2p.log.mailbox import Mailbox
from cos2p.log.messages import (
    Dispatched,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    Plan,
    Report,
    RunFinished,
    RunOpened,
    VersionPublished,
)
from cos2p.log.topics import FLEET, HEARTBEATS, MODELS, SUBMODELS, partition_of, specs
from cos2p.model.payload import PayloadReader
from cos2p.model.units import Unit, UnitTable
from cos2p.run_config import LivenessConfig, MergeConfig, RunConfig
from cos2p.service.logs import Log
from cos2p.service.role import RoleContext
from cos2p_sim.loop import run_virtual
from cos2p_worker.shell import WorkerDevice, run_worker
from cos2p_worker.trainer import (
    TrainingControl,
    TrainingFailedError,
    TrainingOutOfMemoryError,
    TrainingStoppedError,
    TrainResult,
)

M = TypeVar("M", bound=Message)
TABLE = UnitTable(
    (
        Unit("stem", "core", -1, 4, 8, 1),
        Unit("block0.core", "core", 0, 2, 4, 1),
        Unit("block0.a", "neurons", 0, 300, 6, 1),
    )
)
OTHER_TABLE = UnitTable((Unit("stem", "core", -1, 5, 8, 1),))
BASE = {u: np.arange(TABLE.sizes[u], dtype=np.float32) for u in range(len(TABLE))}
PREFIX = "t"


class ScriptedTrainer:
    """Adds one to each trained value, after what its script says."""

    sample_count = 10
    label_counts: tuple[int, ...] | None = (4, 6)
    units = TABLE

    def __init__(self, before: Callable[[Plan, TrainingControl], Awaitable[None]]) -> None:
        self._before = before
        self.bases: list[dict[int, NDArray[np.float32]]] = []
        self.stops = 0
        self.began = asyncio.Event()

    async def measure_flops_per_s(self) -> float:
        return 1e6

    async def train(
        self,
        plan: Plan,
        base: Mapping[int, NDArray[np.float32]],
        watch: TrainingControl,
    ) -> TrainResult:
        self.bases.append({u: np.array(v) for u, v in base.items()})
        watch.on_step(1)
        self.began.set()
        await self._before(plan, watch)
        if watch.stop.is_set():
            self.stops += 1
            raise TrainingStoppedError("stopped")
        deltas = {u: np.ones(int(TABLE.sizes[u]), np.float32) for u in plan.trained}
        return TrainResult(deltas, plan.local_steps, 8, 2.0, 1.0, 4096)


async def at_once(plan: Plan, watch: TrainingControl) -> None:
    """Trains in no time."""


async def for_ever(plan: Plan, watch: TrainingControl) -> None:
    """Trains until it is told to stop."""
    while not watch.stop.is_set():  # noqa: ASYNC110 - the protocol's event is that of a thread
        await asyncio.sleep(0.005)


@dataclass
class Stage:
    """The bus, and the test's hands on it."""

    folder: Path
    trainer: ScriptedTrainer
    shards: int = 1
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.memory = MemoryBus(LoopClock())
        self.bus = CountingBus(self.memory)
        self.fleet = Mailbox(self.bus, PREFIX, FLEET, reader="test")
        self.heard: list[Message] = []
        self.log: Log = structlog.get_logger()
        self.config = RunConfig(
            partitions=2,
            merge=MergeConfig(shards=self.shards),
            liveness=LivenessConfig(heartbeat_s=0.02, lost_after_s=1.0),
        )

    async def open(self) -> None:
        """Create the topics and open the run."""
        await self.bus.create_topics(specs(PREFIX, 2))
        opened = RunOpened(
            run_id="r",
            decisions_offset=1,
            config=self.config,
            task="m:t",
            units_digest=TABLE.digest,
        )
        await self.say(opened)

    async def say(self, message: Message) -> None:
        await self.bus.append(MODELS.full_name(PREFIX), 0, [encode(message)])

    async def work(self, device: WorkerDevice | None = None, table: UnitTable = TABLE) -> None:
        """Run the worker to its end."""
        self.trainer.units = table

        async def trainer(opened: RunOpened) -> ScriptedTrainer:
            return self.trainer

        await run_worker(
            RoleContext(self.bus, LoopClock(), self.log, PREFIX, self.stop),
            worker_id="w0",
            device=device or WorkerDevice(memory_bytes=1 << 20, scratch_dir=self.folder),
            trainer_of=trainer,
        )

    async def hear(self, kind: type[M], count: int = 1) -> list[M]:
        """Wait for so many messages of a kind on `fleet` (all so far are returned)."""
        async with asyncio.timeout(5):
            while True:
                found = [m for m in self.heard if isinstance(m, kind)]
                if len(found) >= count:
                    return found
                self.heard += [letter.message for letter in await self.fleet.poll(0.2)]

    def plan(self, plan_id: str, incarnation: int) -> Plan:
        everything = tuple(range(len(TABLE)))
        return Plan(
            plan_id=plan_id,
            worker_id="w0",
            incarnation=incarnation,
            base_version=0,
            trained=everything[1:],
            frozen=(0,),
            local_steps=2,
            batch_size=2,
            learning_rate=1e-3,
            seed=1,
            deadline_s=5.0,
            peak_bytes=10,
        )

    async def dispatch(self, plan_id: str, *, damage: bool = False, keep_blob: bool = True) -> None:
        """Send the worker a plan for all units, as the aggregator's shards would."""
        [hello, *_] = await self.hear(Hello)
        plan = self.plan(plan_id, hello.incarnation)
        topic, partition = SUBMODELS.full_name(PREFIX), partition_of("w0", 2)
        for shard in range(self.shards):
            units = TABLE.owned_by(shard, self.shards)
            values = {unit: BASE[unit] for unit in units}
            held = with_digests(TABLE, values)
            if damage:
                held = replace(held, values={unit: v + 1 for unit, v in values.items()})
            place = await written(self.bus, topic, partition, f"{plan_id}-{shard}", held)
            if not keep_blob:
                self.memory.expire(topic, partition, place.blob.last_offset + 1)
            await self.say(
                Dispatched(
                    run_id="r",
                    decisions_offset=int(plan_id[1:]),
                    plan=plan,
                    shard=shard,
                    shard_count=self.shards,
                    blobs=(place,),
                )
            )

    async def finish(self) -> None:
        await self.say(RunFinished(run_id="r", decisions_offset=1, version=1, reason="target"))


def play(
    stage_of: Callable[[], Stage], script: Callable[[Stage], Coroutine[None, None, None]]
) -> Stage:
    """Run the worker beside a script; both must end."""

    async def both() -> Stage:
        stage = stage_of()
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(stage.work())
            group.create_task(script(stage))
        return stage

    return asyncio.run(both())


def test_a_dispatched_plan_comes_back_as_a_delta_and_a_report(tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        await stage.open()
        await stage.dispatch("p1")
        [report] = await stage.hear(Report)
        assert "done" == report.status, report.detail
        assert report.blob is not None
        assert partition_of("w0", 2) == report.blob.partition
        assert (8, 2, 4096) == (report.sample_count, report.steps_done, report.peak_bytes)
        reader = PayloadReader(TABLE, "p1", (1, 2))
        deltas: dict[int, NDArray[np.float32]] = {}
        async for chunk in read_blob(stage.bus, report.blob):
            deltas |= {got.unit: got.values.copy() for got in reader.feed(chunk) if got.intact}
        reader.finish()
        assert {1, 2} == set(deltas)
        assert all((d == 1).all() for d in deltas.values())
        await stage.finish()

    stage = play(lambda: Stage(tmp_path, ScriptedTrainer(at_once)), script)

    [base] = stage.trainer.bases
    assert all((base[u] == BASE[u]).all() for u in BASE)
    assert [] == list(tmp_path.iterdir())


def test_two_shards_parts_are_put_together(tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        await stage.open()
        await stage.dispatch("p1")
        [report] = await stage.hear(Report)
        assert "done" == report.status
        await stage.finish()

    stage = play(lambda: Stage(tmp_path, ScriptedTrainer(at_once), shards=2), script)

    assert all((stage.trainer.bases[0][u] == BASE[u]).all() for u in BASE)


def test_a_worker_started_before_its_run_waits_for_it(tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        await stage.bus.create_topics(specs(PREFIX, 2))
        await asyncio.sleep(0.05)
        assert [] == await stage.fleet.poll()
        await stage.open()
        [hello] = (await stage.hear(Hello))[:1]
        assert ((4, 6), 10, TABLE.digest) == (
            hello.label_counts,
            hello.sample_count,
            hello.units_digest,
        )
        await stage.finish()

    play(lambda: Stage(tmp_path, ScriptedTrainer(at_once)), script)


def test_labels_can_be_withheld(tmp_path: Path) -> None:
    async def both() -> None:
        stage = Stage(tmp_path, ScriptedTrainer(at_once))
        await stage.open()
        device = WorkerDevice(memory_bytes=1 << 20, share_labels=False, scratch_dir=tmp_path)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(stage.work(device))
            [hello] = await stage.hear(Hello)
            assert hello.label_counts is None
            await stage.finish()

    asyncio.run(both())


@pytest.mark.parametrize(
    ("damage", "keep_blob", "reason"), [(True, True, "damaged"), (False, False, "left the log")]
)
def test_a_damaged_or_missing_dispatch_is_reported_and_the_next_plan_goes_on(
    tmp_path: Path, damage: bool, keep_blob: bool, reason: str
) -> None:
    async def script(stage: Stage) -> None:
        await stage.open()
        await stage.dispatch("p1", damage=damage, keep_blob=keep_blob)
        [bad] = await stage.hear(Report)
        await stage.dispatch("p2")
        [_, good] = await stage.hear(Report, 2)
        assert ("failed", "done") == (bad.status, good.status)
        assert reason in bad.detail
        await stage.finish()

    play(lambda: Stage(tmp_path, ScriptedTrainer(at_once)), script)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TrainingOutOfMemoryError("no room", 77), "out_of_memory"),
        (TrainingFailedError("bad loss"), "failed"),
        (KeyError("the task's own fault"), "failed"),
    ],
)
def test_training_that_fails_is_reported_and_the_next_plan_goes_on(
    tmp_path: Path, error: Exception, status: str
) -> None:
    async def fail_first(plan: Plan, watch: TrainingControl) -> None:
        if plan.plan_id == "p1":
            raise error

    async def script(stage: Stage) -> None:
        await stage.open()
        await stage.dispatch("p1")
        [bad] = await stage.hear(Report)
        await stage.dispatch("p2")
        [_, good] = await stage.hear(Report, 2)
        assert (status, "done") == (bad.status, good.status)
        assert str(error) in bad.detail
        await stage.finish()

    play(lambda: Stage(tmp_path, ScriptedTrainer(fail_first)), script)


def test_a_newer_plan_stops_the_older_s_training_at_once(tmp_path: Path) -> None:
    async def hang_first(plan: Plan, watch: TrainingControl) -> None:
        if plan.plan_id == "p1":
            await for_ever(plan, watch)

    async def script(stage: Stage) -> None:
        await stage.open()
        await stage.dispatch("p1")
        await stage.trainer.began.wait()
        await stage.dispatch("p2")
        [report] = await stage.hear(Report)
        assert ("p2", "done") == (report.plan_id, report.status)
        await stage.finish()

    stage = play(lambda: Stage(tmp_path, ScriptedTrainer(hang_first)), script)

    assert 1 == stage.trainer.stops


def test_heartbeats_go_on_while_a_plan_is_trained(tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        await stage.open()
        await stage.dispatch("p1")
        heartbeats = Mailbox(stage.bus, PREFIX, HEARTBEATS, reader="test")
        training: list[Heartbeat] = []
        async with asyncio.timeout(5):
            while len(training) < 3:
                beats = [letter.message for letter in await heartbeats.poll(0.2)]
                training += [b for b in beats if isinstance(b, Heartbeat) and b.plan_id]
        beat = training[-1]
        assert "training" == beat.state
        assert ("p1", 1) == (beat.plan_id, beat.steps_done)
        await stage.finish()

    play(lambda: Stage(tmp_path, ScriptedTrainer(for_ever)), script)


def test_a_worker_asked_to_stop_abandons_its_plan_and_says_goodbye(tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        await stage.open()
        await stage.dispatch("p1")
        await stage.trainer.began.wait()
        stage.stop.set()
        [report], [_] = await stage.hear(Report), await stage.hear(Goodbye)
        assert ("abandoned", "p1") == (report.status, report.plan_id)

    async def both() -> None:
        stage = Stage(tmp_path, ScriptedTrainer(for_ever))
        device = WorkerDevice(1 << 20, scratch_dir=tmp_path, shutdown_deadline_s=0.3)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(stage.work(device))
            group.create_task(script(stage))

    asyncio.run(both())


def test_a_worker_that_waits_for_its_run_says_so_every_ten_seconds(tmp_path: Path) -> None:
    logged = structlog.testing.CapturingLogger()

    async def wait() -> None:
        stage = Stage(tmp_path, ScriptedTrainer(at_once))
        stage.log = structlog.wrap_logger(logged, processors=[])
        await stage.bus.create_topics(specs(PREFIX, 2))
        asyncio.get_running_loop().call_later(35.0, stage.stop.set)
        await stage.work()

    run_virtual(wait())

    assert ["run_awaited"] * 3 == [call.kwargs["event"] for call in logged.calls]


def test_a_worker_asked_to_stop_before_its_run_just_ends(tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        await asyncio.sleep(0.02)
        stage.stop.set()

    async def both() -> None:
        stage = Stage(tmp_path, ScriptedTrainer(at_once))
        await stage.bus.create_topics(specs(PREFIX, 2))
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(stage.work())
            group.create_task(script(stage))
        assert [] == await stage.fleet.poll()

    asyncio.run(both())


def published(version: int, shard: int = 0, shard_count: int = 1) -> VersionPublished:
    return VersionPublished(
        run_id="r",
        version=version,
        shard=shard,
        shard_count=shard_count,
        decisions_offset=version + 1,
        digest=bytes(32),
        unit_digests=b"",
    )


@pytest.mark.parametrize("later", [0, 100])
def test_a_run_that_is_over_is_left_without_a_word(tmp_path: Path, later: int) -> None:
    """Its other shard may have had much to tell after the end."""

    async def both() -> None:
        stage = Stage(tmp_path, ScriptedTrainer(at_once))
        await stage.open()
        await stage.say(published(0, 0, 2))
        await stage.finish()
        for version in range(later):
            await stage.say(published(version, 1, 2))
        async with asyncio.timeout(5):
            await stage.work()
        assert [] == await stage.fleet.poll()

    asyncio.run(both())


def test_a_worker_joins_a_long_run_as_fast_as_a_short_one(tmp_path: Path) -> None:
    """It reads the run's opening, and that the run is not over: no more of what was dispatched."""

    async def records_read(versions: int) -> int:
        stage = Stage(tmp_path, ScriptedTrainer(at_once))
        await stage.open()
        for version in range(versions):
            await stage.say(published(version))
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(stage.work())
            await stage.dispatch("p1")
            await stage.hear(Report)
            await stage.finish()
        return stage.bus.counts[MODELS.full_name(PREFIX)]

    few, many = (asyncio.run(records_read(n)) for n in (500, 2000))

    assert few == many < 300


def test_a_plan_of_an_earlier_life_is_not_begun(tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        await stage.open()
        blob = await write_blob(stage.bus, SUBMODELS.full_name(PREFIX), 0, "p0", [b"x"])
        plan = stage.plan("p0", 1)
        old = one_blob((*plan.trained, *plan.frozen), blob) | {"shard": 0, "shard_count": 1}
        await stage.say(Dispatched(run_id="r", decisions_offset=1, plan=plan, **old))
        await stage.dispatch("p2")
        [report] = await stage.hear(Report)
        assert ("done", "p2") == (report.status, report.plan_id)
        await stage.finish()

    play(lambda: Stage(tmp_path, ScriptedTrainer(at_once)), script)


def test_an_unreadable_record_of_models_stops_nothing(tmp_path: Path) -> None:
    async def script(stage: Stage) -> None:
        await stage.bus.create_topics(specs(PREFIX, 2))
        await stage.bus.append(MODELS.full_name(PREFIX), 0, [NewRecord(b"junk")])
        await stage.open()
        await stage.hear(Hello)
        await stage.finish()

    play(lambda: Stage(tmp_path, ScriptedTrainer(at_once)), script)


def test_another_model_than_the_run_s_is_an_error(tmp_path: Path) -> None:
    async def both() -> None:
        stage = Stage(tmp_path, ScriptedTrainer(at_once))
        await stage.open()
        with pytest.raises(SettingsError, match="not that of run r"):
            await stage.work(table=OTHER_TABLE)

    asyncio.run(both())


def test_a_budget_below_the_smallest_submodel_says_which_would_do(tmp_path: Path) -> None:
    async def both() -> None:
        stage = Stage(tmp_path, ScriptedTrainer(at_once))
        await stage.open()
        with pytest.raises(BudgetError, match=r"\d+ bytes\) would do"):
            await stage.work(WorkerDevice(memory_bytes=100, scratch_dir=tmp_path))

    asyncio.run(both())


def test_a_worker_removes_what_a_killed_one_left_and_says_so(tmp_path: Path) -> None:
    left = tmp_path / "cos2p-scratch-dead"
    left.mkdir()
    (left / "lock").touch()
    (left / "p9.f32").write_bytes(bytes(100))

    async def script(stage: Stage) -> None:
        await stage.open()
        await stage.hear(Hello)
        assert not left.exists()
        await stage.finish()

    with structlog.testing.capture_logs() as logs:
        play(lambda: Stage(tmp_path, ScriptedTrainer(at_once)), script)

    assert [1] == [x["folders"] for x in logs if "scratch_removed" == x["event"]]


def test_a_scratch_folder_that_can_t_be_made_is_an_error(tmp_path: Path) -> None:
    async def both() -> None:
        stage = Stage(tmp_path, ScriptedTrainer(at_once))
        await stage.open()
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="file/below"):
            await stage.work(WorkerDevice(1 << 20, scratch_dir=tmp_path / "file/below"))

    asyncio.run(both())


def test_a_worker_leaves_a_run_of_another_version_and_says_so(tmp_path: Path) -> None:
    async def both() -> None:
        stage = Stage(tmp_path, ScriptedTrainer(at_once))
        await stage.bus.create_topics(specs(PREFIX, 2))
        opened = RunOpened(
            run_id="r",
            decisions_offset=1,
            config=stage.config,
            task="m:t",
            units_digest=TABLE.digest,
            protocol=2,
        )
        await stage.say(opened)
        with pytest.raises(SettingsError, match="run r uses protocol 2, this worker 1"):
            await stage.work()

    asyncio.run(both())


def test_a_disk_that_can_t_hold_the_weights_is_reported_and_ends_the_worker(tmp_path: Path) -> None:
    async def both() -> None:
        stage = Stage(tmp_path, ScriptedTrainer(at_once))
        await stage.open()
        work = asyncio.create_task(stage.work())
        await stage.hear(Hello)
        shutil.rmtree(tmp_path / "cos2p-units-w0")
        await stage.dispatch("p1")
        with pytest.raises(StorageError, match="free some space"):
            await work
        [report] = await stage.hear(Report)
        assert "failed" == report.status
        assert "free some space" in report.detail

    asyncio.run(both())


def test_a_worker_that_starts_again_finds_the_weights_that_it_had(tmp_path: Path) -> None:
    async def both() -> None:
        stage = Stage(tmp_path, ScriptedTrainer(at_once))
        await stage.open()
        reports = []
        for plan_id in ("p1", "p2"):
            stage.stop.clear()
            stage.heard = []
            work = asyncio.create_task(stage.work())
            await stage.dispatch(plan_id)
            reports += await stage.hear(Report)
            stage.stop.set()
            await work
        first, second = reports

        assert (first.bytes_found, second.bytes_found) == (0, 4 * TABLE.parameter_count)
        assert second.bytes_down < first.bytes_down

    asyncio.run(both())


def test_two_workers_with_one_name_and_folder_do_not_share_it(tmp_path: Path) -> None:
    async def both() -> None:
        stage = Stage(tmp_path, ScriptedTrainer(at_once))
        await stage.open()
        work = asyncio.create_task(stage.work())
        await stage.hear(Hello)
        with pytest.raises(StorageError, match="another process works as w0"):
            await stage.work()
        await stage.finish()
        await work

    asyncio.run(both())
