"""Merges one admitted update from the log into the open version, unit by unit.

Invariants: what is merged and what is left out depends only on the log's bytes. A unit counts if
and only if it passes every check. It is complete, before the first fault of its blob. Its digest is
right. Its values are finite and within the norm bound. Every unit of the plan that this shard owns
is merged or named with a reason.
"""

from typing import Literal

from cos2p.errors import BlobError, ChunkMissingError
from cos2p.log.messages import BlobRef, LeftOut, Plan, UpdateAdmitted
from cos2p.model.payload import Buffer, PayloadReader, UnitValues, expected_bytes
from cos2p_aggregator.merge import inspected
from cos2p_aggregator.store import ModelStore

UPDATE_NORM_MAX = 1e3
"""A unit's delta with a larger L2 norm is left out. No correct plan moves a unit that far: a larger
delta is broken."""
Reason = Literal["missing", "digest", "not_finite", "norm", "foreign", "size"]


class UpdateMerge:
    """Takes the chunks of an update's blob."""

    def __init__(self, store: ModelStore, plan: Plan, admitted: UpdateAdmitted) -> None:
        self._store, self._plan, self._admitted = store, plan, admitted
        self._pending = [u for u in plan.trained if u in store.owned_set]
        self._reader: PayloadReader | None = None
        self.left_out: list[LeftOut] = []
        self.merged_count = 0

    @property
    def complete(self) -> bool:
        """Whether every owned unit is merged or left out: the rest of the blob is not needed."""
        return not self._pending

    def refuse_reference(self, updates_topic: str, partitions: int) -> bool:
        """Leave all units out where the reference alone shows that the blob is not this update."""
        reason = _fault_of_reference(self._admitted.blob, updates_topic, partitions)
        if reason is None:
            trained = self._plan.trained
            honest = expected_bytes(self._store.table, self._plan.plan_id, trained)
            reason = None if self._admitted.blob.byte_count == honest else "size"
        if reason is not None:
            self._leave_rest_out(reason)
        return reason is not None

    def feed(self, chunk: Buffer) -> None:
        """Take the blob's next bytes.

        Raises:
            BlobError: the payload is not this plan's; pass the error to `finish`.
        """
        if self._reader is None:  # it has space for the largest unit, so it is made late
            table, wanted = self._store.table, frozenset(self._pending)
            self._reader = PayloadReader(
                table, self._plan.plan_id, self._plan.trained, wanted=wanted
            )
        for found in self._reader.feed(chunk):
            self._take(found)

    def finish(self, error: BlobError | None = None) -> None:
        """Note that no more bytes come, because of `error` or because the blob ended."""
        missing = error is None or isinstance(error, ChunkMissingError)
        self._leave_rest_out("missing" if missing else "foreign")
        self._reader = None

    def _take(self, found: UnitValues) -> None:
        unit = self._pending.pop(0)
        if not found.intact:
            self._leave_out(unit, "digest")
            return
        fault, square_sum = inspected(found.values, UPDATE_NORM_MAX)
        if fault is not None:
            self._leave_out(unit, fault)
            return
        weight, scale = self._admitted.weight, self._admitted.scale
        self._store.add(unit, found.values, weight=weight, scale=scale, square_sum=square_sum)
        self.merged_count += 1

    def _leave_rest_out(self, reason: Reason) -> None:
        for unit in self._pending:
            self._leave_out(unit, reason)
        self._pending = []

    def _leave_out(self, unit: int, reason: Reason) -> None:
        plan = self._plan
        self.left_out.append(
            LeftOut(plan_id=plan.plan_id, worker_id=plan.worker_id, unit=unit, reason=reason)
        )


def _fault_of_reference(ref: BlobRef, updates_topic: str, partitions: int) -> Reason | None:
    if ref.topic != updates_topic or ref.partition >= partitions:
        return "foreign"
    if ref.last_offset - ref.first_offset + 1 < ref.chunk_count:
        return "missing"
    return None
