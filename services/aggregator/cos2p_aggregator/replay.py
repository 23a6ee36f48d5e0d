"""Rebuilds a run's versions from its log with the aggregator's own core, and compares the digests.

Invariants: nothing is written to the bus. Without what-if options the bytes equal the run's own, or
the first version and unit that differ are named. The number of shards changes no byte.
"""

import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from cos2p.errors import DivergedError, SettingsError
from cos2p.history.read import letters
from cos2p.log.bus import Bus
from cos2p.log.mailbox import Letter
from cos2p.log.messages import Decision, UpdateAdmitted
from cos2p.log.topics import DECISIONS, UPDATES
from cos2p.model.units import UnitTable
from cos2p_aggregator.core import AggregatorCore
from cos2p_aggregator.effects import Dispatch, Effect, Load, Merge, Publish
from cos2p_aggregator.published_records import StartPoint, unit_digests_of
from cos2p_aggregator.replay_plan import (
    Survey,
    choose_start,
    read_published_record,
    seal_of,
    survey,
)
from cos2p_aggregator.replay_staleness import Rule, staleness_rule
from cos2p_aggregator.start import named_decisions
from cos2p_aggregator.stream import load_checkpoint, merge_update


@dataclass(frozen=True)
class VersionReplay:
    """One version, made again.

    Attributes:
        update_count: updates admitted to it.
        weight_sum: sum of their weights.
        coverage_min: least number of updates merged into any prunable unit over the run's window.
        step_norm: L2 norm of the change from the version before.
        model_norm: L2 norm of the raw weights.
        left_out_count: units of updates that failed a check.
        digest: digest of all unit digests in table order, hexadecimal; the same for any shard
            count.
        compared: whether its digests were compared with published ones.
    """

    version: int
    update_count: int
    weight_sum: float
    coverage_min: int
    step_norm: float
    model_norm: float
    left_out_count: int
    digest: str
    compared: bool


@dataclass(frozen=True)
class DigestDifference:
    """The first place where the replay's bytes differ from the run's."""

    version: int
    unit: str


@dataclass(frozen=True)
class ReplayResult:
    """What a replay found.

    Attributes:
        shards: the number of parts in which it was replayed.
        started_at: 0, or the version of the oldest checkpoint that was complete.
        what_if: whether options changed the run; then digests are reported and not compared.
        versions: each version made, including the one that it started at.
        difference: the first difference; None where all that was compared agrees.
    """

    run_id: str
    shards: int
    started_at: int
    what_if: bool
    versions: tuple[VersionReplay, ...]
    difference: DigestDifference | None

    @property
    def compared_count(self) -> int:
        """Number of versions whose digests were compared."""
        return sum(v.compared for v in self.versions)

    def check(self) -> None:
        """Do nothing if the replay agrees with the run.

        Raises:
            DivergedError: it does not agree; version and unit are named.
        """
        if self.difference is not None:
            raise DivergedError(
                f"run {self.run_id}: version {self.difference.version}, rebuilt, differs from "
                f"the one published in unit {self.difference.unit}: the log or a blob was "
                "changed, or another program version wrote it"
            )

    def to_json(self) -> dict[str, object]:
        """Return plain values for a JSON document."""
        return asdict(self) | {"compared_count": self.compared_count}


async def replay(
    bus: Bus,
    prefix: str,
    *,
    until: int | None = None,
    without: Iterable[str] | None = None,
    staleness: str | None = None,
    shards: int | None = None,
    dispatched: Callable[[Dispatch], None] = lambda _: None,
) -> ReplayResult:
    """Make a run's versions again from its log.

    Args:
        bus: the bus that holds the log; it is only read.
        prefix: prefix of the topics' names.
        until: the last version to make; None for all of them.
        without: workers whose updates are left out.
        staleness: another rule for the weight of late updates: see `staleness_rule`.
        shards: the number of parts to replay in; None takes one.
        dispatched: called with each plan's weights, as the model is at that point of the log.

    Raises:
        SettingsError: no run, no such version or worker, or no such rule.
        BlobError: blobs that are needed have left the log; the text names what is still possible.
        MessageError: the decision log contradicts itself.
    """
    run = await survey(bus, prefix, frozenset(without or ()))
    changes = _Changes(run, frozenset(without or ()), staleness)
    if until is not None and not 0 <= until <= run.last_version:
        raise SettingsError(f"there is no version {until}: the log holds 0 to {run.last_version}")
    if shards is not None and not 1 <= shards <= 64:
        raise SettingsError(f"{shards} shards: use 1 to 64")
    start = await choose_start(bus, prefix, run, run.last_version if until is None else until)
    rebuild = _Rebuild(run, changes.any, shards or 1)
    updates_topic = UPDATES.full_name(prefix)
    cores = [
        AggregatorCore(shard, updates_topic, shard_count=rebuild.shards, start=start)
        for shard in range(rebuild.shards)
    ]
    async for letter in _needed(bus, prefix, run, start):
        if not isinstance(letter.message, Decision):
            continue
        decision = changes.apply(letter.message)
        if decision is None:
            continue
        for core in cores:
            for effect in core.feed(letter.offset, decision):
                if isinstance(effect, Dispatch):
                    dispatched(effect)
                await _carry_out(bus, effect, rebuild)
        if rebuild.differing is not None:
            rebuild.difference = await _named(bus, prefix, run, *rebuild.differing)
            rebuild.differing = None
        if rebuild.difference is not None or rebuild.reached(until):
            break
    return rebuild.result(start.version if start else 0)


