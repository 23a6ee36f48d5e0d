"""Every message of the ring, each in its newest version.

`codec.py` encodes messages.
`topics.py` gives the writers, the readers and the topic of each.

Invariants:
Messages are frozen.
Unknown fields are ignored, and missing new fields have defaults.
A field is never renamed or retyped.
Every number is finite, and every list is bounded.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cos2p.log.values import BlobRef as BlobRef
from cos2p.log.values import DeviceProfile as DeviceProfile
from cos2p.log.values import Digest, Name, Seconds, Text
from cos2p.log.values import LeftOut as LeftOut
from cos2p.log.values import Outcome as Outcome
from cos2p.log.values import Plan as Plan
from cos2p.log.values import UnitBlob as UnitBlob
from cos2p.model.unit_wire import Body, Count, UnitColumns, UnitScores
from cos2p.run_config import RunConfig

PROTOCOL = 1
"""Version of what roles must share besides messages that both can read. It rises when a worker of
one image and a planner or aggregator of another can't work together."""


class Message(Body):
    """Base of all messages."""

    VERSION: ClassVar[int] = 1

    run_id: Name

    @property
    def key(self) -> str:
        """The key of its record: the worker that it is from or for; empty if there is none."""
        return str(getattr(self, "worker_id", ""))


# ---------------------------------------------------------------- fleet


class Hello(Message):
    """A worker is present. It sends this at its start and repeats it from time to time."""

    worker_id: Name
    incarnation: Count
    """Rises with every start of the worker; reports of an older incarnation are refused."""
    profile: DeviceProfile
    sample_count: Count
    label_counts: Annotated[tuple[Count, ...], Field(max_length=100_000)] | None = None
    """Samples per label; None if the device withholds them."""
    units_digest: Digest
    """Digest of the worker's own unit table; a device with another model is refused."""
    protocol: Count = 1
    """The worker's `PROTOCOL`; a device with another one gets no plans."""


class Heartbeat(Message):
    """A worker is alive. Only the newest of each worker is kept."""

    worker_id: Name
    incarnation: Count
    state: Literal["idle", "fetching", "training", "uploading", "stopping"]
    plan_id: Name | None = None
    steps_done: Count = 0


class Report(Message):
    """The result of a plan."""

    worker_id: Name
    incarnation: Count
    plan_id: Name
    status: Literal["done", "out_of_memory", "abandoned", "failed"]
    blob: BlobRef | None = None
    """Reference to the delta; None unless the status is done."""
    sample_count: Count = 0
    """Number of different samples trained on."""
    steps_done: Count = 0
    idle_s: Seconds = 0
    fetch_s: Seconds = 0
    train_s: Seconds = 0
    throttle_s: Seconds = 0
    """Seconds of train_s that the worker slept to seem slower (demo only)."""
    upload_s: Seconds = 0
    peak_bytes: Count = 0
    """Measured peak memory of the training itself."""
    bytes_down: Count = 0
    """Bytes of weights fetched. What the device had from earlier plans is not in it."""
    bytes_found: Count = 0
    """Bytes of the plan's weights that the device had from earlier plans."""
    bytes_up: Count = 0
    loss_first: float | None = None
    loss_last: float | None = None
    scores: UnitScores | None = None
    detail: Text = ""


class Goodbye(Message):
    """A worker leaves on purpose."""

    worker_id: Name
    incarnation: Count
    reason: Text = ""


class Evaluated(Message):
    """The evaluator's verdict on a published version (moving average, and raw)."""

    evaluator_id: Name
    version: Count
    sample_count: Count
    loss: float
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    raw_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    plain_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """Accuracy of the published model with its units unscaled."""
    scaled_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """Accuracy of the published model with its units scaled by survival. Apart from this and
    plain_accuracy, evaluation.scaling decides whether a figure is of the scaled or the unscaled
    model."""
    exit_accuracies: Annotated[tuple[float, ...], Field(max_length=64)] = ()
    """Accuracy of each inner exit, shallow first."""
    mean_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """Accuracy of the mean of all exits' probabilities, including the final head's."""


