"""Where the newest values of the units lie in `submodels`: each is written once, for all plans.

A unit is written when the first plan needs it after it changed. What no plan needs is not written.
The places are known to the running shard only: after a restart, units are written again when a plan
needs them. No byte of a version depends on them.

Invariants: the place of a unit holds the values that the unit has now. A place is forgotten before
retention can remove its records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cos2p.log.messages import UnitBlob
from cos2p.log.topics import SUBMODELS

BLOBS_MAX = 32
"""A plan's units lie in at most this many blobs: a record must name them all."""
LIFETIME_S = 0.5 * (SUBMODELS.retention_s or 0.0)
"""How long a place is used. A plan has the other half of the retention for its fetch."""


@dataclass(frozen=True)
class _Written:
    blob: UnitBlob
    number: int
    at_s: float


class UnitPlaces:
    """The places of one shard's units."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[bytes, _Written]] = {}
        self._count = 0

    def missing(self, digests: Mapping[int, bytes], now: float) -> tuple[int, ...]:
        """Return the units that must be written before a plan can refer to them, ascending.

        Args:
            digests: the digest of each unit of the plan.
            now: the clock's seconds.
        """
        placed = {u: p for u, d in digests.items() if (p := self._place(u, d, now)) is not None}
        numbers = sorted({p.number for p in placed.values()})
        if len(numbers) + (len(placed) < len(digests)) > BLOBS_MAX:
            # What lies in the oldest blobs is written again, into the new one.
            numbers = numbers[-(BLOBS_MAX - 1) :]
        return tuple(sorted(u for u in digests if u not in placed or placed[u].number < numbers[0]))

    def note(self, blob: UnitBlob, digests: Mapping[int, bytes], now: float) -> None:
        """Note that these units were written."""
        written = _Written(blob, self._count, now)
        self._count += 1
        self._places |= {unit: (digest, written) for unit, digest in digests.items()}

    def blobs(self, units: Sequence[int]) -> tuple[UnitBlob, ...]:
        """Return the blobs that hold these units, newest first."""
        found = {w.number: w.blob for _, w in (self._places[unit] for unit in units)}
        return tuple(found[number] for number in sorted(found, reverse=True))

    def _place(self, unit: int, digest: bytes, now: float) -> _Written | None:
        known, written = self._places.get(unit, (b"", None))
        fresh = written is not None and now - written.at_s <= LIFETIME_S
        return written if fresh and known == digest else None
