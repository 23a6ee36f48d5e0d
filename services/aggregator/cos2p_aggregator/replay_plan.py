"""What a log allows a replay: which versions were published, and where a replay can start.

Invariants: the bus is only read. A start point is offered only if its checkpoint and every update
admitted after it are still in the log. Of a version's record only a digest and places are kept. So
memory is a few hundred bytes per version and shard.
"""

from dataclasses import dataclass, field

from blake3 import blake3

from cos2p.errors import BlobError, MessageError, SettingsError, TopicMissingError
from cos2p.history.read import letters
from cos2p.log import messages as m
from cos2p.log.bus import Bus, Offsets
from cos2p.log.codec import decode
from cos2p.log.fence import EpochFence
from cos2p.log.mailbox import Letter
from cos2p.log.topics import DECISIONS, MODELS
from cos2p_aggregator.published_records import StartPoint, start_point


@dataclass(frozen=True, slots=True)
class BlobStart:
    """Where a blob begins."""

    topic: str
    partition: int
    first_offset: int


@dataclass(frozen=True, slots=True)
class PublishedShard:
    """What is kept of a shard's record of a version.

    Attributes:
        offset: the record's offset on `models`.
        seal: digest of its unit digests.
        checkpoint: where its checkpoint begins, if it has one.
    """

    offset: int
    seal: bytes
    shard_count: int
    decisions_offset: int
    checkpoint: BlobStart | None


@dataclass
class Survey:
    """What the log holds.

    Attributes:
        started: the decision that started the run.
        head: the decisions up to `started`, including it.
        last_version: the newest version that was closed.
        workers: all workers that ever had a plan.
        lost: by version, the last offset at which an update was admitted to it whose blob counted
            and has left the log.
        published: records by version and shard; of records of one version the first with a
            checkpoint.
    """

    started: m.RunStarted
    head: tuple[Letter, ...] = ()
    last_version: int = 0
    workers: set[str] = field(default_factory=set)
    lost: dict[int, int] = field(default_factory=dict)
    published: dict[int, dict[int, PublishedShard]] = field(default_factory=dict)

    def take_published(self, offset: int, message: m.VersionPublished) -> None:
        """Note a published version."""
        shards = self.published.setdefault(message.version, {})
        known = shards.get(message.shard)
        if known is None or known.checkpoint is None:
            blob = message.checkpoint
            shards[message.shard] = PublishedShard(
                offset,
                seal_of(message.unit_digests),
                message.shard_count,
                message.decisions_offset,
                None if blob is None else BlobStart(blob.topic, blob.partition, blob.first_offset),
            )

    def lost_before(self, version: int) -> int:
        """Return the offset of the last lost update that a version needs; -1 if there is none."""
        return max((offset for v, offset in self.lost.items() if v <= version), default=-1)


def seal_of(unit_digests: bytes) -> bytes:
    """Return the digest that is kept of a record's unit digests."""
    return bytes(blake3(unit_digests).digest(length=16))


async def survey(bus: Bus, prefix: str, without: frozenset[str] = frozenset()) -> Survey:
    """Read a run's small records; the updates of workers in `without` needn't be there.

    Raises:
        SettingsError: there is no run.
    """
    found = await _begin(bus, prefix)
    run_id = found.started.run_id
    missing: set[str] = set()
    async for letter in letters(bus, prefix, MODELS, run_id, kinds=(m.VersionPublished,)):
        if isinstance(letter.message, m.VersionPublished):
            found.take_published(letter.offset, letter.message)
            lacks = (x for x in letter.message.left_out if x.reason in ("missing", "foreign"))
            missing.update(x.plan_id for x in lacks)
    extent, fence = _Extent(bus), EpochFence()
    async for letter in letters(bus, prefix, DECISIONS, run_id):
        if not isinstance(letter.message, m.Decision) or not fence.admits(letter.message):
            continue
        match letter.message:
            case m.PlanIssued(plan=plan):
                found.workers.add(plan.worker_id)
            case m.RoundClosed(version=version):
                found.last_version = version
            case m.UpdateAdmitted() as admitted:
                known = admitted.plan_id in missing or admitted.worker_id in without
                if not known and not await extent.holds(admitted.blob):
                    found.lost[found.last_version + 1] = letter.offset
    return found


async def _begin(bus: Bus, prefix: str) -> Survey:
    fence, head = EpochFence(), list[Letter]()
    async for letter in letters(bus, prefix, DECISIONS):
        head.append(letter)
        admitted = isinstance(letter.message, m.Decision) and fence.admits(letter.message)
        if admitted and isinstance(letter.message, m.RunStarted):
            return Survey(letter.message, tuple(head))
    raise SettingsError(f"no run has started under the prefix {prefix!r} on this bus")


async def choose_start(bus: Bus, prefix: str, run: Survey, until: int) -> StartPoint | None:
    """Choose the oldest start point from which everything up to `until` is there.

    None stands for version 0.

    Raises:
        BlobError: there is none; the text names the version from which on there is one.
    """
    extent = _Extent(bus)
    lost_before = run.lost_before(until)
    if lost_before < 0 and await extent.holds(run.started.checkpoint):
        return None
    whole = await _first_whole(extent, run, lost_before)
    if whole is not None and whole <= until:
        records = [
            await read_published_record(bus, prefix, published)
            for _, published in sorted(run.published[whole].items())
        ]
        return start_point(tuple(records), run.started.units.table())
    possible = await _first_whole(extent, run, run.lost_before(run.last_version + 1))
    if possible is None:
        raise BlobError(
            "no version can be rebuilt: the blobs of version 0 or of later updates have left the "
            "log (retention), and there is no complete checkpoint after them; keep `updates` and "
            "`checkpoints` longer to replay a run"
        )
    raise BlobError(
        f"version {until} can't be rebuilt: blobs before it have left the log (retention); "
        f"the log can be replayed from version {possible} on"
    )


async def read_published_record(
    bus: Bus, prefix: str, published: PublishedShard
) -> m.VersionPublished:
    """Read the record itself.

    Raises:
        MessageError: the record is not in the log any more.
    """
    name = MODELS.full_name(prefix)
    records = await bus.read(name, 0, published.offset, bytes_max=1, wait_s=1.0)
    message = decode(records[0]) if records and records[0].offset == published.offset else None
    if not isinstance(message, m.VersionPublished):
        raise MessageError(
            f"record {published.offset} of {name} was a published version; it has left the log"
        )
    return message


async def _first_whole(extent: "_Extent", run: Survey, lost_before: int) -> int | None:
    """Return the oldest version after offset `lost_before` whose checkpoint is in the log."""
    for version in sorted(run.published):
        shards = list(run.published[version].values())
        whole = len(shards) == shards[0].shard_count and all(
            published.checkpoint for published in shards
        )
        if not version or not whole or shards[0].decisions_offset <= lost_before:
            continue
        if all(
            [
                await extent.holds(published.checkpoint)
                for published in shards
                if published.checkpoint
            ]
        ):
            return version
    return None


class _Extent:
    """Which offsets of the blob topics are in the log; reads each topic's ends once."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._ends: dict[str, dict[int, Offsets]] = {}

    async def holds(self, blob: m.BlobRef | BlobStart) -> bool:
        """Return whether retention has not removed the blob; True for one that was never there."""
        if blob.topic not in self._ends:
            try:
                self._ends[blob.topic] = await self._bus.end_offsets(blob.topic)
            except TopicMissingError:
                self._ends[blob.topic] = {}
        ends = self._ends[blob.topic].get(blob.partition)
        return ends is not None and blob.first_offset >= ends.first