class RunRequested(Message):
    """`cos2p init` asks the planner to start a run."""

    config: RunConfig
    task: Annotated[str, Field(max_length=500)]
    """module:attribute of the task that the workers load."""
    units: UnitColumns
    checkpoint: BlobRef
    """Reference to version 0."""


class StopRequested(Message):
    """An operator asks the planner to end the run."""

    reason: Text = ""


class AdmitRequested(Message):
    """An operator asks that a device whose updates failed checks may have plans again."""

    worker_id: Name


# ---------------------------------------------------------------- decisions


class Decision(Message):
    """Base of the messages that only the planner writes."""

    epoch: Count
    """The writing planner's epoch; decisions of an epoch below the newest are void."""
    fleet_offset: Count
    """The next `fleet` record to handle: all before it were handled when this was decided."""
    at_s: Seconds
    """The planner's clock when it decided, in seconds since 1970. A fold uses no other time."""


class EpochStarted(Decision):
    """A planner process has taken over."""

    planner_id: Name


class RunStarted(Decision):
    """The run begins; this holds everything that a replay needs."""

    config: RunConfig
    task: Annotated[str, Field(max_length=500)]
    units: UnitColumns
    checkpoint: BlobRef


class PlanIssued(Decision):
    """A worker is asked to train; the aggregator cuts its units at this point of the log."""

    plan: Plan

    @property
    def key(self) -> str:
        """See `Message.key`."""
        return self.plan.worker_id


class PlanCancelled(Decision):
    """A plan ends without a report: EXPIRED (silence) or CANCELLED (restart, leave, stop)."""

    plan_id: Name
    worker_id: Name
    outcome: Literal[Outcome.EXPIRED, Outcome.CANCELLED]
    reason: Text


class DeviceExcluded(Decision):
    """A device gets no plans from here on, until it is admitted again."""

    worker_id: Name
    reason: Text


class DeviceAdmitted(Decision):
    """The reason for a device's exclusion no longer holds: it may have plans again."""

    worker_id: Name


class UpdateAdmitted(Decision):
    """A plan ends as ACCEPTED: its delta counts in the open version."""

    plan_id: Name
    worker_id: Name
    blob: BlobRef
    weight: Annotated[float, Field(gt=0)]
    scale: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the delta itself (normalisation by steps done, FedNova)."""
    staleness: Count
    steps_done: Count


class UpdateRefused(Decision):
    """A report does not count; it ends its plan unless the plan had already ended (DUPLICATE)."""

    plan_id: Name
    worker_id: Name
    outcome: Literal[Outcome.STALE, Outcome.DUPLICATE, Outcome.INVALID, Outcome.CANCELLED]
    reason: Text


class RoundClosed(Decision):
    """Version `version` is the merge of the updates admitted since the version before."""

    version: Annotated[int, Field(ge=1)]
    reason: Literal["count", "deadline", "all", "group"]
    update_count: Count
    step: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the server's step; below 1 if updates of few devices move the model less."""
    waited_s: Seconds
    coverage_min: Count
    """N*: the smallest number of merged updates of any prunable unit over the window."""
    coverage_planned: Count = 0
    """N* as planned: the smallest number of devices that hold any prunable unit now."""
    coverage_bound: float = 0.0
    """Upper bound of N*: the window's updates times their mean share of the cost."""
    devices_bound: Count = 0
    """floor(sum r_i) over the devices that can train, r_i the affordable share of the cost."""
    staleness_mean: float = 0.0


class RunEnded(Decision):
    """The run has ended: no more plans are issued, and `version` is the last."""

    version: Count
    reason: Literal["target", "stopped", "stalled", "failed"]
    detail: Text = ""


# ---------------------------------------------------------------- models


class AggregatorMessage(Message):
    """Base of the messages that only the aggregator writes."""

    decisions_offset: Count
    """The next `decisions` record to obey: this message carries out the record before it."""


