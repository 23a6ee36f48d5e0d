"""The log of a cell in memory, with the retention that the suite asks for.

Invariants: small records are kept for ever; a blob goes only when nobody will read it in this run,
and, but with `log`, only if a replay can start behind it: a whole version, and every update that
was admitted after it, stay.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

from cos2p.clock import Clock
from cos2p.log import codec
from cos2p.log import messages as m
from cos2p.log.blobs import BLOB_HEADER
from cos2p.log.bus import NewRecord, Record
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.topics import CHECKPOINTS, DECISIONS, MODELS, SUBMODELS, UPDATES

Keep = Literal["all", "tail", "log"]
"""Blobs kept in the run file: all, so that it replays from version 0; those of the last few
versions; or none."""
TAIL_VERSIONS = 2

Place = tuple[int, int]
"""Partition and first offset of a blob."""


class KeptLog(MemoryBus):
    """See `cos2p.log.bus.Bus`."""

    def __init__(self, clock: Clock, prefix: str, keep: Keep) -> None:
        super().__init__(clock)
        self._keep = keep
        self._blobs: dict[str, dict[str, Place]] = {
            t.full_name(prefix): {} for t in (SUBMODELS, UPDATES, CHECKPOINTS)
        }
        self._submodels, self._updates, self._checkpoints = self._blobs
        self._decisions, self._models = DECISIONS.full_name(prefix), MODELS.full_name(prefix)
        self.version = 0
        """The newest closed."""
        self._ended: set[str] = set()
        self._admitted: dict[int, list[str]] = defaultdict(list)
        self._published: dict[int, list[str]] = defaultdict(list)

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """Append, and let go of what is not needed any more."""
        offsets = await super().append(topic, partition, records)
        if topic in self._blobs:
            self._note_blobs(topic, partition, records, offsets)
        elif topic in (self._decisions, self._models):
            for offset in offsets:
                self._take(codec.decode(self._log(topic, 0)[offset]))
        return offsets

    def end(self) -> None:
        """The run is over: nobody will fetch weights any more; with `log`, let go of all blobs."""
        gone = {"all": (), "tail": (self._submodels,), "log": tuple(self._blobs)}
        for topic in gone[self._keep]:
            self._blobs[topic].clear()
            self._expire(topic)

    def everything(self, topic: str) -> Iterator[Record]:
        """All records that a topic still holds."""
        for partition in range(self._specs[topic].partitions):
            yield from self._log(topic, partition)

    def _note_blobs(
        self, topic: str, partition: int, records: Sequence[NewRecord], offsets: Sequence[int]
    ) -> None:
        for record, offset in zip(records, offsets, strict=True):
            blob_id = record.headers[BLOB_HEADER].decode()
            if _plan_of(blob_id) not in self._ended:
                self._blobs[topic].setdefault(blob_id, (partition, offset))

    def _take(self, message: m.Message) -> None:
        match message:
            case m.UpdateAdmitted():
                self._admitted[self.version + 1].append(message.blob.blob_id)
                self._end_plan(message.plan_id, admitted=True)
            case m.UpdateRefused(outcome=m.Outcome.DUPLICATE):
                pass
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
        """Keep the newest whole version that lies TAIL_VERSIONS back, and what came after it."""
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
        """Forget what lies before the first blob that is needed."""
        for partition in range(self._specs[topic].partitions):
            needed = [first for part, first in self._blobs[topic].values() if part == partition]
            end = self._first[topic, partition] + len(self._log(topic, partition))
            self.expire(topic, partition, min(needed, default=end))


def _plan_of(blob_id: str) -> str:
    """The plan that a submodel's or an update's blob is of."""
    return blob_id.partition(".")[0]
