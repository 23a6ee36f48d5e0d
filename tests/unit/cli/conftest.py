"""A small made-up run as messages, for the folds and the screens."""

from collections import Counter

import pytest
from dispatching import one_blob

from cos2p.clock import SystemClock
from cos2p.log import codec
from cos2p.log import messages as m
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.topics import CATALOGUE, specs
from cos2p.model.unit_wire import UnitColumns
from cos2p.model.units import STEM, Kind, Unit, UnitTable
from cos2p.run_config import LivenessConfig, RoundConfig, RunConfig

RUN = "r1"
REF = m.BlobRef(
    topic="t-updates",
    partition=0,
    first_offset=0,
    last_offset=0,
    chunk_count=1,
    byte_count=10,
    digest=b"d" * 32,
    blob_id="b",
)


def unit_table(*, exits: bool = False) -> UnitTable:
    parts: tuple[tuple[Kind, int], ...] = (("core", 0), ("head", 0), ("head", 1))
    blocks = [
        Unit(f"block{b}.{kind}.{i}", kind, b, 100 if kind == "head" else 10, 1000, 20)
        for b in range(2)
        for kind, i in parts
    ]
    heads = [Unit("exit0", "core", STEM, 20, 100, 5)] if exits else []
    return UnitTable((Unit("stem", "core", STEM, 50, 500, 10), *blocks, *heads))


class Script:
    """Makes the messages of a run; time is given with each."""

    def __init__(self, *, exits: bool = False) -> None:
        self.table = unit_table(exits=exits)
        self.config = RunConfig(
            rounds=RoundConfig(versions=4), liveness=LivenessConfig(lost_after_s=15)
        )
        self.epoch = 1

    def requested(self) -> m.RunRequested:
        return m.RunRequested(
            run_id=RUN,
            config=self.config,
            task="a:b",
            units=UnitColumns.of(self.table),
            checkpoint=REF,
        )

    def started(self) -> list[m.Message]:
        return [
            m.EpochStarted(run_id=RUN, epoch=self.epoch, fleet_offset=0, at_s=0.0, planner_id="p"),
            m.RunStarted(
                run_id=RUN,
                epoch=self.epoch,
                fleet_offset=0,
                at_s=0.0,
                config=self.config,
                task="a:b",
                units=UnitColumns.of(self.table),
                checkpoint=REF,
            ),
        ]

    def hello(
        self, worker_id: str, *, memory: int = 10_000, kind: str = "small", incarnation: int = 1
    ) -> m.Hello:
        return m.Hello(
            run_id=RUN,
            worker_id=worker_id,
            incarnation=incarnation,
            profile=m.DeviceProfile(device_class=kind, memory_bytes=memory, flops_per_s=1e9),
            sample_count=20,
            units_digest=self.table.digest,
        )

    def issued(
        self, plan_id: str, worker_id: str, *, base: int = 0, trained: tuple[int, ...] = (0, 1, 2)
    ) -> m.PlanIssued:
        plan = m.Plan(
            plan_id=plan_id,
            worker_id=worker_id,
            incarnation=1,
            base_version=base,
            trained=trained,
            local_steps=5,
            batch_size=4,
            learning_rate=1e-3,
            seed=1,
            deadline_s=9,
            peak_bytes=7_000,
        )
        return m.PlanIssued(run_id=RUN, epoch=self.epoch, fleet_offset=0, at_s=0.0, plan=plan)

    def report(self, plan_id: str, worker_id: str) -> m.Report:
        return m.Report(
            run_id=RUN,
            worker_id=worker_id,
            incarnation=1,
            plan_id=plan_id,
            status="done",
            blob=REF,
            sample_count=20,
            steps_done=5,
            idle_s=1,
            fetch_s=0.5,
            train_s=2,
            throttle_s=1,
            upload_s=0.5,
            peak_bytes=6_500,
            bytes_down=1_000,
            bytes_up=900,
            loss_first=2.0,
            loss_last=1.5,
        )

    def admitted(self, plan_id: str, worker_id: str, *, staleness: int = 0) -> m.UpdateAdmitted:
        return m.UpdateAdmitted(
            run_id=RUN,
            epoch=self.epoch,
            fleet_offset=0,
            at_s=0.0,
            plan_id=plan_id,
            worker_id=worker_id,
            blob=REF,
            weight=1,
            staleness=staleness,
            steps_done=5,
        )

    def closed(self, version: int) -> m.RoundClosed:
        return m.RoundClosed(
            run_id=RUN,
            epoch=self.epoch,
            fleet_offset=0,
            at_s=0.0,
            version=version,
            reason="count",
            update_count=1,
            waited_s=1,
            coverage_min=2,
            coverage_bound=3.5,
        )

    def evaluated(self, version: int, accuracy: float) -> m.Evaluated:
        shown = self.table.exits
        return m.Evaluated(
            run_id=RUN,
            evaluator_id="evaluator",
            version=version,
            sample_count=100,
            loss=0.5,
            accuracy=accuracy,
            raw_accuracy=accuracy - 0.01,
            plain_accuracy=accuracy - 0.02,
            scaled_accuracy=accuracy,
            exit_accuracies=(accuracy / 2,) * len(shown),
            mean_accuracy=accuracy / 4 if shown else None,
        )

    def published(self, version: int) -> m.VersionPublished:
        return m.VersionPublished(
            run_id=RUN,
            version=version,
            shard=0,
            shard_count=1,
            decisions_offset=3,
            digest=b"x" * 32,
            unit_digests=b"12345678" * len(self.table),
            step_norm=3.0,
            model_norm=4.0,
        )

    def ended(self, reason: str = "target") -> m.RunEnded:
        return m.RunEnded.model_validate(
            {
                "run_id": RUN,
                "epoch": self.epoch,
                "fleet_offset": 0,
                "at_s": 0.0,
                "version": 4,
                "reason": reason,
            }
        )

    def opened(self) -> m.RunOpened:
        return m.RunOpened(
            decisions_offset=2,
            run_id=RUN,
            config=self.config,
            task="a:b",
            units_digest=self.table.digest,
        )

    def dispatched(self, plan: m.Plan, *, lacking: int = 0) -> m.Dispatched:
        units = sorted({*plan.trained, *plan.frozen})
        blob = REF.model_copy(update={"topic": "t-submodels", "blob_id": f"{plan.plan_id}.s0"})
        where = one_blob(units[lacking:], blob)
        return m.Dispatched(
            run_id=RUN, decisions_offset=1, plan=plan, shard=0, shard_count=1, **where
        )

    def finished(self) -> m.RunFinished:
        return m.RunFinished(run_id=RUN, decisions_offset=1, version=4, reason="target")


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def script_with_exits() -> Script:
    return Script(exits=True)


