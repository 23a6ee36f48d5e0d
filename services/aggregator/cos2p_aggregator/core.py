"""The aggregator without I/O: decisions in, effects out. Production and replay run this same code.

Invariants: the state is a function of the decisions obeyed, in their order, and of the blobs that
they name. A plan's update is merged at most once. Versions rise by one. What the ledger holds is
not published again. A version that is made again must have the digest that was published.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from cos2p.errors import DivergedError, SettingsError
from cos2p.log import messages as m
from cos2p.log.fence import EpochFence
from cos2p.model.units import UnitTable
from cos2p_aggregator.effects import (
    Checkpoint,
    CheckpointPart,
    Dispatch,
    Effect,
    Figures,
    Finish,
    Load,
    Merge,
    OpenRun,
    Pause,
    Publish,
)
from cos2p_aggregator.plans import NamedDecisions, OpenPlans, contradiction
from cos2p_aggregator.published_records import PublishedRecords, StartPoint, first_difference
from cos2p_aggregator.store import ModelStore
from cos2p_aggregator.update import UpdateMerge

PAUSE_BYTES = 32 << 20
"""Bytes computed between two pauses: some ten milliseconds."""
LEFT_OUT_BYTES = 180
"""The most bytes that one `LeftOut` takes in a record."""
OPEN_PLAN_BYTES = 9
"""The most bytes that an offset takes in a record."""
PUBLISHED_BYTES_MAX = 900_000
LEFT_OUT_MAX = 10_000


@dataclass
class _Open:
    """What was taken since the last version."""

    update_count: int = 0
    merged_count: int = 0
    weight_sum: float = 0.0
    left_out: list[m.LeftOut] = field(default_factory=list)


class AggregatorCore:
    """One shard of the model, driven by decisions.

    Args:
        shard: number of the part of the model that it owns.
        updates_topic: the only topic from which updates are read.
        shard_count: number of shards; None takes the run's setting.
        ledger: what was published before a restart; None for a replay.
        start: the point to continue from; None for version 0. Of the decisions before it the core
            needs those that the point names (see `cos2p_aggregator.start`) and ignores all others.
    """

    def __init__(
        self,
        shard: int,
        updates_topic: str,
        *,
        shard_count: int | None = None,
        ledger: PublishedRecords | None = None,
        start: StartPoint | None = None,
    ) -> None:
        self._shard, self._shard_count = shard, shard_count or 0
        self._updates_topic = updates_topic
        self._ledger = ledger
        self._start = start
        self._fence = EpochFence()
        self._plans = OpenPlans()
        self._named_decisions = NamedDecisions(start, self._plans, self._fence)
        self._run: m.RunStarted | None = None
        self._store: ModelStore | None = None
        self._open = _Open()
        self._last_published: Publish | None = None
        self.version = 0
        self.ended = False

    @property
    def table(self) -> UnitTable:
        """The model's units; known once the run has started."""
        return self._model.table

    def feed(self, offset: int, decision: m.Decision) -> Iterator[Effect]:
        """Obey the next decision. The caller must carry out each effect, in order, to the end.

        Raises:
            SettingsError: the run has fewer shards than this one's number.
            MessageError: the log contradicts itself.
            DivergedError: a version made again differs from what was published.
            BlobError: a checkpoint is damaged.
        """
        if self._run is not None and self._named_decisions.takes(offset, decision):
            return
        if not self._fence.admits(decision) or self.ended or isinstance(decision, m.EpochStarted):
            return
        if isinstance(decision, m.RunStarted):
            yield from self._begin(offset, decision)
        elif self._run is None:
            raise contradiction(offset, "belongs to a run that has not started")
        else:
            self._named_decisions.require_all()
            yield from self._apply_decision(offset, decision)

    def _apply_decision(self, offset: int, decision: m.Decision) -> Iterator[Effect]:
        match decision:
            case m.PlanIssued():
                self._plans.note(offset, decision)
                yield from self._dispatch(offset, decision.plan)
            case m.UpdateAdmitted():
                yield from self._merge(offset, decision)
            case m.RoundClosed():
                yield from self._close(offset, decision)
            case m.RunEnded():
                yield from self._finish(offset, decision)
            case _:
                self._plans.note(offset, decision)

    # ------------------------------------------------------------ begin

    def _begin(self, offset: int, started: m.RunStarted) -> Iterator[Effect]:
        if self._run is not None:
            raise contradiction(offset, "starts a run that has started before")
        count = self._shard_count or started.config.merge.shards
        if self._shard >= count:
            raise SettingsError(
                f"this is aggregator shard {self._shard}, but the run has {count} "
                f"(numbered from 0): set --shard below {count}"
            )
        table = started.units.table()
        owned = table.owned_by(self._shard, count)
        averaged = started.config.merge.average_decay > 0
        self._run, self._shard_count = started, count
        self._named_decisions.begin(offset)
        self._store = ModelStore(table, owned, averaged=averaged)
        if self._ledger is not None and not self._ledger.opened and self._shard == 0:
            yield OpenRun(
                m.RunOpened(
                    run_id=started.run_id,
                    decisions_offset=offset + 1,
                    config=started.config,
                    task=started.task,
                    units_digest=table.digest,
                    protocol=m.PROTOCOL,
                )
            )
        yield from self._load(offset, started)

    def _load(self, offset: int, started: m.RunStarted) -> Iterator[Effect]:
        store = self._model
        if self._start is None:
            everything = tuple(range(len(store.table)))
            yield Load(CheckpointPart(started.checkpoint, "v0", everything, 1), store)
            yield from _with_pauses(store.digest_all())
            yield from self._publish(offset + 1, store.counts, checkpointed=True)
            return
        for part in self._start.parts:
            if store.owned_set & frozenset(part.units):
                yield Load(part, store)
        self.version = self._start.version
        if self._ledger is None:
            yield from _with_pauses(store.digest_all())
            yield from self._publish(self._start.decisions_offset, store.counts)

    # ------------------------------------------------------------ plans and updates

    def _dispatch(self, offset: int, plan: m.Plan) -> Iterator[Effect]:
        chosen = sorted({*plan.trained, *plan.frozen})
        if not chosen or chosen[-1] >= len(self.table):
            raise contradiction(
                offset, f"plans units that the model does not have ({plan.plan_id})"
            )
        if self._ledger is not None and plan.plan_id in self._ledger.dispatched:
            del self._ledger.dispatched[plan.plan_id]
            return
        owned = self._model.owned_set
        units = tuple(u for u in chosen if u in owned)
        yield Dispatch(plan, offset + 1, units, self._model)

    def _merge(self, offset: int, admitted: m.UpdateAdmitted) -> Iterator[Effect]:
        plan = self._plans.end(admitted.plan_id)
        if plan is None:
            raise contradiction(offset, f"admits an update of no open plan ({admitted.plan_id})")
        config = self._config.config
        update = UpdateMerge(self._model, plan, admitted)
        self._open.update_count += 1
        self._open.weight_sum += admitted.weight
        self._model.hold((*plan.trained, *plan.frozen), admitted.weight)
        refused = update.refuse_reference(self._updates_topic, config.partitions)
        if not refused and not update.complete:
            yield Merge(admitted.blob, update)
        self._open.left_out += update.left_out
        self._open.merged_count += update.merged_count > 0

    # ------------------------------------------------------------ versions

    def _close(self, offset: int, closed: m.RoundClosed) -> Iterator[Effect]:
        if closed.version != self.version + 1:
            raise contradiction(offset, f"closes {closed.version} after {self.version}")
        self.version += 1
        counts, merge = self._model.counts, self._config.config.merge
        rate = merge.server_lr * closed.step
        yield from _with_pauses(self._model.close(self.version, rate, merge.average_decay))
        due = self.version % merge.checkpoint_every == 0
        yield from self._publish(offset + 1, counts, due=due)
        self._open = _Open()

    def _publish(
        self,
        decisions_offset: int,
        counts: NDArray[np.int64],
        *,
        due: bool = False,
        checkpointed: bool = False,
    ) -> Iterator[Effect]:
        """Publish the version just made, unless the ledger already holds it with its checkpoint."""
        store = self._model
        digests, norms = b"".join(store.digest(u) for u in store.owned), store.unit_norms
        published_bytes = len(digests) + len(norms) + len(store.unit_shares)
        published_bytes += OPEN_PLAN_BYTES * len(self._plans)
        message = m.VersionPublished(
            run_id=self._config.run_id,
            version=self.version,
            shard=self._shard,
            shard_count=self._shard_count,
            decisions_offset=decisions_offset,
            digest=blake3(digests).digest(),
            unit_digests=digests,
            unit_norms=norms,
            unit_shares=store.unit_shares,
            left_out=tuple(self._open.left_out[: _left_out_max(published_bytes)]),
            merged_count=self._open.merged_count,
            step_norm=store.step_norm,
            model_norm=store.model_norm,
            delta_square=store.delta_square,
            checkpoint=self._config.checkpoint if checkpointed else None,
            open_plans=self._plans.offsets,
        )
        was = self._open
        sums = store.square_sums
        figures = Figures(was.update_count, was.weight_sum, counts, *sums, len(was.left_out))
        self._last_published = Publish(message, figures)
        known = self._known(message)
        if known is not None and (known.checkpoint is not None or not due):
            if known.checkpoint is not None:
                self._last_published = None
            return
        if due or checkpointed:
            self._last_published = None
        else:
            message = message.model_copy(update={"open_plans": ()})
        yield Publish(message, figures, self._checkpoint() if due else None)

    def _known(self, message: m.VersionPublished) -> m.VersionPublished | None:
        """Return what was published of this version before, found equal.

        Digests alone decide. The norms published next to them are sums in the order of the linear
        algebra library. Another processor or another alignment may change their last place.

        Raises:
            DivergedError: it was published with other bytes.
        """
        known = self._ledger.versions.pop(message.version, None) if self._ledger else None
        if known is not None and known.unit_digests != message.unit_digests:
            raise DivergedError(
                f"version {message.version}, rebuilt from the log, differs from the one "
                f"published in {first_difference(known, message, self.table)}: the log or a blob "
                "was changed, or another program version wrote it; run `cos2p replay`"
            )
        return known

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(f"v{self.version}.s{self._shard}", self._model)

    def _finish(self, offset: int, ended: m.RunEnded) -> Iterator[Effect]:
        if ended.version != self.version:
            raise contradiction(offset, f"ends the run at {ended.version}, not {self.version}")
        self.ended = True
        if self._last_published is not None:
            yield Publish(
                self._last_published.message, self._last_published.figures, self._checkpoint()
            )
            self._last_published = None
        finish_published = self._ledger is not None and self._ledger.finished
        reason = f"{ended.reason}: {ended.detail}" if ended.detail else str(ended.reason)
        finished = m.RunFinished(
            run_id=self._config.run_id,
            decisions_offset=offset + 1,
            version=self.version,
            reason=reason[:2000],
        )
        yield Finish(finished if self._shard == 0 and not finish_published else None)

    @property
    def _model(self) -> ModelStore:
        assert self._store is not None
        return self._store

    @property
    def _config(self) -> m.RunStarted:
        assert self._run is not None
        return self._run


def _with_pauses(byte_counts: Iterable[int]) -> Iterator[Effect]:
    done = 0
    for byte_count in byte_counts:
        done += byte_count
        if done >= PAUSE_BYTES:
            done = 0
            yield Pause()


def _left_out_max(other_bytes: int) -> int:
    """Return how many left-out units a record can name next to `other_bytes`."""
    room = max(0, PUBLISHED_BYTES_MAX - other_bytes)
    return min(LEFT_OUT_MAX, room // LEFT_OUT_BYTES)
