"""All that a history knows of a run from its records: what a snapshot of it holds.

Invariants: a field here is in every snapshot without other code (`cos2p.log.state_codec`);
everything is a function of the records folded, whatever the order of the topics among each other;
its size is bounded by devices, open plans and the rows kept, not by the length of the log.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from cos2p.history.curve import Curve, Verdict
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
    """One stretch of one device's time."""

    worker_id: str
    activity: Activity
    start_s: float
    end_s: float


@dataclass
class HistoryState:
    """The state.

    Attributes:
        run_id: the run's name; empty before the first record.
        task: that the workers load.
        config: the run's settings.
        units: the model's units; None before the run is known.
        epoch: of the newest planner.
        requested: somebody has asked for the run.
        started_s: when it started.
        end: how it ended.
        finished: the aggregator has said so.
        last_s: the newest time of any record.
        planner_s: when the planner decided last.
        aggregator_s: when the aggregator wrote last.
        closed: the newest version that was closed.
        published: the newest version of which a shard wrote.
        whole: the newest version of which all shards wrote.
        obeyed: the next decision that some shard may not have obeyed when it wrote `whole`.
        staleness: updates merged over the whole run, by versions late.
        reasons: versions closed over the whole run, by why.
        left_out_count: units of updates that failed the aggregator's checks, over the whole run.
        byte_counts: of small records and of the blobs that they name, by the topic's name (blobs':
            its full one).
        devices: by worker id, in natural order.
        plans: rows of plans, in the order of their issue.
        rows: rows of versions, oldest first.
        curve: the evaluator's verdicts.
        early: verdicts on versions that the decisions read so far have not closed.
        open: updates admitted since the newest version.
        window: updates of the newest versions, oldest first.
        unpublished: updates of versions of which not all shards wrote.
        parts: what shards wrote of versions that are not whole.
        squares: squared norms of units, of the versions that an update may be based on.
        spans: what devices did when; only where all rows are kept.
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
    early: dict[int, Verdict] = field(default_factory=dict)
    open: list[Merged] = field(default_factory=list)
    window: list[list[Merged]] = field(default_factory=list)
    unpublished: dict[int, list[Merged]] = field(default_factory=dict)
    parts: dict[int, dict[int, m.VersionPublished]] = field(default_factory=dict)
    squares: dict[int, Floats] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
