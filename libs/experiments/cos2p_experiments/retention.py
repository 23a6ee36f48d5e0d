"""The log of a cell in memory, with the retention that the suite asks for.

Invariants: small records are kept for ever. A blob is removed only when no role will read it in
this run. Except with `log`, a replay must still be able to start after the removed blobs. A whole
version and every update admitted after it therefore stay.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from cos2p.clock import Clock
from cos2p.log import codec
from cos2p.log import messages as m
from cos2p.log.blobs import BLOB_HEADER
from cos2p.log.bus import NewRecord
from cos2p.log.topics import CHECKPOINTS, DECISIONS, MODELS, SUBMODELS, UPDATES
from cos2p.model.unit_wire import unpack_units
from cos2p_sim.ring import RingLog

Keep = Literal["all", "tail", "log"]
"""Blobs kept in the run file.

"all" keeps all, so the run replays from version 0. "tail" keeps those of the last few versions.
"log" keeps none.
"""
TAIL_VERSIONS = 2
"""The oldest whole version kept lies at least this many versions behind the newest."""

Location = tuple[int, int]
"""Partition and first offset of a blob."""


class KeptLog(RingLog):
    """See `cos2p.log.bus.Bus`."""

    def __init__(self, clock: Clock, prefix: str, keep: Keep) -> None:
        super().__init__(clock, prefix)
        self._keep = keep
        self._blobs: dict[str, dict[str, Location]] = {
            t.full_name(prefix): {} for t in (UPDATES, CHECKPOINTS)
        }
        self._updates, self._checkpoints = self._blobs
        self._submodels = SUBMODELS.full_name(prefix)
        self._weights = _WeightsInUse()
        self._decisions, self._models = DECISIONS.full_name(prefix), MODELS.full_name(prefix)
        self.version = 0
        """The newest closed version."""
        self._ended: set[str] = set()
        self._admitted: dict[int, list[str]] = defaultdict(list)
        self._published: dict[int, list[str]] = defaultdict(list)

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """Append the records and remove blobs that are no longer needed."""
        offsets = await super().append(topic, partition, records)
        if topic in self._blobs:
            self._note_blobs(topic, partition, records, offsets)
        elif topic == self._submodels:
            self._weights.wrote(partition, records, offsets)
        elif topic in (self._decisions, self._models):
            for offset in offsets:
                self._take(codec.decode(self._log(topic, 0)[offset]))
        return offsets

    def end(self) -> None:
        """Remove submodels at the run's end, unless all is kept. With `log`, remove all blobs."""
        if self._keep == "all":
            return
        for partition in range(self._specs[self._submodels].partitions):
            self.expire(self._submodels, partition, self._log(self._submodels, partition).next)
        for topic in self._blobs if self._keep == "log" else ():
            self._blobs[topic].clear()
            self._expire(topic)

    def _note_blobs(
        self, topic: str, partition: int, records: Sequence[NewRecord], offsets: Sequence[int]
    ) -> None:
        for record, offset in zip(records, offsets, strict=True):
            blob_id = record.headers[BLOB_HEADER].decode()
            # A blob that is written after its plan has ended is never read.
            if _plan_of(blob_id) not in self._ended:
                self._blobs[topic].setdefault(blob_id, (partition, offset))

    def _take(self, message: m.Message) -> None:
        match message:
            case m.UpdateAdmitted():
                self._admitted[self.version + 1].append(message.blob.blob_id)
                self._end_plan(message.plan_id, admitted=True)
            case m.UpdateRefused(outcome=m.Outcome.DUPLICATE):
                pass  # its plan has ended before, and a merged update must stay
            case m.UpdateRefused() | m.PlanCancelled():
                self._end_plan(message.plan_id, admitted=False)
            case m.RoundClosed():
                self.version = message.version
            case m.Dispatched():
                self._weights.dispatched(message)
                self._drop_weights()
            case m.VersionPublished() if message.checkpoint is not None:
                self._published[message.version].append(message.checkpoint.blob_id)
                if len(self._published[message.version]) == message.shard_count:
                    self._prune()
            case _:
                pass

    def _end_plan(self, plan_id: str, *, admitted: bool) -> None:
        self._ended.add(plan_id)
        self._weights.ended(plan_id)
        self._drop_weights()
        if not admitted:
            blobs = self._blobs[self._updates]
            for blob_id in [b for b in blobs if _plan_of(b) == plan_id]:
                del blobs[blob_id]

    def _drop_weights(self) -> None:
        """Empty the records of weights that no plan will read. Their offsets stay."""
        if self._keep == "all":
            return
        for partition, offset in self._weights.unused():
            log = self._log(self._submodels, partition)
            place = log.place_of(offset)
            log[place] = replace(log[place], value=b"")

    def _prune(self) -> None:
        """Keep the newest whole version at least TAIL_VERSIONS back, and what came after it."""
        start = max((v for v in self._published if v <= self.version - TAIL_VERSIONS), default=0)
        if not start or self._keep == "all":
            return
        for version in [v for v in self._admitted if v <= start]:
            for blob_id in self._admitted.pop(version):
                self._blobs[self._updates].pop(blob_id, None)
        for version in [v for v in self._published if v < start]:
            for blob_id in self._published.pop(version):
                self._blobs[self._checkpoints].pop(blob_id, None)
        for topic in self._blobs:
            self._expire(topic)

    def _expire(self, topic: str) -> None:
        """Remove the records before the first blob that is needed."""
        for partition in range(self._specs[topic].partitions):
            needed = [first for part, first in self._blobs[topic].values() if part == partition]
            self.expire(topic, partition, min(needed, default=self._log(topic, partition).next))


class _WeightsInUse:
    """Which blobs of units a plan may still read: those of open plans, and of the newest values."""

    def __init__(self) -> None:
        self._records: dict[str, list[Location]] = defaultdict(list)
        self._by_plan: dict[str, set[str]] = defaultdict(set)
        self._newest: dict[int, str] = {}
        self._announced: set[str] = set()

    def wrote(self, partition: int, records: Sequence[NewRecord], offsets: Sequence[int]) -> None:
        """Note the records of a blob."""
        for record, offset in zip(records, offsets, strict=True):
            self._records[record.headers[BLOB_HEADER].decode()].append((partition, offset))

    def dispatched(self, message: m.Dispatched) -> None:
        """Note that a plan reads its weights from these blobs."""
        for found in reversed(message.blobs):  # oldest first, so that the newest stays
            self._announced.add(found.blob.blob_id)
            self._by_plan[message.plan.plan_id].add(found.blob.blob_id)
            self._newest |= dict.fromkeys(unpack_units(found.units), found.blob.blob_id)

    def ended(self, plan_id: str) -> None:
        """Note that a plan reads nothing any more."""
        self._by_plan.pop(plan_id, None)

    def unused(self) -> list[Location]:
        """Return the records of blobs that are in use no more, and forget them."""
        used = set(self._newest.values()).union(*self._by_plan.values())
        dropped = self._announced - used
        self._announced &= used
        return [place for blob_id in dropped for place in self._records.pop(blob_id)]


def _plan_of(blob_id: str) -> str:
    """Return the id of the plan of an update's blob."""
    return blob_id.partition(".")[0]
