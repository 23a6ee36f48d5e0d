"""The values inside messages: ids, plans, blob references and outcomes.

Invariants:
Values are frozen.
Every number is finite, and every list is bounded.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from cos2p.model.unit_wire import Body, Count

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""Id of a run, worker or plan; safe in file names, topic names and metrics labels."""
Text = Annotated[str, Field(max_length=2000)]
Seconds = Annotated[float, Field(ge=0)]
UnitIndices = Annotated[tuple[Count, ...], Field(max_length=65_536)]
UnitSet = Annotated[bytes, Field(min_length=1, max_length=8_192)]
"""A set of units, one bit each: see `pack_units`."""
Digest = Annotated[bytes, Field(min_length=32, max_length=32)]


class Outcome(StrEnum):
    """How a plan, or a surplus report, ended."""

    ACCEPTED = "accepted"
    STALE = "stale"
    DUPLICATE = "duplicate"
    INVALID = "invalid"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class BlobRef(Body):
    """Where a blob's chunks lie: in one partition, in order, perhaps between others' chunks."""

    topic: Annotated[str, Field(max_length=249)]
    partition: Count
    first_offset: Count
    last_offset: Count
    chunk_count: Annotated[int, Field(ge=1, le=2**31)]
    byte_count: Count
    digest: Digest
    blob_id: Annotated[str, Field(min_length=1, max_length=200)]


class UnitBlob(Body):
    """A blob of units' weights (see `unit_blobs`)."""

    blob: BlobRef
    """Its digest is that of the blob's first chunk, which holds the units' digests."""
    units: UnitSet
    """All units in the blob, in the order of its bytes."""


class DeviceProfile(Body):
    """A worker's description of its machine."""

    device_class: Name = "default"
    accelerator: Literal["cpu", "cuda"] = "cpu"
    memory_bytes: Count
    """Memory that training may use at its peak, without the runtime's own share."""
    flops_per_s: Annotated[float, Field(gt=0)]
    """Measured training speed (forward and backward together count as 3 forward passes)."""
    bytes_per_s: Annotated[float, Field(gt=0)] = 1e8
    """Bandwidth to the bus."""
    cpus: Annotated[float, Field(gt=0)] = 1.0


class Plan(Body):
    """The planner's order to one worker: train these units from this version."""

    plan_id: Name
    worker_id: Name
    incarnation: Count
    base_version: Count
    trained: UnitIndices
    """Units trained and sent back, ascending, with the cores that they need."""
    frozen: UnitIndices = ()
    """Units used in the forward pass only."""
    local_steps: Annotated[int, Field(ge=1, le=1_000_000)]
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)]
    learning_rate: Annotated[float, Field(gt=0)]
    """Learning rate of the local optimiser, from the run's schedule for this version."""
    progress: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the run that was done when this was planned. Ramps of the local loss follow it."""
    seed: Count
    deadline_s: Seconds
    """Seconds after dispatch at which the planner stops waiting for this plan's round."""
    peak_bytes: Count
    """The cost model's forecast of the device's peak memory."""
    group: Count = 0
    """Number of the plan that started its arrival group (closing by groups); 0 for none."""
    wire: Literal["f32"] = "f32"


class LeftOut(Body):
    """A unit of an admitted update that failed the aggregator's checks."""

    plan_id: Name
    worker_id: Name
    unit: Count
    reason: Literal["missing", "digest", "not_finite", "norm", "foreign", "size"]
