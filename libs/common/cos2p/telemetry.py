"""A run's telemetry: one fold of its messages into a row per version and a tally per device.

Everything lies in the run's log already; nothing is measured here. Which message gives what:

    RunStarted        settings, unit table
    Hello             memory, speed, samples, labels; with Heartbeat, Report, Goodbye: who is there
    PlanIssued        units, base version, learning rate, forecast peak
    Dispatched        until when a device waited for its weights
    Report            seconds, bytes, measured peak
    UpdateAdmitted    steps done, weight, scale, staleness: the updates of the open version
    RoundClosed       a row: N* planned, merged and bound, K, why and after how long it closed
    VersionPublished  its norms, once every shard has told them; norms of units for pruning noise
    Evaluated         accuracies, of the exits too

Invariants: no clock and no bus in here, time comes with each message; decisions that the epoch
fence refuses leave no trace; what a shard tells twice counts once; the rows are a function of each
topic's messages in their order, however the topics are interleaved, so long as the fleet's words
come before the decisions on them, and decisions before what the aggregator made of them. Memory:
the rows kept, the updates of the window and of versions not published yet, and the units' norms of
the versions that an update may still be based on.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cos2p import bound
from cos2p import messages as m
from cos2p.cost import CostModel
from cos2p.device_tally import DeviceTally
from cos2p.fence import EpochFence
from cos2p.messages import Message, Outcome
from cos2p.run_config import RunConfig
from cos2p.units import UnitTable
from cos2p.version_row import (
    AccuracyPoint,
    Labels,
    Merged,
    Surroundings,
    VersionRow,
    completed,
    judged,
    path_of,
    row_of,
)


@dataclass
class _Wait:
    """A plan whose weights are not there whole."""

    worker_id: str
    issued_s: float
    shards: set[int]


class Telemetry:
    """The fold: feed it with `take`, read its attributes.

    Args:
        rows_max: rows of so many of the newest versions are kept; None keeps all.

    Attributes:
        config: the run's settings.
        table: the model's units; None before the run is known.
        devices: by worker id.
        staleness: updates merged over the whole run, by versions late.
        reasons: versions closed over the whole run, by why.
        left_out_count: units of updates that failed the aggregator's checks, over the whole run.
    """

    def __init__(self, *, rows_max: int | None = None) -> None:
        self.config = RunConfig()
        self.table: UnitTable | None = None
        self.devices: dict[str, DeviceTally] = {}
        self._points: dict[int, AccuracyPoint] = {}
        self.staleness: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()
        self.left_out_count = 0
        self._rows_max = rows_max
        self._costs: CostModel | None = None
        self._rows: dict[int, VersionRow] = {}
        self._fence = EpochFence()
        self._labels: dict[tuple[str, int], Labels] = {}
        self._plans: dict[str, m.Plan] = {}
        self._waits: dict[str, _Wait] = {}
        self._open: list[Merged] = []
        self._window: deque[Sequence[Merged]] = deque(maxlen=1)
        self._unpublished: dict[int, Sequence[Merged]] = {}
        self._parts: dict[int, dict[int, m.VersionPublished]] = {}
        self._squares: dict[int, bound.Floats] = {}

    @property
    def rows(self) -> list[VersionRow]:
        """The versions closed, oldest first."""
        return list(self._rows.values())

    @property
    def plans_open(self) -> int:
        """Plans issued and not ended."""
        return len(self._plans)

    @property
    def accuracy(self) -> list[AccuracyPoint]:
        """The newest verdict on each version judged, oldest version first."""
        return [self._points[v] for v in sorted(self._points)]

    def take(self, message: Message, at_s: float) -> bool:
        """Take the next message, appended at `at_s`; whether it counts (False: fenced off)."""
        if isinstance(message, m.Decision):
            if not self._fence.admits(message):
                return False
            self._decided(message, at_s)
        elif isinstance(message, m.Dispatched):
            self._dispatched(message, at_s)
        elif isinstance(message, m.VersionPublished):
            self._published(message)
        else:
            self._said(message, at_s)
        return True

    def device(self, worker_id: str) -> DeviceTally:
        """A device's tally, begun if there is none."""
        return self.devices.setdefault(worker_id, DeviceTally(worker_id))

    # ------------------------------------------------------------ the fleet

    def _said(self, message: Message, at_s: float) -> None:
        match message:
            case m.RunRequested() if self.table is None:
                self._adopt(message)
            case m.Hello():
                self._heard(message.worker_id, at_s).greet(message)
                self._labels[message.worker_id, message.incarnation] = message.label_counts
            case m.Heartbeat():
                self._heard(message.worker_id, at_s)
            case m.Report():
                self._heard(message.worker_id, at_s).report(message)
            case m.Goodbye():
                self.device(message.worker_id).presence.left(at_s)
            case m.Evaluated():
                self._judged(message, at_s)
            case _:
                pass

    def _heard(self, worker_id: str, at_s: float) -> DeviceTally:
        device = self.device(worker_id)
        device.presence.heard(at_s, self.config.liveness.lost_after_s)
        return device

    def _judged(self, said: m.Evaluated, at_s: float) -> None:
        point = AccuracyPoint(
            said.version,
            at_s,
            said.accuracy,
            said.raw_accuracy,
            said.loss,
            said.sample_count,
            said.exit_accuracies,
            said.mean_accuracy,
            said.plain_accuracy,
            said.scaled_accuracy,
        )
        self._points[said.version] = point
        if said.version in self._rows:
            self._rows[said.version] = judged(self._rows[said.version], point)

    # ------------------------------------------------------------ decisions

    def _adopt(self, begun: m.RunRequested | m.RunStarted) -> None:
        self.config, self.table = begun.config, begun.units.table()
        self._costs = CostModel.of(self.table, self.config)
        self._window = deque(maxlen=begun.config.rounds.coverage_window)

    def _decided(self, decision: m.Decision, at_s: float) -> None:
        match decision:
            case m.RunStarted():
                self._adopt(decision)
            case m.PlanIssued():
                plan = decision.plan
                self.device(plan.worker_id).plan(plan)
                self._plans[plan.plan_id] = plan
                self._waits[plan.plan_id] = _Wait(plan.worker_id, at_s, set())
            case m.UpdateAdmitted():
                self._admit(decision, at_s)
            case m.UpdateRefused() | m.PlanCancelled():
                self.device(decision.worker_id).outcomes[Outcome(decision.outcome)] += 1
                if decision.outcome is not Outcome.DUPLICATE:
                    self._plans.pop(decision.plan_id, None)
            case m.RoundClosed():
                self._close(decision, at_s)
            case _:
                pass

    def _admit(self, admitted: m.UpdateAdmitted, at_s: float) -> None:
        device = self.device(admitted.worker_id)
        device.outcomes[Outcome.ACCEPTED] += 1
        device.staleness_last, device.merged_s = admitted.staleness, at_s
        self.staleness[admitted.staleness] += 1
        plan = self._plans.pop(admitted.plan_id, None)
        if plan is None or self.table is None:
            return
        labels = self._labels.get((plan.worker_id, plan.incarnation))
        self._open.append(Merged.of(admitted, plan, labels, len(self.table)))

    def _close(self, closed: m.RoundClosed, at_s: float) -> None:
        updates, self._open = self._open, []
        self.reasons[closed.reason] += 1
        if self.table is None:
            return
        self._window.append(updates)
        come = [d.label_counts for d in self.devices.values() if d.presence.begun_by(at_s)]
        around = Surroundings(self.table, tuple(self._window), come, self._devices_bound(at_s))
        row = row_of(closed, at_s, around)
        point = self._points.get(row.version)
        self._rows[row.version] = row if point is None else judged(row, point)
        self._unpublished[row.version] = updates
        while self._rows_max is not None and len(self._rows) > self._rows_max:
            oldest = next(iter(self._rows))
            del self._rows[oldest]
            self._unpublished.pop(oldest, None)

    def _devices_bound(self, at_s: float) -> int:
        """floor(sum r_i) over the devices there, those that a strike has barred among them."""
        assert self._costs is not None
        usable = 1 - self.config.plans.memory_margin
        there = [d for d in self.devices.values() if d.memory_bytes and d.presence.at(at_s)]
        return int(sum(self._costs.fraction_of(usable * d.memory_bytes) for d in there) + 1e-9)

    # ------------------------------------------------------------ what the aggregator made

    def _dispatched(self, message: m.Dispatched, at_s: float) -> None:
        wait = self._waits.get(message.plan.plan_id)
        if wait is None:
            return
        wait.shards.add(message.shard)
        if len(wait.shards) == message.shard_count:
            self.device(wait.worker_id).waiting_s += max(0.0, at_s - wait.issued_s)
            del self._waits[message.plan.plan_id]

    def _published(self, message: m.VersionPublished) -> None:
        version = message.version
        if version <= max(self._squares, default=-1):
            return  # told again with its checkpoint
        parts = self._parts.setdefault(version, {})
        parts.setdefault(message.shard, message)
        if len(parts) < message.shard_count or self.table is None:
            return
        whole = list(self._parts.pop(version).values())
        self.left_out_count += sum(len(p.left_out) for p in whole)
        self._squares[version] = _unit_squares(whole, self.table)
        oldest = version - self.config.rounds.staleness_max - 1
        self._squares = {v: s for v, s in self._squares.items() if v >= oldest}
        updates = self._unpublished.pop(version, None)
        if updates is not None:
            step_square = sum(p.step_norm**2 for p in whole)
            mean_square = step_square / self.config.merge.server_lr**2
            row, noises = self._rows[version], self._noises(updates)
            self._rows[version] = completed(row, whole, noises, mean_square, path_of(updates))

    def _noises(self, updates: Sequence[Merged]) -> list[float]:
        known = [
            (u.present, self._squares[u.base_version])
            for u in updates
            if u.base_version in self._squares
        ]
        noises = [bound.pruning_noise(present, squares) for present, squares in known]
        return [noise for noise in noises if noise is not None]


def _unit_squares(parts: Sequence[m.VersionPublished], table: UnitTable) -> bound.Floats:
    """Squared norm of each unit's weights; 0 everywhere where a shard does not tell norms."""
    squares = np.zeros(len(table))
    for part in parts:
        owned = list(table.owned_by(part.shard, part.shard_count))
        norms = np.frombuffer(part.unit_norms, "<f4").astype(np.float64)
        if len(norms) != len(owned):
            return np.zeros(len(table))
        squares[owned] = norms**2
    return squares
