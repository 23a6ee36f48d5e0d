"""Folds a cell's log into its result: the run's history, and figures that only experiments need.

Invariants: the only input is messages and their times. A device counts as busy from a plan's
dispatch to its report. Without a report, the device's next plan or the run's end voids the plan.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cos2p.history.device import DeviceRow, natural
from cos2p.history.run import RunHistory
from cos2p.history.state import Span
from cos2p.log import messages as m
from cos2p.log.mailbox import Letter
from cos2p_experiments.result import CellDevice, CoverageMap, CurvePoint

COVERAGE_BINS = 40


class Fold:
    """The fold of a cell's log. `take` adds records; the other methods return parts of a result.

    Args:
        start_s: the time of the run's request. All times count from it.

    Attributes:
        run: the run's history.
    """

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self.run = RunHistory(rows_max=None)
        self._open: dict[str, tuple[str, float]] = {}  # the dispatched plan of each device, when
        self._lost: list[Span] = []
        self._spent: dict[int, dict[str, Any]] = {}  # until a version was first published

    def take(self, letter: Letter) -> None:
        """Fold the next record of a topic."""
        message, now = letter.message, letter.timestamp_s - self._start_s
        if isinstance(message, m.Decision):
            message = message.model_copy(update={"at_s": message.at_s - self._start_s})
        self.run.take(replace(letter, timestamp_s=now, message=message))
        match message:
            case m.Dispatched():
                self._dispatched(message.plan, now)
            case m.Report():
                self._open.pop(message.worker_id, None)
            case m.VersionPublished() if message.version not in self._spent:
                rows = self.run.devices.values()
                self._spent[message.version] = {
                    "virtual_s": now,
                    "bytes_up": sum(row.bytes_up for row in rows),
                    "bytes_down": sum(row.bytes_down for row in rows),
                    "device_s": sum(row.busy_s for row in rows) + _seconds(self._lost),
                }
            case m.RunEnded():
                for worker_id in list(self._open):
                    self._void(worker_id, now)
            case _:
                pass

    def _dispatched(self, plan: m.Plan, now: float) -> None:
        plan_id, _ = self._open.get(plan.worker_id, (plan.plan_id, now))
        if plan_id != plan.plan_id:
            self._void(plan.worker_id, now)
        if self.run.state.end is None:
            self._open.setdefault(plan.worker_id, (plan.plan_id, now))

    def _void(self, worker_id: str, now: float) -> None:
        _, since_s = self._open.pop(worker_id)
        self._lost.append(Span(worker_id, "train", since_s, now))

    # ------------------------------------------------------------ the result

    def curve(self) -> tuple[CurvePoint, ...]:
        """Return the evaluated versions, ascending."""
        judged = self.run.accuracy
        return tuple(CurvePoint(**vars(v), **self._spent[v.version]) for v in judged)

    def segments(self) -> tuple[Span, ...]:
        """Return the spans of work, sorted by device and time."""
        spans = [s for s in self.run.state.spans if s.activity != "idle"] + self._lost
        rounded = (
            Span(s.worker_id, s.activity, round(s.start_s, 3), round(s.end_s, 3))
            for s in spans
            if s.end_s > s.start_s
        )
        return tuple(sorted(rounded, key=lambda s: (natural(s.worker_id), s.start_s, s.end_s)))

    def devices(self, budgets: Mapping[str, float]) -> tuple[CellDevice, ...]:
        """Return a row per device, in natural order. `budgets` are their r, by worker id."""
        return tuple(self._device(r, budgets[r.worker_id]) for r in self.run.devices.values())

    def _device(self, row: DeviceRow, budget: float) -> CellDevice:
        assert self.run.state.end is not None
        lost_s = _seconds(s for s in self._lost if s.worker_id == row.worker_id)
        device = CellDevice(**vars(row), budget=budget, lost_s=lost_s)
        device.idle_s = max(0.0, self.run.state.end.at_s - device.busy_s)
        return device

    def coverage(self) -> CoverageMap:
        """Return the merged updates per unit and bin of time."""
        table, ended = self.run.table, self.run.state.end
        assert table is not None
        assert ended is not None
        edges = np.linspace(0.0, max(ended.at_s, 1e-9), COVERAGE_BINS + 1)
        counts = np.zeros((len(table), COVERAGE_BINS), np.int64)
        for row in self.run.versions:
            place = int(np.searchsorted(edges, row.closed_s, "right")) - 1
            # A version that closes at the run's end lies on the last edge.
            counts[:, min(COVERAGE_BINS - 1, place)] += row.counts
        return CoverageMap(
            units=tuple(u.name for u in table.units),
            prunable=tuple(table.prunable.tolist()),
            edges_s=tuple(round(e, 6) for e in edges.tolist()),
            counts=tuple(map(tuple, counts.tolist())),
        )


def _seconds(spans: Iterable[Span]) -> float:
    return sum(s.end_s - s.start_s for s in spans)
