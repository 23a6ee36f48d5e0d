"""What this shard has published: read from `models` at the start, so nothing is published twice.

Invariants: the ledger is filled from the end of `models`. It needs no record that lies before the
version before the newest whole one. The start point that it names is the newest version that this
shard wrote whole. What the core has obeyed again leaves it, so it doesn't grow while the shard
runs.
"""

from dataclasses import dataclass, field

from cos2p.log.messages import Dispatched, Message, RunFinished, RunOpened, VersionPublished
from cos2p.model.units import UNIT_DIGEST_BYTES, UnitTable
from cos2p_aggregator.effects import CheckpointPart


@dataclass(frozen=True)
class StartPoint:
    """The point from which a core continues.

    Attributes:
        decisions_offset: offset of the decision after the one that made the version.
        parts: the version's checkpoint.
        open_plans: offsets of the `PlanIssued` of plans that were open then, ascending.
    """

    version: int
    decisions_offset: int
    parts: tuple[CheckpointPart, ...]
    open_plans: tuple[int, ...] = ()


@dataclass
class PublishedRecords:
    """One shard's records on `models`, noted from the newest to the oldest.

    Attributes:
        opened: whether `RunOpened`, or a record that comes after it, is there.
        dispatched: plans whose weights are dispatched, with the records' `decisions_offset`.
        versions: published versions; of one published twice, the record with the checkpoint.
        finished: whether `RunFinished` is there.
    """

    shard: int
    opened: bool = False
    dispatched: dict[str, int] = field(default_factory=dict)
    versions: dict[int, VersionPublished] = field(default_factory=dict)
    finished: bool = False

    def take(self, message: Message) -> None:
        """Note a record that is older than those noted."""
        match message:
            case RunOpened():
                self.opened = True
            case RunFinished():
                self.finished = True
            case Dispatched() if message.shard == self.shard:
                self.dispatched[message.plan.plan_id] = message.decisions_offset
            case VersionPublished() if message.shard == self.shard:
                self.opened = True  # shard 0 wrote it before its first version
                known = self.versions.get(message.version)
                if known is None or known.checkpoint is None:
                    self.versions[message.version] = message

    @property
    def newest_checkpoint(self) -> VersionPublished | None:
        """The newest version that this shard wrote whole; None before the run began."""
        whole = [m for m in self.versions.values() if m.checkpoint is not None]
        return max(whole, key=lambda m: m.version, default=None)

    @property
    def complete(self) -> bool:
        """Whether no older record concerns what comes after the newest whole version.

        That version alone doesn't show it: the run's last version is published with its checkpoint
        after plans that were dispatched from it. The version before it does.
        """
        newest = self.newest_checkpoint
        return newest is not None and min(self.versions) < newest.version

    def settle(self) -> None:
        """Remove what lies before the newest whole version: it is never made again."""
        newest = self.newest_checkpoint
        if newest is None:
            return
        at = newest.decisions_offset
        self.dispatched = {plan: o for plan, o in self.dispatched.items() if o > at}
        self.versions = {v: m for v, m in self.versions.items() if v >= newest.version}


def start_point(published: tuple[VersionPublished, ...], table: UnitTable) -> StartPoint:
    """Make the start point from the shards' records of one version, all with checkpoints."""
    found = []
    first = published[0]
    for message in published:
        if message.checkpoint is None:
            raise ValueError("a start point needs a checkpoint")
        if message.version == 0:
            everything = tuple(range(len(table)))
            found.append(CheckpointPart(message.checkpoint, "v0", everything, 1))
            break
        owned = table.owned_by(message.shard, message.shard_count)
        owner = f"v{message.version}.s{message.shard}"
        found.append(CheckpointPart(message.checkpoint, owner, owned, 2))
    return StartPoint(first.version, first.decisions_offset, tuple(found), first.open_plans)


def unit_digests_of(message: VersionPublished, table: UnitTable) -> dict[int, bytes]:
    """Return the published digest of each unit in the record."""
    owned = table.owned_by(message.shard, message.shard_count)
    step, text = UNIT_DIGEST_BYTES, message.unit_digests
    return {unit: text[i * step : (i + 1) * step] for i, unit in enumerate(owned)}


def first_difference(published: VersionPublished, made: VersionPublished, table: UnitTable) -> str:
    """Name the first unit whose digest differs between two records of a version."""
    ours = unit_digests_of(made, table)
    for unit, digest in unit_digests_of(published, table).items():
        if ours.get(unit) != digest:
            return f"unit {table.units[unit].name}"
    return "the number of its units"
