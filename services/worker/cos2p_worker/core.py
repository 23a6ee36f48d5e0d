"""Decides what a worker does next, without I/O: messages and local events in, effects out.

Invariants:
- At most one plan is worked on.
- A plan of another worker or of an older incarnation is never touched.
- A newer plan voids the older one, and a voided plan is never reported.
- Every plan that was begun and not voided ends in exactly one Report.
- After a stop is asked for, no new plan is begun.
- A plan is newer when it was decided later. Each shard's record of it names the same offset in the
  decisions. So the order of plans doesn't depend on how far apart the shards are.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cos2p.log.messages import (
    BlobRef,
    Dispatched,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    Plan,
    Report,
    RunFinished,
    UnitBlob,
)
from cos2p.log.topics import SUBMODELS
from cos2p.model.unit_wire import UnitScores, unpack_units
from cos2p.model.units import UnitTable
from cos2p.run_config import RunConfig
from cos2p_worker.hellos import Hellos
from cos2p_worker.trainer import TrainResult

FINISH_SHARE = 0.5
"""After a stop, a plan is finished if it should need at most this share of the deadline."""

State = Literal["idle", "fetching", "training", "uploading", "stopping"]


@dataclass(frozen=True)
class Part:
    """What one aggregator shard sent of a plan.

    Attributes:
        units: the units, ascending.
        blobs: the blobs that hold them, newest first.
    """

    units: tuple[int, ...]
    blobs: tuple[UnitBlob, ...]


@dataclass(frozen=True)
class Send:
    """Append this message to `heartbeats` or to `fleet`."""

    message: Message


@dataclass(frozen=True)
class Fetch:
    """Read the weights of a plan."""

    plan: Plan
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Train:
    """Train the plan whose weights were fetched."""

    plan: Plan


@dataclass(frozen=True)
class Upload:
    """Append the delta to `updates`."""

    plan: Plan
    result: TrainResult


@dataclass(frozen=True)
class Cancel:
    """Stop all work for this plan; its events no longer count."""

    plan_id: str


@dataclass(frozen=True)
class Leave:
    """End the worker."""

    reason: str


Effect = Send | Fetch | Train | Upload | Cancel | Leave


class WorkerCore:
    """One worker in one run, in one incarnation.

    `hello` is what it announces about itself, the same at each repetition. Dispatched weights must
    lie in the topic with the full name `submodels`.
    """

    def __init__(
        self,
        hello: Hello,
        config: RunConfig,
        table: UnitTable,
        *,
        now: float,
        submodels: str = SUBMODELS.name,
    ) -> None:
        self._hello, self._config, self._table = hello, config, table
        self._submodels = submodels
        self._sender: dict[str, Any] = hello.model_dump(
            include={"run_id", "worker_id", "incarnation"}
        )
        self._plan: Plan | None = None
        self._parts: dict[int, Part] = {}
        self._newest = 0
        """Offset in the decisions of the newest plan."""
        self._stage: State = "idle"
        self._stage_began = now
        self._seconds: dict[State, float] = {}
        self._result: TrainResult | None = None
        self._bytes_down = self._bytes_found = 0
        self._hellos = Hellos(config.liveness.heartbeat_s)
        self._beat_due = now
        self._stopping = False
        self._left = False

    @property
    def state(self) -> State:
        """The state that heartbeats report."""
        return "stopping" if self._stopping else self._stage

    @property
    def plan_id(self) -> str | None:
        """The plan in work, or waiting for its last shard."""
        return self._plan.plan_id if self._plan is not None else None

    # ------------------------------------------------------------ the bus

    def handle(self, message: Message, now: float) -> list[Effect]:
        """Take the next message of `models`."""
        if self._left:
            return []
        if isinstance(message, RunFinished):
            return [*self._void(), *self._leave("the run is finished")]
        if isinstance(message, Dispatched):
            return self._dispatched(message, now)
        return []

    def tick(self, now: float, steps_done: int = 0) -> list[Effect]:
        """Note that time has passed; send a heartbeat, or sometimes a Hello, where it is due."""
        if self._left or now < self._beat_due:
            return []
        self._beat_due = now + self._config.liveness.heartbeat_s
        if self._hellos.due():
            return [Send(self._hello)]
        beat = Heartbeat(
            **self._sender, state=self.state, plan_id=self.plan_id, steps_done=steps_done
        )
        return [Send(beat)]

    # ------------------------------------------------------------ local events

    def fetched(
        self, plan_id: str, byte_count: int, now: float, *, found_bytes: int = 0
    ) -> list[Effect]:
        """Note that the plan's weights are on this machine, with each unit's digest checked.

        Args:
            plan_id: the plan.
            byte_count: bytes that were fetched.
            now: the clock's seconds.
            found_bytes: bytes that were here before.
        """
        plan = self._current(plan_id, "fetching")
        if plan is None:
            return []
        self._bytes_down, self._bytes_found = byte_count, found_bytes
        self._enter("training", now)
        return [Train(plan)]

    def trained(self, plan_id: str, result: TrainResult, now: float) -> list[Effect]:
        """Note that training has ended with a result."""
        plan = self._current(plan_id, "training")
        if plan is None:
            return []
        self._result = result
        fault = self._fault_of(plan, result)
        if fault:
            return self._report("failed", now, detail=fault)
        self._enter("uploading", now)
        return [Upload(plan, result)]

    def uploaded(self, plan_id: str, blob: BlobRef, now: float) -> list[Effect]:
        """Note that the delta is in the log."""
        if self._current(plan_id, "uploading") is None:
            return []
        return self._report("done", now, blob=blob)

    def failed(self, plan_id: str, detail: str, now: float) -> list[Effect]:
        """Note that a step failed in a way that may not affect the next plan."""
        if self.plan_id != plan_id:
            return []
        return self._report("failed", now, detail=detail)

    def out_of_memory(self, plan_id: str, peak_bytes: int, detail: str, now: float) -> list[Effect]:
        """Note that training needed more memory than there is."""
        if self._current(plan_id, "training") is None:
            return []
        return self._report("out_of_memory", now, detail=detail, peak_bytes=peak_bytes)

    def stop(self, now: float, *, deadline_s: float, steps_done: int = 0) -> list[Effect]:
        """Handle a stop: leave at once, or after a plan that is nearly done."""
        if self._left or self._stopping:
            return []
        self._stopping = True
        if self._nearly_done(now, deadline_s, steps_done):
            return []
        return self.out_of_time(now)

    def out_of_time(self, now: float) -> list[Effect]:
        """Abandon the plan and leave: the stop can wait no longer."""
        if self._left:
            return []
        self._stopping = True
        if self._plan is None or self._stage == "idle":
            return self._goodbye()
        cancel = Cancel(self._plan.plan_id)
        return [cancel, *self._report("abandoned", now, detail="asked to stop")]

    # ------------------------------------------------------------ inside

    def _dispatched(self, message: Dispatched, now: float) -> list[Effect]:
        plan = message.plan
        mine = (self._hello.worker_id, self._hello.incarnation)
        if (plan.worker_id, plan.incarnation) != mine or self._stopping:
            return []
        effects: list[Effect] = []
        if message.decisions_offset > self._newest:
            effects += self._void()
            self._newest = message.decisions_offset
            self._plan, self._parts = plan, {}
            self._hellos.known()
            if self._stage != "idle":
                self._enter("idle", now)
        elif self.plan_id != plan.plan_id or self._stage != "idle":
            # A record of an older plan, or of one whose parts are already complete.
            return []
        part = self._fault_of_dispatch(message) or self._part_of(message)
        if isinstance(part, str):
            return [*effects, *self._report("failed", now, detail=part)]
        self._parts[message.shard] = part
        if len(self._parts) < message.shard_count:
            return effects
        self._enter("fetching", now)
        parts = tuple(self._parts[shard] for shard in sorted(self._parts))
        return [*effects, Fetch(plan, parts)]

    def _fault_of_dispatch(self, message: Dispatched) -> str:
        """Return why these weights can't be used; empty if they can."""
        plan = message.plan
        units = sorted({*plan.trained, *plan.frozen})
        if not plan.trained or list(plan.trained) != sorted(set(plan.trained)):
            return "the plan's trained units are empty or out of order"
        if units[-1] >= len(self._table):
            return f"the plan names unit {units[-1]}; the model has {len(self._table)}"
        if len(units) != len(plan.trained) + len(plan.frozen):
            return "the plan names a unit twice"
        if message.shard >= message.shard_count or message.shard_count != self._config.merge.shards:
            return (
                f"shard {message.shard} of {message.shard_count} "
                f"in a run of {self._config.merge.shards}"
            )
        for found in message.blobs:
            if found.blob.topic != self._submodels:
                return f"the weights are in {found.blob.topic}, not in {self._submodels}"
        if plan != self._plan:
            return "two shards dispatched different plans under one id"
        return ""

    def _part_of(self, message: Dispatched) -> "Part | str":
        """Return what a shard sent, or why it can't be used."""
        present = {*message.plan.trained, *message.plan.frozen}
        owned = self._table.owned_by(message.shard, message.shard_count)
        units = tuple(unit for unit in owned if unit in present)
        held = {unit for found in message.blobs for unit in unpack_units(found.units)}
        if missing := set(units) - held:
            return f"no blob of shard {message.shard} holds unit {min(missing)}"
        if held and max(held) >= len(self._table):
            return f"a blob holds unit {max(held)}; the model has {len(self._table)}"
        return Part(units, message.blobs)

    def _fault_of(self, plan: Plan, result: TrainResult) -> str:
        """Return why a delta must not be sent; empty if it may."""
        if set(result.deltas) != set(plan.trained):
            return "training gave deltas of other units than the plan's"
        for unit in plan.trained:
            delta = result.deltas[unit]
            if delta.shape != (int(self._table.sizes[unit]),):
                return f"the delta of {self._table.units[unit].name} has shape {delta.shape}"
            # The sum is finite exactly if all terms are: float32 terms can't overflow float64.
            with np.errstate(invalid="ignore"):
                total = np.add.reduce(delta, dtype=np.float64)
            if not np.isfinite(total):
                return f"the delta of {self._table.units[unit].name} is not finite"
        return ""

    def _report(
        self,
        status: Literal["done", "out_of_memory", "abandoned", "failed"],
        now: float,
        *,
        blob: BlobRef | None = None,
        detail: str = "",
        peak_bytes: int = 0,
    ) -> list[Effect]:
        """End the plan with its Report, and the worker if it was asked to stop."""
        assert self._plan is not None
        plan, result = self._plan, self._result
        scores_sent = result.scores if result and blob else None
        by_label = self._hello.label_counts is not None
        self._enter("idle", now)
        report = Report(
            **self._sender,
            plan_id=plan.plan_id,
            status=status,
            blob=blob,
            sample_count=result.sample_count if result else 0,
            steps_done=result.steps_done if result else 0,
            idle_s=self._seconds.get("idle", 0.0),
            fetch_s=self._seconds.get("fetching", 0.0),
            train_s=self._seconds.get("training", 0.0),
            throttle_s=result.throttle_s if result else 0.0,
            upload_s=self._seconds.get("uploading", 0.0),
            peak_bytes=result.peak_bytes if result else peak_bytes,
            bytes_down=self._bytes_down,
            bytes_found=self._bytes_found,
            bytes_up=blob.byte_count if blob else 0,
            loss_first=_finite(result.loss_first) if result else None,
            loss_last=_finite(result.loss_last) if result else None,
            scores=scores_sent
            and UnitScores.of(scores_sent.sums, scores_sent.counts, by_label=by_label),
            detail=detail[:2000],
        )
        self._forget()
        self._seconds = {}
        return [Send(report), *(self._goodbye() if self._stopping else [])]

    def _goodbye(self) -> list[Effect]:
        message = Goodbye(**self._sender, reason="asked to stop")
        return [Send(message), *self._leave(message.reason)]

    def _leave(self, reason: str) -> list[Effect]:
        self._left = True
        return [Leave(reason)]

    def _void(self) -> list[Effect]:
        """Drop the plan without a report: the planner has ended it, or the run is over."""
        plan_id = self.plan_id
        self._forget()
        return [Cancel(plan_id)] if plan_id is not None else []

    def _forget(self) -> None:
        self._plan, self._parts, self._result = None, {}, None
        self._bytes_down = self._bytes_found = 0

    def _current(self, plan_id: str, stage: State) -> Plan | None:
        """Return the plan, if an event about it in this stage still counts."""
        return self._plan if self.plan_id == plan_id and self._stage == stage else None

    def _enter(self, stage: State, now: float) -> None:
        spent = max(0.0, now - self._stage_began)
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + spent
        self._stage, self._stage_began = stage, now

    def _nearly_done(self, now: float, deadline_s: float, steps_done: int) -> bool:
        if self._stage == "uploading":
            return True
        if self._stage != "training" or self._plan is None or steps_done < 1:
            return False
        left = max(0, self._plan.local_steps - steps_done)
        forecast_s = (now - self._stage_began) / steps_done * left
        return forecast_s <= FINISH_SHARE * deadline_s


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
