"""What the aggregator has published: versions of its shards, and the weights of plans."""

from dataclasses import dataclass, field

from cos2p.log import messages as m


@dataclass
class PublicationsState:
    """What a snapshot holds of the publications.

    Attributes:
        shards: newest version of each shard.
        shard_count: number of shards of the run; 0 before the first version was published.
        cut: for each open plan, the shards that have cut their part.
    """

    shards: dict[int, int] = field(default_factory=dict)
    shard_count: int = 0
    cut: dict[str, set[int]] = field(default_factory=dict)


class Publications:
    """Which versions the aggregator's shards have published, and which plans they have cut."""

    def __init__(self, state: PublicationsState | None = None) -> None:
        self.state = state or PublicationsState()
        self.dispatched_s: dict[str, float] = {}
        """When this planner learned that a plan's last shard had cut its part."""

    @property
    def oldest(self) -> int:
        """The oldest version that a shard may still publish; none below it is published again."""
        every = len(self.state.shards) >= self.state.shard_count
        return min(self.state.shards.values(), default=0) if every else 0

    def published(self, message: m.VersionPublished) -> None:
        """Note that a shard has made a version."""
        self.state.shard_count = message.shard_count
        self.state.shards[message.shard] = max(
            message.version, self.state.shards.get(message.shard, 0)
        )

    def dispatched(self, message: m.Dispatched, now: float) -> None:
        """Note that a shard has cut its part of an open plan."""
        cut = self.state.cut.setdefault(message.plan.plan_id, set())
        cut.add(message.shard)
        if len(cut) >= message.shard_count:
            self.dispatched_s.setdefault(message.plan.plan_id, now)

    def resume(self, now: float) -> None:
        """Begin to watch: plans that were cut before count as cut now."""
        for plan_id, cut in self.state.cut.items():
            if len(cut) >= self.state.shard_count:
                self.dispatched_s[plan_id] = now

    def forget(self, plan_id: str) -> None:
        """Forget a plan that has ended."""
        self.state.cut.pop(plan_id, None)
        self.dispatched_s.pop(plan_id, None)

    def missing(self, version: int) -> str:
        """Name the aggregator that a version is waiting for; empty where there is none."""
        if not self.state.shards:
            return f"no aggregator: version {version} was not published" + (
                "" if version else " (the run's start)"
            )
        late = [s for s in range(self.state.shard_count) if self.state.shards.get(s, -1) < version]
        if not late:
            return ""
        if self.state.shard_count == 1:
            return f"no aggregator: version {version} was closed but not published"
        shards = ", ".join(str(s) for s in late)
        return f"no aggregator for shard {shards}: version {version} was closed but not published"
