"""The metrics that services show: a closed set of names, kinds, labels and meanings.

docs/metrics.md is generated from this list.

Invariants:
Every metric that a service shows is listed here.
Names follow Prometheus's rules (base units, counters end in _total).
"""

from dataclasses import dataclass
from typing import Literal

from cos2p.history.device import DeviceRow
from cos2p.history.figure import figures_of

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True)
class Metric:
    """One metric; a counter's name is without its _total."""

    name: str
    kind: Kind
    about: str
    labels: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The name of the metric's samples."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


# Metrics of every service.
INFO = Metric(
    "cos2p_service_info", "gauge", "1: which service, of which version.", ("role", "version")
)
BLOCKED = Metric(
    "cos2p_service_blocked",
    "gauge",
    "1 while the service can't make progress for this cause (bus, run), 0 after it.",
    ("cause",),
)
BUS_BYTES = Metric(
    "cos2p_bus_bytes",
    "counter",
    "Bytes of keys and values read (in) and appended (out) by this process.",
    ("topic", "direction"),
)
BUS_RECORDS = Metric("cos2p_bus_records", "counter", "Records likewise.", ("topic", "direction"))
BUS_ERRORS = Metric("cos2p_bus_errors", "counter", "Calls of the bus that failed.", ("error",))
REFUSED = Metric(
    "cos2p_records_refused",
    "counter",
    "Records that could not be read, or were not signed by whom they say.",
    ("topic",),
)

# Metrics of the run, shown by the planner.
VERSION = Metric("cos2p_run_version", "gauge", "The newest version.", ("run_id",))
STALL = Metric(
    "cos2p_run_stall_ratio",
    "gauge",
    "Time since the newest version over what one may take; from 1 on the planner is not ready.",
)
ACCURACY = Metric(
    "cos2p_run_accuracy",
    "gauge",
    "Accuracy of the newest version that was judged: average (published), raw, mean of exits.",
    ("model",),
)
ROUNDS = Metric("cos2p_rounds", "counter", "Versions closed, by why.", ("reason",))
ROUND_SECONDS = Metric("cos2p_round_seconds", "gauge", "From the version before to the newest one.")
ROUND_UPDATES = Metric("cos2p_round_updates", "gauge", "Updates in the newest version.")
COVERAGE = Metric(
    "cos2p_coverage_updates",
    "gauge",
    "N* over the window: merged (least updates of any prunable unit), bound (the fluid bound).",
    ("kind",),
)
COVERAGE_PLANNED = Metric(
    "cos2p_coverage_devices", "gauge", "N* planned: least devices that hold any prunable unit."
)
COVERAGE_FLOOR = Metric(
    "cos2p_coverage_floor", "gauge", "plans.coverage_floor; 0 where the run has none."
)
COVERAGE_BLOCK = Metric(
    "cos2p_coverage_block_updates",
    "gauge",
    "Least updates of any prunable unit of a block over the window.",
    ("block",),
)
STALENESS = Metric(
    "cos2p_staleness_versions", "histogram", "Versions that merged updates were late."
)
LEFT_OUT = Metric(
    "cos2p_units_left_out", "counter", "Units of updates that failed the aggregator's checks."
)
PLANS_OPEN = Metric("cos2p_plans_open", "gauge", "Plans issued and not ended.")

# Metrics of each device, shown by the planner.
DEVICE = ("worker_id", "device_class")
DEVICE_THERE = Metric(
    "cos2p_device_present", "gauge", "1 while the device is heard, 0 once it has gone.", DEVICE
)
DEVICE_USELESS = Metric(
    "cos2p_device_useful_age_seconds",
    "gauge",
    "Seconds since an update of the device was last admitted, or since it came.",
    DEVICE,
)
DEVICE_PLANS = Metric(
    "cos2p_device_plans", "counter", "Plans and surplus reports by outcome.", (*DEVICE, "outcome")
)
DEVICE_SECONDS = Metric(
    "cos2p_device_seconds",
    "counter",
    "What the device's time went into: fetch, train, upload, idle.",
    (*DEVICE, "activity"),
)
DEVICE_PEAK = Metric(
    "cos2p_device_peak_bytes",
    "gauge",
    "Largest peak of training memory: predicted by the planner, measured by the device.",
    (*DEVICE, "kind"),
)
DEVICE_FIGURES = {
    name: Metric(
        f"cos2p_device_{name}", "gauge", f"{figure.about[0].upper()}{figure.about[1:]}.", DEVICE
    )
    for name, figure in figures_of(DeviceRow).items()
    if figure.metric
}
"""Figures of a device's row that are shown unchanged."""

OF_SERVICES = (INFO, BLOCKED, BUS_BYTES, BUS_RECORDS, BUS_ERRORS, REFUSED)
OF_RUNS = (
    VERSION,
    STALL,
    ACCURACY,
    ROUNDS,
    ROUND_SECONDS,
    ROUND_UPDATES,
    COVERAGE,
    COVERAGE_PLANNED,
    COVERAGE_FLOOR,
    COVERAGE_BLOCK,
    STALENESS,
    LEFT_OUT,
    PLANS_OPEN,
)
OF_DEVICES = (
    DEVICE_THERE,
    DEVICE_USELESS,
    DEVICE_PLANS,
    DEVICE_SECONDS,
    DEVICE_PEAK,
    *DEVICE_FIGURES.values(),
)
METRICS = (*OF_SERVICES, *OF_RUNS, *OF_DEVICES)
