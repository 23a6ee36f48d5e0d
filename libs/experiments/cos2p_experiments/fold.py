"""From a cell's log to its result: the run's telemetry, and what only experiments ask for.

Invariants: nothing but messages and their times goes in; a device counts as busy from a plan's
dispatch to its report, or to whatever voided it: the device's next plan, or the run's end.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from cos2p import messages as m
from cos2p.device_tally import DeviceTally
from cos2p.telemetry import Telemetry
from cos2p.units import UnitTable
from cos2p.version_row import VersionRow
from cos2p_experiments.result import CoverageMap, CurvePoint, DeviceRow, RoundRow, Segment

COVERAGE_BINS = 40
TOLD_OF_A_ROUND = tuple(f.name for f in fields(RoundRow) if f.name != "virtual_s")

Kind = Literal["fetch", "train", "upload"]


@dataclass(frozen=True)
class Spent:
    """What had been spent when a version was published first."""

    virtual_s: float
    bytes_up: int
    bytes_down: int
    device_s: float


@dataclass(frozen=True)
class Work:
    """A plan whose weights were dispatched and that was not reported."""

    plan_id: str
    since_s: float


class Fold:
    """Feed it with `take`; then ask for the parts of a result.

    Args:
        start_s: time of the run's request; everything is counted from it.
    """

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self._told = Telemetry()
        self.ended: m.RunEnded | None = None
        self.ended_s = 0.0
        self._work: dict[str, Work] = {}
        self._lost_s: dict[str, float] = defaultdict(float)
        self._segments: list[Segment] = []
        self._spent: dict[int, Spent] = {}

    @property
    def table(self) -> UnitTable | None:
        """The model's units; None before the run has started."""
        return self._told.table

    def take(self, message: m.Message, at_s: float) -> None:
        """The next message, appended at `at_s`."""
        now = at_s - self._start_s
        self._told.take(message, now)
        match message:
            case m.Dispatched():
                self._dispatched(message.plan, now)
            case m.Report():
                self._reported(message, now)
            case m.VersionPublished() if message.version not in self._spent:
                self._spent[message.version] = self._so_far(now)
            case m.RunEnded():
                self.ended, self.ended_s = message, now
                for worker_id in list(self._work):
                    self._void(worker_id, now)
            case _:
                pass

    def _so_far(self, now: float) -> Spent:
        tallies = self._told.devices.values()
        return Spent(
            now,
            sum(t.bytes_up for t in tallies),
            sum(t.bytes_down for t in tallies),
            sum(t.busy_s for t in tallies) + sum(self._lost_s.values()),
        )

    def _dispatched(self, plan: m.Plan, now: float) -> None:
        work = self._work.get(plan.worker_id)
        if work is not None and work.plan_id != plan.plan_id:
            self._void(plan.worker_id, now)
        if self.ended is None:
            self._work.setdefault(plan.worker_id, Work(plan.plan_id, now))

    def _void(self, worker_id: str, now: float) -> None:
        work = self._work.pop(worker_id)
        self._lost_s[worker_id] += now - work.since_s
        self._note(worker_id, work.since_s, now, "train")

    def _reported(self, report: m.Report, now: float) -> None:
        self._work.pop(report.worker_id, None)
        trained_s = now - report.upload_s
        fetched_s = trained_s - report.train_s
        self._note(report.worker_id, fetched_s - report.fetch_s, fetched_s, "fetch")
        self._note(report.worker_id, fetched_s, trained_s, "train")
        self._note(report.worker_id, trained_s, now, "upload")

    def _note(self, worker_id: str, start: float, end: float, kind: Kind) -> None:
        if end > start:
            self._segments.append(Segment(worker_id, round(start, 3), round(end, 3), kind))

    # ------------------------------------------------------------ what came of it

    def curve(self) -> tuple[CurvePoint, ...]:
        """The evaluated versions, ascending."""
        return tuple(
            CurvePoint(
                version=point.version,
                virtual_s=spent.virtual_s,
                bytes_up=spent.bytes_up,
                bytes_down=spent.bytes_down,
                device_s=spent.device_s,
                accuracy=point.average,
                raw_accuracy=point.raw,
                loss=point.loss,
                exit_accuracies=point.exits,
                mean_accuracy=point.mean,
                plain_accuracy=point.plain,
                scaled_accuracy=point.scaled,
            )
            for point in self._told.accuracy
            for spent in [self._spent[point.version]]
        )

    def rounds(self) -> tuple[RoundRow, ...]:
        """The closed versions, ascending."""
        return tuple(_round(row) for row in self._told.rows)

    def segments(self) -> tuple[Segment, ...]:
        """What each device did when, by device and time."""
        return tuple(sorted(self._segments, key=lambda s: (s.worker_id, s.start_s)))

    def devices(self, budgets: Mapping[str, float]) -> tuple[DeviceRow, ...]:
        """A row per device, by name.

        Args:
            budgets: r of each, by worker id.
        """
        tallies = self._told.devices
        return tuple(self._device(tallies[name], budgets[name]) for name in sorted(tallies))

    def _device(self, tally: DeviceTally, budget: float) -> DeviceRow:
        busy_s = tally.busy_s + self._lost_s[tally.worker_id]
        return DeviceRow(
            worker_id=tally.worker_id,
            device_class=tally.device_class,
            memory_bytes=tally.memory_bytes,
            budget=budget,
            flops_per_s=tally.flops_per_s,
            bytes_per_s=tally.bytes_per_s,
            sample_count=tally.sample_count,
            predicted_peak=tally.peak_predicted,
            measured_peak=tally.peak_measured,
            busy_s=busy_s,
            idle_s=max(0.0, self.ended_s - busy_s),
            fetch_s=tally.fetch_s,
            train_s=tally.train_s,
            upload_s=tally.upload_s,
            bytes_up=tally.bytes_up,
            bytes_down=tally.bytes_down,
            outcomes={outcome.value: n for outcome, n in sorted(tally.outcomes.items())},
            label_counts=tally.label_counts,
        )

    def coverage(self) -> CoverageMap:
        """Merged updates per unit and bin of time."""
        assert self.table is not None
        edges = np.linspace(0.0, max(self.ended_s, 1e-9), COVERAGE_BINS + 1)
        counts = np.zeros((len(self.table), COVERAGE_BINS), np.int64)
        for row in self._told.rows:
            place = int(np.searchsorted(edges, row.closed_s, "right")) - 1
            counts[:, min(COVERAGE_BINS - 1, place)] += row.counts
        return CoverageMap(
            units=tuple(u.name for u in self.table.units),
            prunable=tuple(bool(p) for p in self.table.prunable),
            edges_s=tuple(round(float(e), 6) for e in edges),
            counts=tuple(tuple(int(n) for n in row) for row in counts),
        )


def _round(row: VersionRow) -> RoundRow:
    return RoundRow(virtual_s=row.closed_s, **{n: getattr(row, n) for n in TOLD_OF_A_ROUND})
