"""What the core asks its shell to do, one frozen dataclass per deed.

Invariant: an effect is carried out before the core is asked for the next one: its arrays are views
of the model as it is at this point of the log, and are not copied.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import DigestError
from cos2p.log.bus import Buffer
from cos2p.log.messages import BlobRef, Plan, RunFinished, RunOpened, VersionPublished
from cos2p.model.payload import Header, PayloadReader, parts
from cos2p_aggregator.store import ModelStore
from cos2p_aggregator.update import UpdateMerge


@dataclass(frozen=True)
class CheckpointPart:
    """A blob that holds (part of) a version.

    Attributes:
        blob: where it lies.
        owner: what its payload belongs to.
        units: the units in it, ascending.
        states: 1 raw, 2 raw and average.
    """

    blob: BlobRef
    owner: str
    units: tuple[int, ...]
    states: int


@dataclass(frozen=True)
class OpenRun:
    """Tell the workers of the run."""

    message: RunOpened


@dataclass(frozen=True)
class Load:
    """Stream a checkpoint into the model; a fault in it is the run's end."""

    part: CheckpointPart
    store: ModelStore

    def reader(self) -> PayloadReader:
        """What the chunks are fed to."""
        part, store = self.part, self.store
        wanted = frozenset(part.units) & store.owned_set
        return PayloadReader(store.table, part.owner, part.units, states=part.states, wanted=wanted)

    def feed(self, reader: PayloadReader, chunk: Buffer) -> None:
        """Take the next bytes.

        Raises:
            BlobError: it is not the checkpoint that was asked for.
        """
        for found in reader.feed(chunk):
            if not found.intact:
                name = self.store.table.units[found.unit].name
                raise DigestError(f"the checkpoint {self.part.owner} is damaged in unit {name}")
            self.store.load(found.unit, found.values)


@dataclass(frozen=True)
class Dispatch:
    """Write the weights of a plan, then say where they lie."""

    plan: Plan
    decisions_offset: int
    units: tuple[int, ...]
    store: ModelStore

    def payload(self) -> Iterator[Buffer]:
        """The payload's bytes, without copies of the weights."""
        digests = tuple(self.store.raw_digest(u) for u in self.units)
        header = Header(self.plan.plan_id, self.units, 1, digests)
        return parts(header, [self.store.raw(u) for u in self.units])


@dataclass(frozen=True)
class Merge:
    """Stream an update's blob into the open version."""

    blob: BlobRef
    update: UpdateMerge


@dataclass(frozen=True)
class Checkpoint:
    """The shard's part of a version, to be written whole."""

    owner: str
    store: ModelStore

    def payload(self) -> Iterator[Buffer]:
        """The payload's bytes: of each unit the raw weights, then the published ones."""
        store = self.store
        header = Header(self.owner, store.owned, 2, tuple(store.digest(u) for u in store.owned))
        states = (s for u in store.owned for s in (store.raw(u), store.average(u)))
        return parts(header, list(states))


@dataclass(frozen=True)
class Figures:
    """What a replay tells of a version beside its digests.

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
    left_out_count: int = 0


@dataclass(frozen=True)
class Publish:
    """Tell of a version; where there is a checkpoint, write it first and refer to it."""

    message: VersionPublished
    figures: Figures
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class Pause:
    """Much was computed: let others have the processor."""


@dataclass(frozen=True)
class Finish:
    """The run's end is obeyed; shard 0 tells the workers."""

    message: RunFinished | None


Effect = OpenRun | Load | Dispatch | Merge | Publish | Pause | Finish
