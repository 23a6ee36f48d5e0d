"""The state of a history: what its snapshots hold.

Invariants:
Every field here is in snapshots without further code (`cos2p.log.state_codec`).
The state is a function of the records folded.
It does not depend on the order of the topics among each other.
Its size is bounded by devices, open plans and the rows kept.
It does not grow with the length of the log.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from cos2p.history.curve import Curve, EvaluationRow
from cos2p.history.device import DeviceRow
from cos2p.history.plan import PlanRow
from cos2p.history.version import Merged, VersionRow
from cos2p.log import messages as m
from cos2p.log.state_codec import Floats
from cos2p.model.unit_wire import UnitColumns
from cos2p.run_config import RunConfig

Activity = Literal["idle", "fetch", "train", "upload"]


@dataclass(frozen=True)
class Span:
    """One interval of one device's time."""

    worker_id: str
    activity: Activity
    start_s: float
    end_s: float


@dataclass
class HistoryState:
    """The state of a history.

    Attributes:
        run_id: the run's name; empty before the first record.
        task: module:attribute of the task that the workers load.
        epoch: epoch of the newest planner.
        requested: whether an operator has asked for the run.
        finished: whether the aggregator has written RunFinished.
        last_s: the newest time of any record.
        planner_s: when the planner decided last.
        aggregator_s: when the aggregator wrote last.
        closed: the newest version that was closed.
        published: the newest version that some shard has published.
        whole: the newest version that all shards have published.
        obeyed: the next decision that some shard may not have obeyed when it wrote `whole`.
        staleness: number of updates merged over the whole run, by staleness in versions.
        reasons: number of versions closed over the whole run, by reason.
        left_out_count: units of updates that failed the aggregator's checks, over the whole run.
        byte_counts: bytes of small records and of the blobs that they name, by the topic's name
            (the full name for blobs).
        devices: by worker id, in natural order.
        plans: by plan id, in the order of their issue.
        rows: by version, oldest first.
        early: verdicts on versions that the decisions read so far have not closed.
        open: updates admitted since the newest version.
        window: updates of the newest versions, oldest first.
        unpublished: updates of versions that not all shards have published.
        parts: by version and shard, for versions that are not whole.
        squares: squared norms of units in the versions that an update may be based on.
        spans: intervals of each device's time; only if all rows are kept.
    """

    run_id: str = ""
    task: str = ""
    config: RunConfig = field(default_factory=RunConfig)
    units: UnitColumns | None = None
    epoch: int = 0
    requested: bool = False
    started_s: float | None = None
    end: m.RunEnded | None = None
    finished: bool = False
    last_s: float = 0.0
    planner_s: float | None = None
    aggregator_s: float | None = None
    closed: int = 0
    published: int = -1
    whole: int = -1
    obeyed: int = 0
    staleness: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    left_out_count: int = 0
    byte_counts: dict[str, int] = field(default_factory=dict)
    devices: dict[str, DeviceRow] = field(default_factory=dict)
    plans: dict[str, PlanRow] = field(default_factory=dict)
    rows: dict[int, VersionRow] = field(default_factory=dict)
    curve: Curve = field(default_factory=Curve)
    early: dict[int, EvaluationRow] = field(default_factory=dict)
    open: list[Merged] = field(default_factory=list)
    window: list[list[Merged]] = field(default_factory=list)
    unpublished: dict[int, list[Merged]] = field(default_factory=dict)
    parts: dict[int, dict[int, m.VersionPublished]] = field(default_factory=dict)
    squares: dict[int, Floats] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
