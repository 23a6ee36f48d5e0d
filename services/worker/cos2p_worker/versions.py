"""Whole versions out of the log: published by shards, read as one.

Invariants: a version is read only when every shard has published it with a checkpoint; every unit's
digest is checked; memory is the model's two states and one unit. `models` is read from its end, so
that the newest version costs the same however many there were.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import DigestError, SettingsError
from cos2p.history.survival import Survival, first_version
from cos2p.log.backwards import newest_first
from cos2p.log.blobs import read_blob
from cos2p.log.bus import Bus
from cos2p.log.mailbox import HEAD_BYTES_MAX, Mailbox
from cos2p.log.messages import RunOpened, VersionPublished
from cos2p.log.run_request import VERSION_0
from cos2p.log.topics import MODELS
from cos2p.model.payload import PayloadReader
from cos2p.model.units import UnitTable

NOT_KEPT = {"unit_digests": b"", "unit_norms": b"", "unit_shares": b"", "left_out": ()}
"""What is as long as the model has units, and not needed to read a version."""

Values = dict[int, NDArray[np.float32]]


@dataclass(frozen=True)
class Version:
    """A whole version's weights, flat float32 by unit.

    Attributes:
        number: which.
        raw: as merged.
        average: moving average of versions: what counts as the model.
    """

    number: int
    raw: Values
    average: Values


class VersionShelf:
    """Collects the shards' announcements until a version is whole."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[int, VersionPublished]] = {}

    def add(self, message: VersionPublished) -> None:
        """Take an announcement; one without a checkpoint can't be read and is ignored."""
        if message.checkpoint is not None:
            slim = message.model_copy(update=NOT_KEPT)
            self._parts.setdefault(message.version, {})[message.shard] = slim

    def whole(self, number: int) -> bool:
        """Whether a version can be read."""
        parts = self._parts.get(number, {})
        return bool(parts) and len(parts) == next(iter(parts.values())).shard_count

    def whole_versions(self) -> tuple[int, ...]:
        """Versions that can be read, ascending."""
        return tuple(number for number in sorted(self._parts) if self.whole(number))

    def parts(self, number: int) -> list[VersionPublished]:
        """The announcements of a whole version, by shard."""
        return [part for _, part in sorted(self._parts[number].items())]

    def choose(self, wanted: int | None = None) -> int:
        """A version that can be read: the one wanted, or the newest.

        Raises:
            SettingsError: there is none; the text names the nearest that are.
        """
        stored = self.whole_versions()
        if not stored:
            raise SettingsError("no version has a checkpoint yet")
        if wanted is None:
            return stored[-1]
        if wanted not in stored:
            near = sorted(stored, key=lambda v: (abs(v - wanted), v))[:3]
            text = ", ".join(str(v) for v in sorted(near))
            raise SettingsError(
                f"version {wanted} has no checkpoint; the nearest that have: {text}"
            )
        return wanted

    def forget_below(self, number: int) -> None:
        """Let go of older versions."""
        for old in [n for n in self._parts if n < number]:
            del self._parts[old]


async def run_opened(bus: Bus, prefix: str) -> RunOpened:
    """The run's opening.

    Raises:
        SettingsError: there is no run.
        What the bus raises.
    """
    mailbox = Mailbox(bus, prefix, MODELS, reader="versions", bury_from=None)
    while letters := await mailbox.poll(bytes_max=HEAD_BYTES_MAX):
        for letter in letters:
            if isinstance(letter.message, RunOpened):
                return letter.message
    raise SettingsError(f"no run was opened under {prefix!r} yet")


async def stored_parts(
    bus: Bus, prefix: str, run_id: str, wanted: int | None = None
) -> list[VersionPublished]:
    """The announcements, by shard, of a version that can be read: the one wanted, or the newest.

    Raises:
        SettingsError: there is none; the text names the nearest that are.
        What the bus raises.
    """
    shelf = VersionShelf()
    kinds = (VersionPublished,)
    async for letter in newest_first(bus, prefix, MODELS, kinds, run_id=run_id):
        if isinstance(letter.message, VersionPublished):
            shelf.add(letter.message)
            whole = shelf.whole(letter.message.version)
            if whole and wanted in (None, letter.message.version):
                return shelf.parts(letter.message.version)
    return shelf.parts(shelf.choose(wanted))


async def read_survival(
    bus: Bus, prefix: str, run_id: str, table: UnitTable, version: int
) -> Survival:
    """What is needed to scale a version's units.

    Raises:
        What the bus raises.
    """
    survival, back = Survival(table), Backlog()
    back.until(first_version(version))
    kinds = (VersionPublished,)
    async for letter in newest_first(bus, prefix, MODELS, kinds, run_id=run_id):
        if isinstance(letter.message, VersionPublished):
            if letter.message.version <= version:
                survival.take(letter.message)
            back.note(letter.message)
            if back.read:
                break
    return survival


class Backlog:
    """How far back `models` has to be read to have each shard's records from some version on.

    Each shard publishes its versions in order, but one may be far behind another: so each has to
    be seen at that version or below.
    """

    def __init__(self) -> None:
        self._oldest: dict[int, int] = {}
        self._shard_count = 1
        self._version: int | None = None

    @property
    def read(self) -> bool:
        """Whether it is known how far, and that has been read."""
        if self._version is None or len(self._oldest) < self._shard_count:
            return False
        return max(self._oldest.values()) <= self._version

    def until(self, version: int) -> None:
        """The oldest version that is needed."""
        self._version = version

    def note(self, message: VersionPublished) -> None:
        """An older record."""
        self._shard_count = message.shard_count
        known = self._oldest.get(message.shard, message.version)
        self._oldest[message.shard] = min(known, message.version)


async def read_version(bus: Bus, table: UnitTable, parts: Sequence[VersionPublished]) -> Version:
    """Read a version's checkpoints.

    Raises:
        SettingsError: the shards' units don't make up the table.
        ChunkMissingError: a checkpoint has left the log.
        BlobError, DigestError: it is damaged.
    """
    number = parts[0].version
    raw: Values = {}
    average: Values = {}
    for part in parts if number else parts[:1]:
        units = tuple(range(len(table)))
        owner = VERSION_0
        if number:
            units = table.owned_by(part.shard, part.shard_count)
            owner = f"v{number}.s{part.shard}"
        await _read_part(bus, table, part, (owner, units), (raw, average))
    if len(raw) != len(table):
        raise SettingsError(f"version {number} holds {len(raw)} of {len(table)} units")
    return Version(number, raw, average)


async def _read_part(
    bus: Bus,
    table: UnitTable,
    part: VersionPublished,
    content: tuple[str, tuple[int, ...]],
    into: tuple[Values, Values],
) -> None:
    assert part.checkpoint is not None
    owner, units = content
    states = 2 if part.version else 1
    reader = PayloadReader(table, owner, units, states=states)
    async for chunk in read_blob(bus, part.checkpoint, verify=False):
        for found in reader.feed(chunk):
            if not found.intact:
                name = table.units[found.unit].name
                raise DigestError(f"unit {name} of version {part.version} is damaged in the log")
            size = int(table.sizes[found.unit])
            into[0][found.unit] = found.values[:size].copy()
            into[1][found.unit] = found.values[-size:].copy()
    reader.finish()