class RunOpened(AggregatorMessage):
    """What a worker must know about the run (written by shard 0, before version 0)."""

    config: RunConfig
    task: Annotated[str, Field(max_length=500)]
    units_digest: Digest
    protocol: Count = 1
    """The aggregator's `PROTOCOL`; a worker with another one leaves."""


class Dispatched(AggregatorMessage):
    """The weights of a plan are in `submodels`; each aggregator shard writes one record."""

    plan: Plan
    shard: Count
    shard_count: Annotated[int, Field(ge=1, le=64)]
    blobs: Annotated[tuple[UnitBlob, ...], Field(max_length=64)]
    """Blobs that together hold the plan's units of this shard, newest first. A unit is taken from
    the first blob that holds it."""

    @property
    def key(self) -> str:
        """See `Message.key`."""
        return self.plan.worker_id

    @property
    def new_blob(self) -> BlobRef | None:
        """The blob that was written for this plan; None where all its units were there before."""
        own = f"{self.plan.plan_id}."
        return next((b.blob for b in self.blobs if b.blob.blob_id.startswith(own)), None)


class VersionPublished(AggregatorMessage):
    """A shard has made a version; recovery continues at its `decisions_offset`."""

    version: Count
    shard: Count
    shard_count: Annotated[int, Field(ge=1, le=64)]
    digest: Digest
    """Digest of the unit digests."""
    unit_digests: Annotated[bytes, Field(max_length=8 * 65_536)]
    """Eight bytes per unit that the shard owns, in table order."""
    unit_norms: Annotated[bytes, Field(max_length=4 * 65_536)] = b""
    """L2 norm of each owned unit's raw weights: float32, little-endian, in table order."""
    unit_shares: Annotated[bytes, Field(max_length=4 * 65_536)] = b""
    """For each owned unit, the weight of this version's updates whose submodels held it, trained or
    frozen, over the weight of all its updates. float32, little-endian, in table order; empty if the
    version has no updates (version 0)."""
    left_out: Annotated[tuple[LeftOut, ...], Field(max_length=10_000)] = ()
    merged_count: Count = 0
    step_norm: Annotated[float, Field(ge=0)] = 0.0
    """L2 norm of this shard's change from the version before."""
    model_norm: Annotated[float, Field(ge=0)] = 0.0
    delta_square: Annotated[float, Field(ge=0)] = 0.0
    """Weighted mean over updates of their squared delta norm, summed over the units merged. With
    step_norm, it gives the dispersion of updates."""
    checkpoint: BlobRef | None = None
    open_plans: Annotated[tuple[Count, ...], Field(max_length=100_000)] = ()
    """With a checkpoint: offsets in `decisions` of the PlanIssued of each plan that is open at this
    point, ascending. Recovery reads these records and those after `decisions_offset`, but not the
    records in between."""


class RunFinished(AggregatorMessage):
    """The aggregator has obeyed RunEnded: workers may stop."""

    version: Count
    reason: Text


# ---------------------------------------------------------------- snapshots


class SnapshotPart(Message):
    """A part of a fold's state; a reader that finds all parts need not fold the whole log."""

    of: Literal["planner", "history"]
    """The fold whose state it is."""
    number: Count
    """Rises with each snapshot of one fold."""
    part: Count
    part_count: Annotated[int, Field(ge=1, le=4096)]
    protocol: Count
    """The writer's `PROTOCOL`."""
    digest: Digest
    """Digest of the whole state's bytes."""
    body: Annotated[bytes, Field(max_length=900_000)]

    @property
    def key(self) -> str:
        """One of two alternating slots: the previous snapshot stays whole during a write."""
        return f"{self.of}/{self.number % 2}/{self.part}"


# ---------------------------------------------------------------- dead letters


class DeadLetter(Message):
    """A record that could not be read, kept for an operator to examine."""

    topic: Annotated[str, Field(max_length=249)]
    partition: Count
    offset: Count
    reason: Text
    reader: Name
    value_head: Annotated[bytes, Field(max_length=4096)]
    """The first bytes of the record's value."""