async def _needed(
    bus: Bus, prefix: str, run: Survey, start: StartPoint | None
) -> AsyncIterator[Letter]:
    """Yield the decisions that a core needs if it begins at a start point."""
    async for letter in named_decisions(bus, prefix, run.head, start):
        yield letter
    offset = 0 if start is None else start.decisions_offset
    async for letter in letters(bus, prefix, DECISIONS, run.started.run_id, offset=offset):
        yield letter


async def _named(
    bus: Bus, prefix: str, run: Survey, version: int, digests: dict[int, bytes]
) -> DigestDifference | None:
    """Find the first unit in which a version with these digests differs from the published one."""
    table = run.started.units.table()
    published: dict[int, bytes] = {}
    for record in run.published[version].values():
        published |= unit_digests_of(await read_published_record(bus, prefix, record), table)
    for unit in sorted(published):
        if published[unit] != digests[unit]:
            return DigestDifference(version, table.units[unit].name)
    return None


async def _carry_out(bus: Bus, effect: Effect, rebuild: "_Rebuild") -> None:
    match effect:
        case Load():
            await load_checkpoint(bus, effect)
        case Merge():
            await merge_update(bus, effect)
        case Publish():
            rebuild.take(effect)
        case _:
            pass


class _Changes:
    """The what-if options, as a map from decisions to decisions."""

    def __init__(self, run: Survey, without: frozenset[str], staleness: str | None) -> None:
        unknown = without - run.workers
        if unknown:
            known = ", ".join(sorted(run.workers)[:20]) or "none"
            raise SettingsError(
                f"no worker named {min(unknown)!r} had a plan in this run; known: {known}"
            )
        self.without = without
        self._rule: Rule | None = None if staleness is None else staleness_rule(staleness)
        self._rounds = run.started.config.rounds
        self.any = bool(without) or self._rule is not None

    def apply(self, decision: Decision) -> Decision | None:
        """Return the decision to obey instead; None where an update does not count."""
        if not isinstance(decision, UpdateAdmitted):
            return decision
        if decision.worker_id in self.without:
            return None
        if self._rule is None:
            return decision
        tau = decision.staleness
        # The planner's s(tau) = (1 + tau) ** -exponent is a factor of one of the two.
        name = "weight" if self._rounds.staleness_on == "weight" else "scale"
        own = (1.0 + tau) ** -self._rounds.staleness_exponent
        value = getattr(decision, name) / own * self._rule(tau)
        if not 0 < value < math.inf:
            return None
        return decision.model_copy(update={name: value})


class _Rebuild:
    """Combines the shards' parts of each version and compares them with the log."""

    def __init__(self, run: Survey, what_if: bool, shards: int) -> None:
        self.shards = shards
        self.difference: DigestDifference | None = None
        self.differing: tuple[int, dict[int, bytes]] | None = None
        """The current version and its units' digests, where they differ from those published."""
        self._run, self._what_if = run, what_if
        self._table: UnitTable = run.started.units.table()
        self._pending: list[Publish] = []
        self._made: list[VersionReplay] = []
        window = run.started.config.rounds.coverage_window
        self._counts: deque[NDArray[np.int64]] = deque(maxlen=window)

    def reached(self, until: int | None) -> bool:
        """Return whether the last version asked for is made."""
        return until is not None and bool(self._made) and self._made[-1].version >= until

    def take(self, effect: Publish) -> None:
        """Take one shard's part of a version; the last part completes it."""
        if self._made and self._made[-1].version == effect.message.version:
            return  # published again with its checkpoint, at the run's end
        self._pending.append(effect)
        if len(self._pending) == self.shards:
            self._complete(self._pending)
            self._pending = []

    def result(self, started_at: int) -> ReplayResult:
        """Return what the replay found."""
        return ReplayResult(
            self._run.started.run_id,
            self.shards,
            started_at,
            self._what_if,
            tuple(self._made),
            self.difference,
        )

    def _complete(self, parts: list[Publish]) -> None:
        version = parts[0].message.version
        digests: dict[int, bytes] = {}
        for part in parts:
            digests |= unit_digests_of(part.message, self._table)
        if version > 0:
            self._counts.append(np.sum([p.figures.counts for p in parts], axis=0))
        compared = not self._what_if and version in self._run.published
        if compared and not self._agrees(version, digests):
            self.differing = version, digests
        self._made.append(
            VersionReplay(
                version=version,
                update_count=parts[0].figures.update_count,
                weight_sum=parts[0].figures.weight_sum,
                coverage_min=self._coverage_min(),
                step_norm=math.sqrt(sum(p.figures.step_square_sum for p in parts)),
                model_norm=math.sqrt(sum(p.figures.model_square_sum for p in parts)),
                left_out_count=sum(p.figures.left_out_count for p in parts),
                digest=blake3(b"".join(digests[u] for u in sorted(digests))).hexdigest(),
                compared=compared,
            )
        )

    def _coverage_min(self) -> int:
        if not self._counts or not self._table.prunable.any():
            return 0
        merged = np.sum(np.stack(tuple(self._counts)), axis=0)
        return int(merged[self._table.prunable].min())

    def _agrees(self, version: int, digests: dict[int, bytes]) -> bool:
        """Return whether each shard published these digests of its units."""
        for shard, published in self._run.published[version].items():
            owned = self._table.owned_by(shard, published.shard_count)
            if seal_of(b"".join(digests[unit] for unit in owned)) != published.seal:
                return False
        return True
