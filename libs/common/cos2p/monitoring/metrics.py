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
    about: str
    labels: tuple[str, ...] = ()
    kind: Kind = "gauge"

    @property
    def shown(self) -> str:
        """The name of the metric's samples."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


OF_SERVICES = (
    INFO := Metric(
        "cos2p_service_info", "1: which service, of which version.", ("role", "version")
    ),
    BLOCKED := Metric(
        "cos2p_service_blocked",
        "1 while the service can't make progress for this cause (bus, run), 0 after it.",
        ("cause",),
    ),
    BUS_BYTES := Metric(
        "cos2p_bus_bytes",
        "Bytes of keys and values read (in) and appended (out) by this process.",
        ("topic", "direction"),
        kind="counter",
    ),
    BUS_RECORDS := Metric(
        "cos2p_bus_records", "Records likewise.", ("topic", "direction"), kind="counter"
    ),
    BUS_ERRORS := Metric(
        "cos2p_bus_errors", "Calls of the bus that failed.", ("error",), kind="counter"
    ),
    REFUSED := Metric(
        "cos2p_records_refused",
        "Records that could not be read, or were not signed by the sender that they name.",
        ("topic",),
        kind="counter",
    ),
)
OF_RUNS = (  # shown by the planner
    VERSION := Metric("cos2p_run_version", "The newest version.", ("run_id",)),
    STALL := Metric(
        "cos2p_run_stall_ratio",
        "Time since the newest version over what one may take; from 1 on the planner is not ready.",
    ),
    ACCURACY := Metric(
        "cos2p_run_accuracy",
        "Accuracy of the newest version that was judged: average (published), raw, mean of exits.",
        ("model",),
    ),
    ROUNDS := Metric("cos2p_rounds", "Versions closed, by why.", ("reason",), kind="counter"),
    ROUND_SECONDS := Metric("cos2p_round_seconds", "From the version before to the newest one."),
    ROUND_UPDATES := Metric("cos2p_round_updates", "Updates in the newest version."),
    COVERAGE := Metric(
        "cos2p_coverage_updates",
        "N* over the window: merged (least updates of any prunable unit), bound (the fluid bound).",
        ("kind",),
    ),
    COVERAGE_PLANNED := Metric(
        "cos2p_coverage_devices", "N* planned: least devices that hold any prunable unit."
    ),
    COVERAGE_FLOOR := Metric(
        "cos2p_coverage_floor", "plans.coverage_floor; 0 where the run has none."
    ),
    COVERAGE_BLOCK := Metric(
        "cos2p_coverage_block_updates",
        "Least updates of any prunable unit of a block over the window.",
        ("block",),
    ),
    STALENESS := Metric(
        "cos2p_staleness_versions", "Versions that merged updates were late.", kind="histogram"
    ),
    LEFT_OUT := Metric(
        "cos2p_units_left_out",
        "Units of updates that failed the aggregator's checks.",
        kind="counter",
    ),
    PLANS_OPEN := Metric("cos2p_plans_open", "Plans issued and not ended."),
)
DEVICE = ("worker_id", "device_class")
DEVICE_FIGURES = {
    name: Metric(f"cos2p_device_{name}", f"{figure.about[0].upper()}{figure.about[1:]}.", DEVICE)
    for name, figure in figures_of(DeviceRow).items()
    if figure.metric
}
"""Figures of a device's row that are shown unchanged."""
OF_DEVICES = (  # shown by the planner
    DEVICE_THERE := Metric(
        "cos2p_device_present", "1 while the device is heard, 0 after it has left.", DEVICE
    ),
    DEVICE_USELESS := Metric(
        "cos2p_device_useful_age_seconds",
        "Seconds since an update of the device was last admitted, or since it came.",
        DEVICE,
    ),
    DEVICE_PLANS := Metric(
        "cos2p_device_plans",
        "Plans and surplus reports by outcome.",
        (*DEVICE, "outcome"),
        kind="counter",
    ),
    DEVICE_SECONDS := Metric(
        "cos2p_device_seconds",
        "What the device's time went into: fetch, train, upload, idle.",
        (*DEVICE, "activity"),
        kind="counter",
    ),
    DEVICE_PEAK := Metric(
        "cos2p_device_peak_bytes",
        "Largest peak of training memory: predicted by the planner, measured by the device.",
        (*DEVICE, "kind"),
    ),
    *DEVICE_FIGURES.values(),
)
METRICS = (*OF_SERVICES, *OF_RUNS, *OF_DEVICES)