class LoggedRun:
    """The script's messages on a bus in memory."""

    PREFIX = "t"

    def __init__(self, script: Script) -> None:
        self.script = script
        self.clock = SystemClock()
        self.bus = MemoryBus(self.clock)
        self.ends: Counter[str] = Counter()

    async def create(self) -> None:
        await self.bus.create_topics(specs(self.PREFIX, self.script.config.partitions))

    async def create_but(self, name: str) -> None:
        """All topics but one, which is there in another shape."""
        wanted = specs(self.PREFIX, self.script.config.partitions)
        await self.bus.create_topics([x for x in wanted if x.name != name])

    async def append(self, *messages: m.Message) -> None:
        """Append messages; a decision is made now, and has handled all of the fleet so far."""
        for message in messages:
            topic = next(t for t in CATALOGUE if type(message) in t.messages)
            if isinstance(message, m.Decision):
                update = {"at_s": self.clock.now(), "fleet_offset": self.ends["fleet"]}
                message = message.model_copy(update=update)
            elif isinstance(message, m.AggregatorMessage):
                update = {"decisions_offset": self.ends["decisions"]}
                message = message.model_copy(update=update)
            self.ends[topic.name] += 1
            await self.bus.append(topic.full_name(self.PREFIX), 0, [codec.encode(message)])

    async def whole(self) -> None:
        """A short run with two workers, to its end."""
        s = self.script
        await self.create()
        await self.append(s.requested(), *s.started(), s.opened(), s.published(0))
        await self.append(s.hello("w0"), s.hello("w1"))
        for n in range(1, 5):
            for w in ("w0", "w1"):
                plan = s.issued(f"p{w}{n}", w, base=n - 1)
                await self.append(plan, s.dispatched(plan.plan), s.report(f"p{w}{n}", w))
                await self.append(s.admitted(f"p{w}{n}", w))
            await self.append(s.closed(n), s.published(n), s.evaluated(n, n / 5))
        await self.append(s.ended(), s.finished())


@pytest.fixture
def logged(script: Script) -> LoggedRun:
    return LoggedRun(script)
