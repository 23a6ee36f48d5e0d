"""What a run is like now, read off its state and the newest heartbeats. Pure.

Invariant: nothing is kept here but the heartbeats, which are soft: of each device the newest.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cos2p.history.curve import Verdict
from cos2p.history.device import DeviceRow
from cos2p.history.state import HistoryState
from cos2p.history.version import VersionRow
from cos2p.log import messages as m
from cos2p.log.messages import Outcome
from cos2p.model.units import UnitTable
from cos2p.run_config import RunConfig

Phase = Literal["empty", "requested", "running", "ending", "finished"]
RECENT_VERSIONS = 8
"""The ETA is extrapolated from this many of the newest versions."""


@dataclass(frozen=True)
class Beat:
    """A heartbeat and when it was appended."""

    message: m.Heartbeat
    at_s: float


class RunNow:
    """What is asked of a run.

    Attributes:
        state: what is known from its records.
        table: the model's units; None before the run is known.
        beats: the newest heartbeat of each device.
    """

    def __init__(self, state: HistoryState) -> None:
        self.state = state
        self.table: UnitTable | None = None
        self.beats: dict[str, Beat] = {}

    @property
    def run_id(self) -> str:
        """The run's name; empty before the first record."""
        return self.state.run_id

    @property
    def task(self) -> str:
        """What the workers load."""
        return self.state.task

    @property
    def config(self) -> RunConfig:
        """The run's settings."""
        return self.state.config

    @property
    def phase(self) -> Phase:
        """How far it is."""
        state = self.state
        if state.finished:
            return "finished"
        if state.end is not None:
            return "ending"
        if state.started_s is not None:
            return "running"
        return "requested" if state.requested else "empty"

    @property
    def over(self) -> bool:
        """Whether nothing more is planned."""
        return self.phase in ("ending", "finished")

    @property
    def end_reason(self) -> str:
        """Why it ended; empty before that."""
        return self.state.end.reason if self.state.end else ""

    @property
    def end_detail(self) -> str:
        """The same, for a person."""
        return self.state.end.detail if self.state.end else ""

    # ------------------------------------------------------------ versions

    @property
    def versions(self) -> list[VersionRow]:
        """The versions closed, oldest first, as far as they are kept."""
        return list(self.state.rows.values())

    @property
    def newest(self) -> VersionRow | None:
        """The newest version's row."""
        return next(reversed(self.state.rows.values()), None)

    @property
    def version(self) -> int:
        """The newest closed version; 0 before the first."""
        return self.state.closed

    @property
    def target(self) -> int:
        """The version after which the run ends."""
        return self.config.rounds.versions

    @property
    def accuracy(self) -> list[Verdict]:
        """Verdicts, oldest version first; thinned where not all rows are kept."""
        return self.state.curve.points

    def exits(self, verdict: Verdict) -> list[tuple[str, float]]:
        """Accuracy of each inner exit and of the mean of all heads, with its name."""
        if self.table is None or not verdict.exit_accuracies:
            return []
        blocks = self.table.block_count
        rows = [
            (f"exit after {block + 1} of {blocks} blocks", accuracy)
            for block, accuracy in zip(self.table.exits, verdict.exit_accuracies, strict=False)
        ]
        mean = verdict.mean_accuracy
        return rows if mean is None else [*rows, ("mean of all heads", mean)]

    def coverage(self) -> NDArray[np.int16]:
        """Merged updates per unit and version kept, shape (units, versions)."""
        rows = self.versions
        if not rows:
            return np.zeros((0 if self.table is None else len(self.table), 0), np.int16)
        return np.stack([row.counts for row in rows], axis=1)

    # ------------------------------------------------------------ plans

    @property
    def plan_count(self) -> int:
        """Plans issued so far."""
        return sum(d.plan_count for d in self.devices.values())

    @property
    def plans_open(self) -> int:
        """Plans issued and not ended."""
        return sum(not row.ended for row in self.state.plans.values())

    @property
    def outcomes(self) -> Counter[Outcome]:
        """Ends of plans and surplus reports, over all devices."""
        total: Counter[Outcome] = Counter()
        for device in self.devices.values():
            total.update(device.outcomes)
        return total

    def staleness_of(self, device: DeviceRow) -> int | None:
        """How many versions its plan's base is behind now; None without a plan."""
        row = self.state.plans.get(device.plan_id or "")
        return None if row is None else max(0, self.version - row.base_version)

    # ------------------------------------------------------------ devices

    @property
    def devices(self) -> dict[str, DeviceRow]:
        """By worker id, in natural order."""
        return self.state.devices

    def seen_s(self, device: DeviceRow) -> float:
        """When it was heard last, in any way; 0 for never."""
        beat = self.beats.get(device.worker_id)
        return max(device.heard_s or 0.0, beat.at_s if beat else 0.0)

    def beat_of(self, device: DeviceRow) -> Beat | None:
        """Its newest heartbeat, where that is about what it does now."""
        beat = self.beats.get(device.worker_id)
        if beat is None or beat.message.incarnation < device.incarnation:
            return None
        return beat if beat.at_s >= device.settled_s else None

    def is_there(self, device: DeviceRow, now_s: float) -> bool:
        """Whether it was heard of late enough, and has not left."""
        return not device.left and now_s - self.seen_s(device) < self.config.liveness.lost_after_s

    def state_of(self, device: DeviceRow, now_s: float) -> str:
        """What it does, in a word.

        `lost` where it has been silent for too long, `planned` before it begins with its plan;
        `excluded` where the planner gives it no plans, once it has none any more.
        """
        beat = self.beat_of(device)
        if device.left:
            return "left"
        if device.heard_s is None and beat is None:
            return "unknown"
        if self.horizon_s(now_s) - self.seen_s(device) > self.config.liveness.lost_after_s:
            return "lost"
        doing = "idle" if beat is None else beat.message.state
        if device.plan_id is None:
            return "excluded" if device.excluded else doing
        return "planned" if doing == "idle" else doing

    # ------------------------------------------------------------ time

    @property
    def last_s(self) -> float:
        """The newest time of any record."""
        return max([self.state.last_s, *(beat.at_s for beat in self.beats.values())])

    def horizon_s(self, now_s: float) -> float:
        """The time against which silence is judged: no device is lost after the end."""
        return self.last_s if self.over else now_s

    @property
    def elapsed_s(self) -> float:
        """Seconds from the run's start to its end, or to the newest record."""
        state = self.state
        if state.started_s is None:
            return 0.0
        return max(0.0, (state.end.at_s if state.end else self.last_s) - state.started_s)

    def eta_s(self, now_s: float) -> float | None:
        """Seconds to the target at the pace of the newest versions; None while unknown."""
        recent = self.versions[-RECENT_VERSIONS - 1 :]
        if self.phase != "running" or len(recent) < 2:
            return None
        pace = (recent[-1].closed_s - recent[0].closed_s) / (len(recent) - 1)
        waited = max(0.0, now_s - recent[-1].closed_s)
        return max(0.0, pace * (self.target - self.version) - min(waited, pace))
