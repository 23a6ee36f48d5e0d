"""The log of a cell in memory, with the retention that the suite asks for.

Invariants: small records are kept for ever. A blob is removed only when no role will read it in
this run. Except with `log`, a replay must still be able to start after the removed blobs. A whole
version and every update admitted after it therefore stay.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from cos2p.clock import Clock
from cos2p.log import codec
from cos2p.log import messages as m
from cos2p.log.blobs import BLOB_HEADER
from cos2p.log.bus import NewRecord
from cos2p.log.topics import CHECKPOINTS, DECISIONS, MODELS, SUBMODELS, UPDATES
from cos2p_sim.ring import RingLog

Keep = Literal["all", "tail", "log"]
"""Blobs kept in the run file.

"all" keeps all, so the run replays from version 0. "tail" keeps those of the last few versions.
"log" keeps none.
"""
TAIL_VERSIONS = 2
"""The oldest whole version kept lies at least this many versions behind the newest."""

Place = tuple[int, int]
"""Partition and first offset of a blob."""


class KeptLog(RingLog):
    """See `cos2p.log.bus.Bus`."""

    def __init__(self, clock: Clock, prefix: str, keep: Keep) -> None:
        super().__init__(clock, prefix)
        self._keep = keep
        self._blobs: dict[str, dict[str, Place]] = {
            t.full_name(prefix): {} for t in (SUBMODELS, UPDATES, CHECKPOINTS)
        }
        self._submodels, self._updates, self._checkpoints = self._blobs
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
        elif topic in (self._decisions, self._models):
            for offset in offsets:
                self._take(codec.decode(self._log(topic, 0)[offset]))
        return offsets

    def end(self) -> None:
        """Remove submodels at the run's end, unless all is kept. With `log`, remove all blobs."""
        gone = {"all": (), "tail": (self._submodels,), "log": tuple(self._blobs)}
        for topic in gone[self._keep]:
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
            case m.VersionPublished() if message.checkpoint is not None:
                self._published[message.version].append(message.checkpoint.blob_id)
                if len(self._published[message.version]) == message.shard_count:
                    self._prune()
            case _:
                pass

    def _end_plan(self, plan_id: str, *, admitted: bool) -> None:
        self._ended.add(plan_id)
        unused = (self._submodels,) if admitted else (self._submodels, self._updates)
        for topic in unused:
            for blob_id in [b for b in self._blobs[topic] if _plan_of(b) == plan_id]:
                del self._blobs[topic][blob_id]

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
            end = self._log(topic, partition).next
            self.expire(topic, partition, min(needed, default=end))


def _plan_of(blob_id: str) -> str:
    """Return the id of the plan of a submodel's or an update's blob."""
    return blob_id.partition(".")[0]
