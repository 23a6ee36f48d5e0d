"""The fold of a run: it takes `fleet`, `decisions` and `models`, and can then be read.

It serves status, the live screen, the report, metrics, experiments and the audit.
The declarations of figures and docs/telemetry.md name the message behind each figure.

Invariants:
This module uses no clock and no bus.
Of decisions that the epoch fence refuses, only the bytes count.
A decision's time is its `at_s`; other records' time is their timestamp.
Each topic comes in its order.
A decision comes after the `fleet` records that it has handled.
A record of the aggregator comes after the decisions that it obeys.
The state does not depend on how the topics are interleaved otherwise.
Heartbeats are not part of the state.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from cos2p.history import version as of_version
from cos2p.history.curve import EvaluationRow
from cos2p.history.device import DeviceRow, natural
from cos2p.history.now import Beat, RunNow
from cos2p.history.plan import PlanRow
from cos2p.history.state import Activity, HistoryState, Span
from cos2p.history.version import Merged, VersionRow
from cos2p.log import messages as m
from cos2p.log.fence import EpochFence
from cos2p.log.mailbox import Letter
from cos2p.log.messages import Message, Outcome
from cos2p.log.snapshots import Position, tail_of

ROWS_MAX = 64
"""Number of versions whose rows a bounded history keeps."""


class RunHistory(RunNow):
    """The fold of a run, fed by `take` and `beat`; `RunNow` has the methods that read it.

    Args:
        rows_max: number of newest versions whose rows are kept, with a thinned curve. None keeps
            all rows, all verdicts, and the spans of each device's time.
        retired: called with each row that is dropped, oldest first.

    Attributes:
        rows_from: no rows are made of versions below it. A reader sets it when the log holds
            enough later versions that such rows would be dropped before they are read.
    """

    def __init__(
        self,
        *,
        rows_max: int | None = ROWS_MAX,
        retired: Callable[[VersionRow], None] = lambda row: None,
    ) -> None:
        super().__init__(HistoryState())
        self._rows_max, self._retired = rows_max, retired
        self.rows_from = 0
        self._offsets: dict[str, int] = {}
        self._tails: dict[str, bytes] = {}
        self._newest_values: dict[str, bytes | memoryview] = {}

    @classmethod
    def from_state(
        cls,
        state: HistoryState,
        positions: Mapping[str, Position],
        *,
        rows_max: int | None = ROWS_MAX,
    ) -> "RunHistory":
        """Restore a history from its `state` and `positions`."""
        history = cls(rows_max=rows_max)
        history.state = state
        history._offsets = {name: p.offset for name, p in positions.items()}
        history._tails = {name: p.tail for name, p in positions.items()}
        if state.units is not None:
            history.table = state.units.table()
        return history

    @property
    def positions(self) -> dict[str, Position]:
        """How far each topic is folded, by its name without prefix."""
        newest = self._newest_values.items()
        tails = self._tails | {name: tail_of(value) if value else b"" for name, value in newest}
        return {name: Position(at, tails.get(name, b"")) for name, at in self._offsets.items()}

    def offset(self, topic: str) -> int:
        """The offset of the next record of a topic to take."""
        return self._offsets.get(topic, 0)

    # ------------------------------------------------------------ the fold

    def take(self, letter: Letter) -> bool:
        """Take the next record of a topic. A record that was taken already is skipped.

        Returns:
            Whether the record counts; False also for a decision that the fence refuses.
        """
        topic, offset, at_s = letter.topic.name, letter.offset, letter.timestamp_s
        message = letter.message
        if offset < self._offsets.get(topic, 0):
            return False
        self._offsets[topic] = offset + 1
        self._newest_values[topic] = letter.value
        state = self.state
        state.run_id = state.run_id or message.run_id
        self._weigh(topic, message, len(letter.value))
        if isinstance(message, m.Decision):
            if not self._admits(message):
                return False
            state.last_s = max(state.last_s, message.at_s)
            state.planner_s = max(state.planner_s or 0.0, message.at_s)
            self._take_decision(message, offset)
            return True
        state.last_s = max(state.last_s, at_s)
        if isinstance(message, m.AggregatorMessage):
            state.aggregator_s = max(state.aggregator_s or 0.0, at_s)
            self._take_aggregator_record(message, at_s)
        else:
            self._take_fleet_record(message, offset, at_s)
        return True

    def beat(self, message: Message, at_s: float) -> None:
        """Take a heartbeat appended at `at_s`; it does not change the state."""
        if isinstance(message, m.Heartbeat):
            self.beats[message.worker_id] = Beat(message, at_s)

    def _admits(self, decision: m.Decision) -> bool:
        fence = EpochFence(self.state.epoch)
        admitted = fence.admits(decision)
        self.state.epoch = fence.epoch
        return admitted

    def _weigh(self, topic: str, message: Message, size: int) -> None:
        """Count the bytes of a record, and of the blob that it is the first to name."""
        blob: m.BlobRef | None = None
        if isinstance(message, m.Report):
            blob = message.blob
        elif isinstance(message, m.Dispatched):
            blob = message.new_blob
        elif isinstance(message, m.RunRequested):
            blob = message.checkpoint
        elif isinstance(message, m.VersionPublished) and message.version:
            blob = message.checkpoint  # version 0's blob was counted with the request
        if blob is not None:
            self._count_bytes(blob.topic, blob.byte_count)
        self._count_bytes(topic, size)

    def _count_bytes(self, topic: str, count: int) -> None:
        counts = self.state.byte_counts
        if topic in counts:
            counts[topic] += count
        else:  # sorted by name, so that the order of reading does not change the state
            self.state.byte_counts = dict(sorted({**counts, topic: count}.items()))

    def _device(self, worker_id: str) -> DeviceRow:
        found = self.state.devices.get(worker_id)
        if found is None:
            found = DeviceRow(worker_id)
            rows = {**self.state.devices, worker_id: found}
            self.state.devices = {name: rows[name] for name in sorted(rows, key=natural)}
        return found

    # ------------------------------------------------------------ the fleet

    def _take_fleet_record(self, message: Message, offset: int, at_s: float) -> None:
        state = self.state
        match message:
            case m.RunRequested() if not state.requested:
                state.requested = True
                if state.started_s is None:
                    self._adopt(message)
            case m.Hello():
                self._device(message.worker_id).greet(message, offset, at_s)
            case m.Report():
                self._device(message.worker_id).report(message, at_s)
                if self._rows_max is None:
                    state.spans += spans_of(message, at_s)
            case m.Goodbye():
                self._device(message.worker_id).leave(at_s)
            case m.Evaluated():
                self._take_evaluation(EvaluationRow.of(message, at_s))

    def _take_evaluation(self, verdict: EvaluationRow) -> None:
        state, version = self.state, verdict.version
        state.curve.take(verdict, thinned=self._rows_max is not None)
        if version in state.rows:
            state.rows[version] = replace(state.rows[version], verdict=verdict)
        elif version > self.version:
            state.early[version] = verdict

    # ------------------------------------------------------------ decisions

    def _adopt(self, begun: m.RunRequested | m.RunStarted) -> None:
        state = self.state
        state.task, state.config, state.units = begun.task, begun.config, begun.units
        self.table = begun.units.table()

    def _take_decision(self, decision: m.Decision, offset: int) -> None:
        state = self.state
        match decision:
            case m.RunStarted():
                state.started_s = decision.at_s
                self._adopt(decision)
            case m.PlanIssued():
                plan = decision.plan
                self._device(plan.worker_id).plan(plan)
                state.plans[plan.plan_id] = PlanRow(plan, offset, decision.at_s)
            case m.UpdateAdmitted():
                self._admit(decision)
            case m.UpdateRefused() | m.PlanCancelled():
                self._end(decision.plan_id, decision.worker_id, Outcome(decision.outcome))
            case m.RoundClosed():
                self._close(decision)
            case m.DeviceExcluded():
                self._device(decision.worker_id).excluded = decision.reason
            case m.DeviceAdmitted():
                self._device(decision.worker_id).excluded = None
            case m.RunEnded():
                state.end = decision

    def _end(self, plan_id: str, worker_id: str, outcome: Outcome) -> m.Plan | None:
        """Note how a plan ended; return the plan if it was open, else None."""
        self._device(worker_id).end(plan_id, outcome)
        row = self.state.plans.get(plan_id)
        if row is None or row.ended or outcome is Outcome.DUPLICATE:
            return None
        row.ended = True
        if row.offset < self.state.obeyed:
            del self.state.plans[plan_id]
        return row.plan

    def _admit(self, admitted: m.UpdateAdmitted) -> None:
        device = self._device(admitted.worker_id)
        device.staleness_last, device.merged_s = admitted.staleness, admitted.at_s
        self.state.staleness[admitted.staleness] += 1
        plan = self._end(admitted.plan_id, admitted.worker_id, Outcome.ACCEPTED)
        if plan is not None and self.table is not None:
            self.state.open.append(Merged.of(admitted, plan, len(self.table)))

    def _close(self, closed: m.RoundClosed) -> None:
        state = self.state
        updates, state.open = state.open, []
        state.reasons[closed.reason] += 1
        state.closed = closed.version
        if self.table is None:
            return
        state.window = [*state.window, updates][-state.config.rounds.coverage_window :]
        if closed.version >= self.rows_from:
            self._add_row(closed, updates)
        state.early.pop(closed.version, None)
        for device in state.devices.values():
            device.forget_labels_before(closed.fleet_offset)

    def _add_row(self, closed: m.RoundClosed, updates: list[Merged]) -> None:
        """Begin the row of a version and drop rows over the limit."""
        state, due = self.state, closed.fleet_offset
        assert self.table is not None
        labels = {name: device.labels_at(due) for name, device in state.devices.items()}
        row = of_version.row_of(closed, self.table.prunable, state.window, labels)
        if row.version in state.early:
            row = replace(row, verdict=state.early[row.version])
        state.rows[row.version], state.unpublished[row.version] = row, updates
        while self._rows_max is not None and len(state.rows) > self._rows_max:
            oldest = next(iter(state.rows))
            self._retired(state.rows.pop(oldest))
            state.unpublished.pop(oldest, None)

    # ------------------------------------------------------------ the aggregator's records

    def _take_aggregator_record(self, message: m.AggregatorMessage, at_s: float) -> None:
        match message:
            case m.Dispatched():
                self._dispatched(message, at_s)
            case m.VersionPublished():
                self._published(message)
            case m.RunFinished():
                self.state.finished = True

    def _dispatched(self, message: m.Dispatched, at_s: float) -> None:
        row = self.state.plans.get(message.plan.plan_id)
        if row is None or message.shard in row.shards:
            return
        row.shards.add(message.shard)
        if len(row.shards) == message.shard_count:
            self._device(row.worker_id).waiting_s += max(0.0, at_s - row.issued_s)

    def _published(self, message: m.VersionPublished) -> None:
        state, version = self.state, message.version
        state.published = max(state.published, version)
        if version <= state.whole:
            return  # a shard writes a version again with its checkpoint
        parts = state.parts.setdefault(version, {})
        parts.setdefault(message.shard, message)
        if len(parts) < message.shard_count or self.table is None:
            return
        whole = [part for _, part in sorted(state.parts.pop(version).items())]
        state.whole = version
        self._drop_ended_plans(min(p.decisions_offset for p in whole))
        state.left_out_count += sum(len(p.left_out) for p in whole)
        oldest = version - state.config.rounds.staleness_max - 1
        state.squares = {v: s for v, s in state.squares.items() if v >= oldest}
        state.squares[version] = of_version.unit_squares(whole, self.table)
        updates = state.unpublished.pop(version, None)
        if updates is not None:
            step_square = sum(p.step_norm**2 for p in whole)
            state.rows[version] = of_version.completed(
                state.rows[version],
                whole,
                of_version.noises_of(updates, state.squares),
                step_square / state.config.merge.server_lr**2,
                of_version.path_of(updates),
            )

    def _drop_ended_plans(self, obeyed: int) -> None:
        """Drop rows of plans that have ended and that every shard has passed."""
        state = self.state
        state.obeyed = max(state.obeyed, obeyed)
        state.plans = {
            name: row
            for name, row in state.plans.items()
            if not row.ended or row.offset >= state.obeyed
        }


def spans_of(report: m.Report, at_s: float) -> list[Span]:
    """The spans of a device's time before a report appended at `at_s`, latest first."""
    stretches: tuple[tuple[Activity, float], ...] = (
        ("upload", report.upload_s),
        ("train", report.train_s),
        ("fetch", report.fetch_s),
        ("idle", report.idle_s),
    )
    found, end = [], at_s
    for activity, seconds in stretches:
        if seconds > 0:
            found.append(Span(report.worker_id, activity, end - seconds, end))
        end -= seconds
    return found
