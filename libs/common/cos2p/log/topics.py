"""The catalogue of topics: their messages, writers, readers and retention.

`docs/protocol.md` is generated from this file and `messages.py`.

Invariant: every message belongs to one topic.
"""

from dataclasses import dataclass
from typing import Literal
from zlib import crc32

from cos2p.log import messages as m
from cos2p.log.bus import TopicSpec

Role = Literal["planner", "aggregator", "worker", "evaluator", "operator"]

DAY_S = 86_400.0
CHUNK_BYTES_MAX = 900_000
"""Largest chunk: with its headers, it is below a default broker's record limit of 1 MiB."""
RECORD_BYTES_MAX = 1_000_000


@dataclass(frozen=True)
class Topic:
    """One topic in the catalogue."""

    name: str
    writers: tuple[Role, ...]
    readers: tuple[Role, ...]
    messages: tuple[type[m.Message], ...]
    key: str
    retention_s: float | None
    partitioned: bool = False
    compacted: bool = False
    """Whether only the newest record of each key is kept permanently."""
    about: str = ""

    def full_name(self, prefix: str) -> str:
        """The topic's name on the bus."""
        return f"{prefix}-{self.name}"


FLEET = Topic(
    "fleet",
    ("worker", "evaluator", "operator"),
    ("planner", "operator"),
    (
        m.Hello,
        m.Report,
        m.Goodbye,
        m.Evaluated,
        m.RunRequested,
        m.StopRequested,
        m.AdmitRequested,
    ),
    "worker_id, or the writer's role",
    7 * DAY_S,
    about="Messages of devices and operators.",
)
HEARTBEATS = Topic(
    "heartbeats",
    ("worker",),
    ("planner", "operator"),
    (m.Heartbeat,),
    "worker_id",
    DAY_S,
    compacted=True,
    about="Who is alive: the newest heartbeat of each worker.",
)
DECISIONS = Topic(
    "decisions",
    ("planner",),
    ("planner", "aggregator", "operator"),
    (
        m.EpochStarted,
        m.RunStarted,
        m.PlanIssued,
        m.PlanCancelled,
        m.DeviceExcluded,
        m.DeviceAdmitted,
        m.UpdateAdmitted,
        m.UpdateRefused,
        m.RoundClosed,
        m.RunEnded,
    ),
    "none",
    None,
    about="The run itself: one total order that every aggregator shard and every replay obeys.",
)
MODELS = Topic(
    "models",
    ("aggregator",),
    ("worker", "evaluator", "planner", "aggregator", "operator"),
    (m.RunOpened, m.Dispatched, m.VersionPublished, m.RunFinished),
    "worker_id for Dispatched, else none",
    None,
    about="What the aggregator made of the decisions.",
)
SUBMODELS = Topic(
    "submodels",
    ("aggregator",),
    ("worker", "operator"),
    (),
    "blob id",
    6 * 3600.0,
    partitioned=True,
    about="Chunks: units of versions, each written once for all plans that need it.",
)
UPDATES = Topic(
    "updates",
    ("worker",),
    ("aggregator", "operator"),
    (),
    "blob id",
    None,
    partitioned=True,
    about="Chunks: trained deltas; kept as long as the run shall be replayed.",
)
CHECKPOINTS = Topic(
    "checkpoints",
    ("aggregator", "operator"),
    ("aggregator", "evaluator", "operator"),
    (),
    "blob id",
    None,
    partitioned=True,
    about="Chunks: whole versions.",
)
SNAPSHOTS = Topic(
    "snapshots",
    ("planner",),
    ("planner", "operator"),
    (m.SnapshotPart,),
    "fold, slot and part",
    None,
    compacted=True,
    about="States of folds, so that readers need not start at the log's beginning.",
)
DEAD_LETTERS = Topic(
    "dead-letters",
    ("planner", "aggregator", "worker", "evaluator", "operator"),
    ("operator",),
    (m.DeadLetter,),
    "none",
    7 * DAY_S,
    about="Records that a reader could not read.",
)
CATALOGUE: tuple[Topic, ...] = (
    FLEET,
    HEARTBEATS,
    DECISIONS,
    MODELS,
    SUBMODELS,
    UPDATES,
    CHECKPOINTS,
    SNAPSHOTS,
    DEAD_LETTERS,
)


def specs(prefix: str, partitions: int) -> list[TopicSpec]:
    """Specifications of all topics of a run; `partitions` is the number of each blob topic."""
    return [
        TopicSpec(
            t.full_name(prefix),
            partitions if t.partitioned else 1,
            RECORD_BYTES_MAX,
            t.retention_s,
            bulk=t.partitioned,
            compacted=t.compacted,
        )
        for t in CATALOGUE
    ]


def partition_of(writer_id: str, partitions: int) -> int:
    """The partition of a blob topic that holds a writer's blobs."""
    return crc32(writer_id.encode()) % partitions
