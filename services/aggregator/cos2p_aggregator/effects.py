"""What the core asks its shell to do, one frozen dataclass per effect.

Invariant: an effect is carried out before the core is asked for the next one. Its arrays are views
of the model at this point of the log, not copies.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import DigestError
from cos2p.log.messages import BlobRef, Plan, RunFinished, RunOpened, VersionPublished
from cos2p.model.payload import Buffer, Header, PayloadReader, parts
from cos2p_aggregator.store import ModelStore
from cos2p_aggregator.update import UpdateMerge


@dataclass(frozen=True)
class CheckpointPart:
    """A blob that holds a version or part of one.

    Attributes:
        owner: the owner named in its payload.
        units: the units in it, ascending.
        states: 1 for raw weights, 2 for raw weights and average.
    """

    blob: BlobRef
    owner: str
    units: tuple[int, ...]
    states: int


@dataclass(frozen=True)
class OpenRun:
    """Announce the run to the workers."""

    message: RunOpened


@dataclass(frozen=True)
class Load:
    """Stream a checkpoint into the model; a fault in it ends the run."""

    part: CheckpointPart
    store: ModelStore

    def reader(self) -> PayloadReader:
        """Make the reader that receives the chunks."""
        part, store = self.part, self.store
        wanted = frozenset(part.units) & store.owned_set
        return PayloadReader(store.table, part.owner, part.units, states=part.states, wanted=wanted)

    def feed(self, reader: PayloadReader, chunk: Buffer) -> None:
        """Take the next bytes.

        Raises:
            BlobError: the bytes are not the checkpoint that was asked for.
        """
        for found in reader.feed(chunk):
            if not found.intact:
                name = self.store.table.units[found.unit].name
                raise DigestError(f"the checkpoint {self.part.owner} is damaged in unit {name}")
            self.store.load(found.unit, found.values)


@dataclass(frozen=True)
class Dispatch:
    """Publish where a plan's units of this shard lie, after writing those that lie nowhere."""

    plan: Plan
    decisions_offset: int
    units: tuple[int, ...]
    store: ModelStore

    def digests(self) -> dict[int, bytes]:
        """Return the digest of each unit's raw weights, in table order."""
        return {unit: self.store.raw_digest(unit) for unit in self.units}


@dataclass(frozen=True)
class Merge:
    """Stream an update's blob into the open version."""

    blob: BlobRef
    update: UpdateMerge


@dataclass(frozen=True)
class Checkpoint:
    """The shard's part of a version, to be written completely."""

    owner: str
    store: ModelStore

    def payload(self) -> Iterator[Buffer]:
        """Return the payload's bytes: of each unit the raw weights, then the published ones."""
        store = self.store
        header = Header(self.owner, store.owned, 2, tuple(store.digest(u) for u in store.owned))
        states = (s for u in store.owned for s in (store.raw(u), store.average(u)))
        return parts(header, list(states))


@dataclass(frozen=True)
class Figures:
    """What a replay reports of a version in addition to its digests.

    Attributes:
        update_count: updates admitted to it.
        weight_sum: sum of their weights.
        counts: updates merged into each unit, shape (units of the table,).
        step_square_sum: square of the L2 norm of this shard's change.
        model_square_sum: square of the L2 norm of this shard's raw weights.
        left_out_count: units of updates that failed a check.
    """

    update_count: int
    weight_sum: float
    counts: NDArray[np.int64]
    step_square_sum: float
    model_square_sum: float
    left_out_count: int


@dataclass(frozen=True)
class Publish:
    """Publish a version; where there is a checkpoint, write it first and refer to it."""

    message: VersionPublished
    figures: Figures
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class Pause:
    """Let other tasks run after much was computed."""


@dataclass(frozen=True)
class Finish:
    """Note that the run's end is obeyed; shard 0 informs the workers."""

    message: RunFinished | None


Effect = OpenRun | Load | Dispatch | Merge | Publish | Pause | Finish
