"""Models shaped like the real ones, and a stage on which the core plays to a scripted fleet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from cos2p.log import messages as m
from cos2p.log.mailbox import Letter
from cos2p.log.state_codec import pack, unpack
from cos2p.log.topics import FLEET, partition_of
from cos2p.model.cost import CostModel
from cos2p.model.payload import expected_bytes
from cos2p.model.unit_wire import UnitColumns
from cos2p.model.units import Unit, UnitTable
from cos2p.run_config import RunConfig
from cos2p_planner.baselines.policies import OURS_OFF
from cos2p_planner.core import PlannerCore
from cos2p_planner.fold import PlannerFold, PlannerState
from cos2p_planner.presets import merged

RUN = "run-1"
UPDATES = "t-updates"


def vit_table(blocks: int = 4, width: int = 64, tokens: int = 17, groups: int = 8) -> UnitTable:
    """Units of a small ViT: 4 heads and some groups of neurons a block."""
    heads, group = 4, 2 * width // groups
    head_dim = width // heads
    units = [Unit("embed", "core", -1, 49 * width, 2 * tokens * 49 * width, tokens * width)]
    for b in range(blocks):
        units.append(Unit(f"b{b}.core", "core", b, 6 * width, 1000, 4 * tokens * width))
        for h in range(heads):
            size = 4 * width * head_dim + 3 * head_dim
            flops = 8 * tokens * width * head_dim + 4 * tokens**2 * head_dim
            saved = 4 * tokens * head_dim + tokens**2
            units.append(Unit(f"b{b}.head{h}", "head", b, size, flops, saved))
        for g in range(groups):
            size, flops = (2 * width + 1) * group, 4 * tokens * width * group
            units.append(Unit(f"b{b}.neurons{g}", "neurons", b, size, flops, 2 * tokens * group))
    units.append(Unit("classifier", "core", -1, width * 10 + 10, 20 * width, tokens * width))
    return UnitTable(tuple(units))


def cnn_table(blocks: int = 4, width: int = 32, side: int = 8) -> UnitTable:
    """Units of a small residual CNN: 8 groups of inner channels a block."""
    groups, pixels = 8, side * side
    inner = 2 * width // groups
    units = [Unit("stem", "core", -1, 11 * width, 18 * width * pixels, 2 * width * pixels)]
    for b in range(blocks):
        units.append(Unit(f"b{b}.core", "core", b, 4 * width, 1000, 2 * width * pixels))
        for g in range(groups):
            size, flops = 18 * width * inner + 2 * inner, 36 * width * inner * pixels
            units.append(Unit(f"b{b}.channels{g}", "channels", b, size, flops, 2 * inner * pixels))
    units.append(Unit("classifier", "core", -1, width * 10 + 10, 20 * width, width))
    return UnitTable(tuple(units))


@dataclass(frozen=True)
class Snapshot:
    """A packed state, and the offsets that it has read up to."""

    state: bytes
    fleet: int
    decisions: int
    models: int


class Stage:
    """The core, the logs that it reads and writes, and time.

    What is our method's own is off unless a test turns it on.
    """

    def __init__(
        self, config: dict[str, Any] | None = None, table: UnitTable | None = None
    ) -> None:
        self.table = table or vit_table(2)
        self.config = RunConfig.model_validate(merged(OURS_OFF, config or {}))
        self.costs = CostModel.of(self.table, self.config)
        self.now = 1000.0
        self.fleet_log: list[tuple[float, m.Message]] = []
        self.beats: dict[str, tuple[float, m.Heartbeat]] = {}
        self.decision_log: list[tuple[float, m.Decision]] = []
        self.models_log: list[tuple[float, m.Message]] = []
        self.epoch = 1
        self.core = self._new_core()

    def _new_core(self) -> PlannerCore:
        return PlannerCore(RUN, self.epoch, updates_topic=UPDATES)

    @property
    def snapshot(self) -> "Snapshot":
        """The fold's state now, and how far it has read."""
        packed = pack(PlannerState, self.core.known.state)
        return Snapshot(packed, len(self.fleet_log), len(self.decision_log), len(self.models_log))

    # ---------------------------------------------------------------- what the fleet says

    def request(self) -> list[m.Decision]:
        size = expected_bytes(self.table, "v0", range(len(self.table)))
        return self.deliver(
            m.RunRequested(
                run_id=RUN,
                config=self.config,
                task="tests:task",
                units=UnitColumns.of(self.table),
                checkpoint=self.blob("t-checkpoints", 0, "v0", size),
            )
        )

    def hello(self, worker: str, fraction: float = 0.5, **changes: Any) -> list[m.Decision]:
        incarnation = changes.pop("incarnation", 1)
        memory = changes.pop("memory_bytes", None)
        profile = m.DeviceProfile(
            memory_bytes=self.costs.memory_for_fraction(fraction) if memory is None else memory,
            flops_per_s=changes.pop("flops_per_s", 1e9),
        )
        fields = {"sample_count": 100, "units_digest": self.table.digest} | changes
        return self.deliver(
            m.Hello.model_validate(
                {"run_id": RUN, "worker_id": worker, "incarnation": incarnation}
                | {"profile": profile}
                | fields
            )
        )

    def beat(self, worker: str, incarnation: int = 1, state: str = "training") -> list[m.Decision]:
        body = {"run_id": RUN, "worker_id": worker, "incarnation": incarnation, "state": state}
        return self.hear(m.Heartbeat.model_validate(body))

    def goodbye(self, worker: str, incarnation: int = 1) -> list[m.Decision]:
        return self.deliver(
            m.Goodbye(run_id=RUN, worker_id=worker, incarnation=incarnation, reason="SIGTERM")
        )

    def report(self, plan: m.Plan, **changes: Any) -> list[m.Decision]:
        return self.deliver(self.report_of(plan, **changes))

    def report_of(self, plan: m.Plan, **changes: Any) -> m.Report:
        size = expected_bytes(self.table, plan.plan_id, plan.trained)
        partition = partition_of(plan.worker_id, self.config.partitions)
        incarnation = changes.get("incarnation", plan.incarnation)
        blob = {"byte_count": size, "topic": UPDATES, "partition": partition} | changes.pop(
            "blob", {}
        )
        fields = {
            "run_id": RUN,
            "worker_id": plan.worker_id,
            "incarnation": incarnation,
            "plan_id": plan.plan_id,
            "status": "done",
            "sample_count": 100,
            "steps_done": plan.local_steps,
            "train_s": 0.5,
            "peak_bytes": plan.peak_bytes,
            "blob": {
                "first_offset": 0,
                "last_offset": 0,
                "chunk_count": 1,
                "digest": bytes(32),
                "blob_id": f"{plan.plan_id}.{plan.incarnation}",
            }
            | blob,
        }
        return m.Report.model_validate(fields | changes)

    def blob(self, topic: str, partition: int, blob_id: str, size: int) -> m.BlobRef:
        return m.BlobRef(
            topic=topic,
            partition=partition,
            first_offset=0,
            last_offset=0,
            chunk_count=1,
            byte_count=size,
            digest=bytes(32),
            blob_id=blob_id,
        )

    # ---------------------------------------------------------------- time and the log

    def deliver(self, message: m.Message, survivors: int | None = None) -> list[m.Decision]:
        """Append to `fleet`, let the core handle it and advance; `survivors`: then crash."""
        offset = len(self.fleet_log)
        self.fleet_log.append((self.now, message))
        made = self.core.handle(offset, message, self.now) + self.core.advance(self.now)
        return self._log(made, survivors)

    def hear(self, beat: m.Heartbeat) -> list[m.Decision]:
        """A heartbeat arrives."""
        self.beats[beat.worker_id] = (self.now, beat)
        self.core.handle_heartbeat(beat, self.now)
        return self._log(self.core.advance(self.now), None)

    def tick(self, seconds: float, survivors: int | None = None) -> list[m.Decision]:
        self.now += seconds
        return self._log(self.core.advance(self.now), survivors)

    def pass_time(self, seconds: float, *alive: str, step_s: float = 1.0) -> list[m.Decision]:
        """Let time pass in steps in which these workers' heartbeats arrive."""
        made: list[m.Decision] = []
        end = self.now + seconds
        while self.now < end:
            for worker in alive:
                device = self.core.fleet.get(worker)
                made += self.beat(worker, device.incarnation if device else 1)
            made += self.tick(min(step_s, end - self.now))
        return made

    def models(self, message: m.Message) -> None:
        self.models_log.append((self.now, message))
        self.core.handle_model(message, self.now)

    def publish(self, version: int, *left_out: m.LeftOut) -> None:
        self.models(
            m.VersionPublished(
                run_id=RUN,
                version=version,
                shard=0,
                shard_count=1,
                decisions_offset=0,
                digest=bytes(32),
                unit_digests=b"",
                left_out=left_out,
            )
        )

    def restart(self, since: "Snapshot | None" = None) -> list[m.Decision]:
        """A new planner process takes the run over from the logs, or from a snapshot on."""
        self.epoch += 1
        self.core = core = self.folded(since)
        made: list[m.Decision] = []
        due = core.ledger.fleet_offset
        for offset, (at_s, message) in enumerate(self.fleet_log[due:], due):
            made += core.handle(offset, message, at_s)
        for at_s, beat in self.beats.values():
            core.handle_heartbeat(beat, at_s)
        core.resume(self.now)
        return self._log(made + core.advance(self.now), None)

    def folded(self, since: "Snapshot | None" = None) -> PlannerCore:
        """A core that knows all that is decided, and the fleet's records that led to it."""
        start = since or Snapshot(pack(PlannerState, PlannerState()), 0, 0, 0)
        known = PlannerFold(unpack(PlannerState, start.state))
        core = PlannerCore(RUN, self.epoch, updates_topic=UPDATES, known=known)
        read = start.fleet
        for _, decision in self.decision_log[start.decisions :]:
            for offset in range(read, decision.fleet_offset):
                at_s, message = self.fleet_log[offset]
                core.restore(Letter(FLEET, offset, at_s, message))
            read = max(read, decision.fleet_offset)
            known.apply(decision)
        for at_s, message in self.models_log[start.models :]:
            core.handle_model(message, at_s)
        return core

    def folded_to_the_end(self, since: "Snapshot | None" = None) -> PlannerCore:
        """The same with the fleet's records that nothing was decided on."""
        core = self.folded(since)
        read = max(core.ledger.fleet_offset, since.fleet if since else 0)
        for offset, (at_s, message) in enumerate(self.fleet_log[read:], read):
            core.restore(Letter(FLEET, offset, at_s, message))
        return core

    def _log(self, made: list[m.Decision], survivors: int | None) -> list[m.Decision]:
        kept = made if survivors is None else made[:survivors]
        self.decision_log += [(self.now, d) for d in kept]
        return kept + self.restart() if survivors is not None else kept

    # ---------------------------------------------------------------- what the log says

    def decided(self, kind: type[m.Decision]) -> list[Any]:
        return [d for _, d in self.decision_log if isinstance(d, kind)]

    def plan_of(self, worker: str) -> m.Plan:
        """The worker's open plan."""
        return self.core.ledger.open[self.core.ledger.open_of[worker]]

    def outcomes(self) -> dict[str, list[m.Outcome]]:
        """The endings of each issued plan, read off the log alone."""
        found: dict[str, list[m.Outcome]] = {}
        for _, d in self.decision_log:
            if isinstance(d, m.PlanIssued):
                found[d.plan.plan_id] = []
            elif isinstance(d, m.UpdateAdmitted):
                found[d.plan_id].append(m.Outcome.ACCEPTED)
            elif isinstance(d, m.PlanCancelled) or (
                isinstance(d, m.UpdateRefused) and d.outcome is not m.Outcome.DUPLICATE
            ):
                found[d.plan_id].append(d.outcome)
        return found


def only(decisions: Sequence[m.Decision], kind: type[Any]) -> Any:
    """The one decision of a kind."""
    found = [d for d in decisions if isinstance(d, kind)]
    assert 1 == len(found), decisions
    return found[0]


@pytest.fixture
def vit() -> Callable[..., UnitTable]:
    return vit_table


@pytest.fixture
def cnn() -> Callable[..., UnitTable]:
    return cnn_table


@pytest.fixture
def new_stage() -> Callable[..., Stage]:
    """A stage with a started run; arguments as `Stage` takes them."""

    def make(config: dict[str, Any] | None = None, table: UnitTable | None = None) -> Stage:
        stage = Stage(config, table)
        stage.request()
        return stage

    return make


@pytest.fixture
def stage(new_stage: Callable[..., Stage]) -> Stage:
    return new_stage()


@pytest.fixture
def the_only() -> Callable[[Sequence[m.Decision], type[Any]], Any]:
    return only
