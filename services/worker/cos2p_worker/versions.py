"""Whole versions from the log: published by shards, read as one.

Invariants: a version is read only when every shard has published it with a checkpoint. Every unit's
digest is checked. Memory is the model's two states and one unit. `models` is read from its end, so
that the newest version costs the same for any number of versions.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import DigestError, SettingsError
from cos2p.history.read import letters
from cos2p.history.survival import Survival, first_version
from cos2p.log.backwards import newest_first
from cos2p.log.blobs import read_blob
from cos2p.log.bus import Bus
from cos2p.log.messages import RunOpened, VersionPublished
from cos2p.log.run_request import VERSION_0
from cos2p.log.topics import MODELS
from cos2p.model.payload import PayloadReader
from cos2p.model.units import UnitTable

NOT_KEPT = {"unit_digests": b"", "unit_norms": b"", "unit_shares": b"", "left_out": ()}
"""Fields that grow with the model's units, and are not needed to read a version."""

Values = dict[int, NDArray[np.float32]]


@dataclass(frozen=True)
class Version:
    """A whole version's weights, flat float32 by unit."""

    number: int
    raw: Values
    """As merged."""
    average: Values
    """Moving average of versions: what counts as the model."""


class VersionCollector:
    """Collects the shards' announcements until a version is whole."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[int, VersionPublished]] = {}

    def add(self, message: VersionPublished) -> None:
        """Take an announcement; one without a checkpoint can't be read and is ignored."""
        if message.checkpoint is not None:
            slim = message.model_copy(update=NOT_KEPT)
            self._parts.setdefault(message.version, {})[message.shard] = slim

    def whole(self, number: int) -> bool:
        """Return whether a version can be read."""
        parts = self._parts.get(number, {})
        return bool(parts) and len(parts) == next(iter(parts.values())).shard_count

    def whole_versions(self) -> tuple[int, ...]:
        """Return the versions that can be read, ascending."""
        return tuple(number for number in sorted(self._parts) if self.whole(number))

    def parts(self, number: int) -> list[VersionPublished]:
        """Return the announcements of a whole version, by shard."""
        return [part for _, part in sorted(self._parts[number].items())]

    def forget_below(self, number: int) -> None:
        """Forget older versions."""
        for old in [n for n in self._parts if n < number]:
            del self._parts[old]


async def run_opened(bus: Bus, prefix: str) -> RunOpened:
    """Read the run's opening.

    Raises:
        SettingsError: there is no run.
    """
    async for letter in letters(bus, prefix, MODELS):
        if isinstance(letter.message, RunOpened):
            return letter.message
    raise SettingsError(f"no run was opened under {prefix!r} yet")


async def stored_parts(
    bus: Bus, prefix: str, run_id: str, wanted: int | None = None
) -> list[VersionPublished]:
    """Read the announcements, by shard, of a readable version: the one wanted, or the newest.

    Raises:
        SettingsError: there is none; the text names the nearest that are.
    """
    collector = VersionCollector()
    async for message in _newest_published(bus, prefix, run_id):
        collector.add(message)
        if collector.whole(message.version) and wanted in (None, message.version):
            return collector.parts(message.version)
    stored = collector.whole_versions()
    if wanted is None or not stored:
        raise SettingsError("no version has a checkpoint yet")
    near = sorted(stored, key=lambda v: (abs(v - wanted), v))[:3]
    text = ", ".join(str(v) for v in sorted(near))
    raise SettingsError(f"version {wanted} has no checkpoint; the nearest that have: {text}")


async def read_survival(
    bus: Bus, prefix: str, run_id: str, table: UnitTable, version: int
) -> Survival:
    """Read what is needed to scale a version's units."""
    survival, back = Survival(table), Backlog(first_version(version))
    async for message in _newest_published(bus, prefix, run_id):
        if message.version <= version:
            survival.take(message)
        if back.ends_with(message):
            break
    return survival


async def _newest_published(
    bus: Bus, prefix: str, run_id: str
) -> AsyncGenerator[VersionPublished, None]:
    kinds = (VersionPublished,)
    async for letter in newest_first(bus, prefix, MODELS, kinds, run_id=run_id):
        if isinstance(letter.message, VersionPublished):
            yield letter.message


class Backlog:
    """How far back to read `models` to have each shard's records from some version on.

    Each shard publishes its versions in order, but one may be far behind another. So each shard has
    to be seen at that version or below.
    """

    def __init__(self, needed: int | None = None) -> None:
        self._oldest: dict[int, int] = {}
        self.needed = needed
        """The oldest version that is needed; None while that is not known."""

    def ends_with(self, message: VersionPublished) -> bool:
        """Note an older record, and return whether all that is needed has been read."""
        known = self._oldest.get(message.shard, message.version)
        self._oldest[message.shard] = min(known, message.version)
        if self.needed is None or len(self._oldest) < message.shard_count:
            return False
        return max(self._oldest.values()) <= self.needed


async def read_version(bus: Bus, table: UnitTable, parts: Sequence[VersionPublished]) -> Version:
    """Read a version's checkpoints.

    Raises:
        SettingsError: the shards' units don't make up the table.
        ChunkMissingError: a checkpoint has left the log.
        BlobError, DigestError: a checkpoint is damaged.
    """
    number = parts[0].version
    raw: Values = {}
    average: Values = {}
    for part in parts if number else parts[:1]:
        assert part.checkpoint is not None
        units, owner = tuple(range(len(table))), VERSION_0
        if number:
            units = table.owned_by(part.shard, part.shard_count)
            owner = f"v{number}.s{part.shard}"
        reader = PayloadReader(table, owner, units, states=2 if number else 1)
        async for chunk in read_blob(bus, part.checkpoint, verify=False):
            for found in reader.feed(chunk):
                if not found.intact:
                    name = table.units[found.unit].name
                    raise DigestError(f"unit {name} of version {number} is damaged in the log")
                size = int(table.sizes[found.unit])
                raw[found.unit] = found.values[:size].copy()
                average[found.unit] = found.values[-size:].copy()
        reader.finish()
    if len(raw) != len(table):
        raise SettingsError(f"version {number} holds {len(raw)} of {len(table)} units")
    return Version(number, raw, average)
