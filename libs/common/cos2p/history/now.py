"""The current state of a run, computed from its records and newest heartbeats.

Invariants:
The functions are pure.
Only the newest heartbeat of each device is kept here, and it is not part of the state.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cos2p.history.curve import EvaluationRow
from cos2p.history.device import DeviceRow
from cos2p.history.state import HistoryState
from cos2p.history.version import VersionRow
from cos2p.log import messages as m
from cos2p.log.messages import Outcome
from cos2p.model.units import UnitTable
from cos2p.run_config import RunConfig

Phase = Literal["empty", "requested", "running", "ending", "finished"]
RECENT_VERSIONS = 8
"""Number of newest versions from which the ETA is extrapolated."""


@dataclass(frozen=True)
class Beat:
    """A heartbeat and the time at which it was appended."""

    message: m.Heartbeat
    at_s: float


class RunNow:
    """The questions that can be asked of a run."""

    def __init__(self, state: HistoryState) -> None:
        self.state = state
        self.table: UnitTable | None = None
        """The model's units; None before the run is known."""
        self.beats: dict[str, Beat] = {}
        """The newest heartbeat of each device."""

    @property
    def run_id(self) -> str:
        """The run's name; empty before the first record."""
        return self.state.run_id

    @property
    def task(self) -> str:
        """module:attribute of the task that the workers load."""
        return self.state.task

    @property
    def config(self) -> RunConfig:
        """The run's settings."""
        return self.state.config

    @property
    def phase(self) -> Phase:
        """The run's phase."""
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
        """Why the run ended, as one word; empty before the end."""
        return self.state.end.reason if self.state.end else ""

    @property
    def end_detail(self) -> str:
        """Why the run ended, as a text for people; empty before the end."""
        return self.state.end.detail if self.state.end else ""

    # ------------------------------------------------------------ versions

    @property
    def versions(self) -> list[VersionRow]:
        """Rows of the closed versions that are kept, oldest first."""
        return list(self.state.rows.values())

    @property
    def newest(self) -> VersionRow | None:
        """The newest version's row; None before the first."""
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
    def accuracy(self) -> list[EvaluationRow]:
        """Verdicts, oldest version first; thinned unless all rows are kept."""
        return self.state.curve.points

    def exits(self, verdict: EvaluationRow) -> list[tuple[str, float]]:
        """Name and accuracy of each inner exit and of the mean of all heads."""
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
        """Merged updates per unit and kept version, shape (units, versions)."""
        rows = self.versions
        if not rows:
            return np.zeros((0 if self.table is None else len(self.table), 0), np.int16)
        return np.stack([row.counts for row in rows], axis=1)

    # ------------------------------------------------------------ plans

    @property
    def plan_count(self) -> int:
        """Number of plans issued so far."""
        return sum(d.plan_count for d in self.devices.values())

    @property
    def plans_open(self) -> int:
        """Number of plans that were issued and have not ended."""
        return sum(not row.ended for row in self.state.plans.values())

    @property
    def outcomes(self) -> Counter[Outcome]:
        """Number of ended plans and surplus reports by outcome, over all devices."""
        total: Counter[Outcome] = Counter()
        for device in self.devices.values():
            total.update(device.outcomes)
        return total

    def staleness_of(self, device: DeviceRow) -> int | None:
        """How many versions the base of the device's plan is behind; None without a plan."""
        row = self.state.plans.get(device.plan_id or "")
        return None if row is None else max(0, self.version - row.base_version)

    # ------------------------------------------------------------ devices

    @property
    def devices(self) -> dict[str, DeviceRow]:
        """Rows of devices by worker id, in natural order."""
        return self.state.devices

    def seen_s(self, device: DeviceRow) -> float:
        """Time of the device's newest record or heartbeat; 0 if there is none."""
        beat = self.beats.get(device.worker_id)
        return max(device.heard_s or 0.0, beat.at_s if beat else 0.0)

    def beat_of(self, device: DeviceRow) -> Beat | None:
        """The device's newest heartbeat, if it describes the current work; else None."""
        beat = self.beats.get(device.worker_id)
        if beat is None or beat.message.incarnation < device.incarnation:
            return None
        return beat if beat.at_s >= device.settled_s else None

    def is_there(self, device: DeviceRow, now_s: float) -> bool:
        """Whether the device has sent a record recently enough, and has not left."""
        return not device.left and now_s - self.seen_s(device) < self.config.liveness.lost_after_s

    def state_of(self, device: DeviceRow, now_s: float) -> str:
        """What the device does, in one word.

        `lost`: it has been silent for too long. `planned`: it has not begun with its plan.
        `excluded`: the planner gives it no plans, and its last plan has ended.
        """
        beat = self.beat_of(device)
        if device.left:
            return "left"
        if device.heard_s is None and beat is None:
            return "unknown"
        if self.horizon_s(now_s) - self.seen_s(device) > self.config.liveness.lost_after_s:
            return "lost"
        activity = "idle" if beat is None else beat.message.state
        if device.plan_id is None:
            return "excluded" if device.excluded else activity
        return "planned" if activity == "idle" else activity

    # ------------------------------------------------------------ time

    @property
    def last_s(self) -> float:
        """The newest time of any record or heartbeat."""
        return max([self.state.last_s, *(beat.at_s for beat in self.beats.values())])

    def horizon_s(self, now_s: float) -> float:
        """The time up to which silence is measured: no device is lost after the run's end."""
        return self.last_s if self.over else now_s

    @property
    def elapsed_s(self) -> float:
        """Seconds from the run's start to its end, or to the newest record."""
        state = self.state
        if state.started_s is None:
            return 0.0
        return max(0.0, (state.end.at_s if state.end else self.last_s) - state.started_s)

    def eta_s(self, now_s: float) -> float | None:
        """Seconds to the target at the pace of the newest versions; None if unknown."""
        recent = self.versions[-RECENT_VERSIONS - 1 :]
        if self.phase != "running" or len(recent) < 2:
            return None
        pace = (recent[-1].closed_s - recent[0].closed_s) / (len(recent) - 1)
        waited = max(0.0, now_s - recent[-1].closed_s)
        return max(0.0, pace * (self.target - self.version) - min(waited, pace))
