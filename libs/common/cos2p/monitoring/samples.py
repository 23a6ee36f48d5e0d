"""The values of the metrics at one moment, as plain rows.

Invariants:
The functions are pure, and their arguments are counters and folds.
Nothing is kept here, so a scrape costs only its own rows.
A value that is not known yet has no row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cos2p.history.device import DeviceRow
from cos2p.history.figure import value_of
from cos2p.history.run import RunHistory
from cos2p.history.version import VersionRow
from cos2p.model.units import UnitTable
from cos2p.monitoring import metrics as of
from cos2p.monitoring.metrics import Metric

STALENESS_BOUNDS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Upper bounds of the histogram's buckets, in versions."""


@dataclass(frozen=True)
class Sample:
    """A metric's value (the sum for a histogram) with its labels, in the metric's order.

    `buckets` are a histogram's pairs (upper bound, count up to it); the last bound is infinite.
    """

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()
    buckets: tuple[tuple[str, float], ...] = ()


def run_samples(run: RunHistory, now: float) -> Iterator[Sample]:
    """Give the samples of a run and its devices at a time on the clock of the bus's records."""
    if run.table is None:
        return
    yield from _stall(run, now)
    yield Sample(of.PLANS_OPEN, run.plans_open)
    yield Sample(of.COVERAGE_FLOOR, run.config.plans.coverage_floor)
    yield Sample(of.LEFT_OUT, run.state.left_out_count)
    yield from (Sample(of.ROUNDS, n, (why,)) for why, n in sorted(run.state.reasons.items()))
    yield _staleness(run)
    yield from _accuracies(run)
    if rows := run.versions:
        yield from _newest(rows[-1], run.run_id)
        yield from _blocks(rows[-run.config.rounds.coverage_window :], run.table)
    for device in run.devices.values():
        yield from _device(run, device, now)


def _stall(run: RunHistory, now: float) -> Iterator[Sample]:
    if run.phase == "running":
        since_s = run.newest.closed_s if run.newest else run.state.started_s or now
        yield Sample(of.STALL, max(0.0, now - since_s) / run.config.liveness.patience_s)


def _staleness(run: RunHistory) -> Sample:
    late = run.state.staleness
    within = [sum(n for tau, n in late.items() if tau <= most) for most in STALENESS_BOUNDS]
    bounds = [f"{bound:.1f}" for bound in STALENESS_BOUNDS]
    buckets = (*zip(bounds, within, strict=True), ("+Inf", late.total()))
    return Sample(of.STALENESS, sum(tau * n for tau, n in late.items()), buckets=buckets)


def _accuracies(run: RunHistory) -> Iterator[Sample]:
    if not run.accuracy:
        return
    newest = run.accuracy[-1]
    found = {
        "average": newest.accuracy,
        "raw": newest.raw_accuracy,
        "mean": newest.mean_accuracy,
    }
    for name, value in found.items():
        if value is not None:
            yield Sample(of.ACCURACY, value, (name,))


def _newest(row: VersionRow, run_id: str) -> Iterator[Sample]:
    yield Sample(of.VERSION, row.version, (run_id,))
    yield Sample(of.ROUND_SECONDS, row.waited_s)
    yield Sample(of.ROUND_UPDATES, row.update_count)
    yield Sample(of.COVERAGE, row.coverage_min, ("merged",))
    yield Sample(of.COVERAGE, row.coverage_bound, ("bound",))
    yield Sample(of.COVERAGE_PLANNED, row.coverage_planned)


def _blocks(window: Sequence[VersionRow], table: UnitTable) -> Iterator[Sample]:
    counts = np.stack([row.counts for row in window]).sum(axis=0, dtype=np.int64)
    for block in range(table.block_count):
        of_block = counts[table.prunable & (table.blocks == block)]
        if len(of_block):
            yield Sample(of.COVERAGE_BLOCK, int(of_block.min()), (str(block),))


def _device(run: RunHistory, device: DeviceRow, now: float) -> Iterator[Sample]:
    identity = (device.worker_id, device.device_class)
    yield Sample(of.DEVICE_THERE, float(run.is_there(device, now)), identity)
    since = device.came_s if device.merged_s is None else device.merged_s
    if since is not None:
        yield Sample(of.DEVICE_USELESS, max(0.0, now - since), identity)
    for outcome, count in sorted(device.outcomes.items()):
        yield Sample(of.DEVICE_PLANS, count, (*identity, outcome.value))
    spent = {
        "fetch": device.fetch_s,
        "train": device.train_s,
        "upload": device.upload_s,
        "idle": device.idle_s,
    }
    yield from (
        Sample(of.DEVICE_SECONDS, value, (*identity, name)) for name, value in spent.items()
    )
    peaks = {"predicted": device.peak_predicted_bytes, "measured": device.peak_measured_bytes}
    for kind, peak in peaks.items():
        if peak:
            yield Sample(of.DEVICE_PEAK, peak, (*identity, kind))
    for name, metric in of.DEVICE_FIGURES.items():
        yield Sample(metric, value_of(device, name, run.state.staleness), identity)
