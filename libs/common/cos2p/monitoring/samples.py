"""The values of the metrics at one moment, as plain rows.

Invariants: pure functions of what was counted or folded; nothing is kept here, so a scrape costs
its own rows and no more; what is not known yet has no row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cos2p.device_tally import DeviceTally
from cos2p.monitoring import metrics as of
from cos2p.monitoring.metrics import Metric
from cos2p.telemetry import Telemetry
from cos2p.units import UnitTable
from cos2p.version_row import VersionRow

STALENESS_BOUNDS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Upper bounds of the histogram's buckets, in versions."""


@dataclass(frozen=True)
class Sample:
    """A metric's value under its labels.

    Attributes:
        metric: which.
        value: of it; of a histogram the sum.
        labels: values of the metric's labels, in order.
        buckets: of a histogram: (upper bound, how many were at most that), the last is infinite.
    """

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()
    buckets: tuple[tuple[str, float], ...] = ()


def run_samples(telemetry: Telemetry, run_id: str, now: float) -> Iterator[Sample]:
    """What the fold of a run's log says, of the run and of its devices.

    Args:
        telemetry: the fold.
        run_id: the run's name.
        now: the time of the bus's records, seconds.
    """
    if telemetry.table is None:
        return
    yield Sample(of.PLANS_OPEN, telemetry.plans_open)
    yield Sample(of.COVERAGE_FLOOR, telemetry.config.plans.coverage_floor)
    yield Sample(of.LEFT_OUT, telemetry.left_out_count)
    yield from (Sample(of.ROUNDS, n, (why,)) for why, n in sorted(telemetry.reasons.items()))
    yield _staleness(telemetry)
    yield from _accuracies(telemetry)
    if rows := telemetry.rows:
        yield from _newest(rows[-1], run_id)
        window = rows[-telemetry.config.rounds.coverage_window :]
        yield from _blocks(window, telemetry.table)
    for _, device in sorted(telemetry.devices.items()):
        yield from _device(device, now)


def _staleness(telemetry: Telemetry) -> Sample:
    late = telemetry.staleness
    within = [sum(n for tau, n in late.items() if tau <= most) for most in STALENESS_BOUNDS]
    bounds = [f"{bound:.1f}" for bound in STALENESS_BOUNDS]
    buckets = (*zip(bounds, within, strict=True), ("+Inf", late.total()))
    return Sample(of.STALENESS, sum(tau * n for tau, n in late.items()), buckets=buckets)


def _accuracies(telemetry: Telemetry) -> Iterator[Sample]:
    if not telemetry.accuracy:
        return
    newest = telemetry.accuracy[-1]
    for name, value in (("average", newest.average), ("raw", newest.raw), ("mean", newest.mean)):
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


def _device(device: DeviceTally, now: float) -> Iterator[Sample]:
    who = (device.worker_id, device.device_class)
    yield Sample(of.DEVICE_THERE, float(device.presence.at(now)), who)
    since = device.presence.begun_s if device.merged_s is None else device.merged_s
    if since is not None:
        yield Sample(of.DEVICE_USELESS, max(0.0, now - since), who)
    for outcome, count in sorted(device.outcomes.items()):
        yield Sample(of.DEVICE_PLANS, count, (*who, outcome.value))
    spent = {
        "fetch": device.fetch_s,
        "train": device.train_s,
        "upload": device.upload_s,
        "idle": device.idle_s,
    }
    yield from (Sample(of.DEVICE_SECONDS, value, (*who, name)) for name, value in spent.items())
    for kind, peak in (("predicted", device.peak_predicted), ("measured", device.peak_measured)):
        if peak:
            yield Sample(of.DEVICE_PEAK, peak, (*who, kind))
    if device.memory_bytes:
        yield Sample(of.DEVICE_MEMORY, device.memory_bytes, who)
