"""What one cell of an experiment found: the file `result.json` beside its run file.

Invariants: times are virtual seconds since the run was asked for (but for `Effort`), bytes are
payload bytes; the file is written whole or not at all, so its presence says that the cell is done.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from cos2p.errors import SettingsError
from cos2p.run_config import plain_validation

RESULT_FILE = "result.json"
RUN_FILE = "run.sqlite"


@dataclass(frozen=True)
class Identity:
    """Which cell this is, and what made it.

    Attributes:
        suite: name of the suite.
        task: short name or module:attribute.
        setting: label of the setting (split and fleet), as the suite names it.
        policy: label of the policy, as the suite names it.
        base_policy: the registered policy that it is a form of.
        seed: of split, weights, devices and plans.
        fleet: name of the fleet.
        evaluated_on: which data the accuracies are of.
        config_digest: of everything that determines the cell; the same digest, the same bytes.
        commit: of the program's sources; "unknown" outside a checkout, "+" where it was changed.
        machine: what computed it.
    """

    suite: str
    task: str
    setting: str
    policy: str
    base_policy: str
    seed: int
    fleet: str
    evaluated_on: Literal["validation", "test"]
    config_digest: str
    commit: str = "unknown"
    machine: str = "unknown"


@dataclass(frozen=True)
class Effort:
    """What the cell cost the machine that computed it: real seconds of this process."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    train_cpu_s: float = 0.0
    evaluate_cpu_s: float = 0.0


@dataclass(frozen=True)
class CurvePoint:
    """One evaluated version, and what had been spent when it was published.

    Attributes:
        bytes_up: of updates that had been sent.
        bytes_down: of submodels that had been fetched.
        device_s: seconds that devices had been busy, summed over them, of plans that had ended.
        accuracy: of the published model (average of versions); None for a task without classes.
        raw_accuracy: of the raw version.
        loss: mean, of the published model.
        exit_accuracies: of each inner exit, shallow first.
        mean_accuracy: of the mean of all exits' probabilities, the final head among them.
        plain_accuracy: of the published model with its units unscaled (evaluation.scaling).
        scaled_accuracy: the same with its units scaled by survival.
    """

    version: int
    virtual_s: float
    bytes_up: int
    bytes_down: int
    device_s: float
    accuracy: float | None
    raw_accuracy: float | None
    loss: float
    exit_accuracies: tuple[float, ...] = ()
    mean_accuracy: float | None = None
    plain_accuracy: float | None = None
    scaled_accuracy: float | None = None


@dataclass(frozen=True)
class RoundRow:
    """One closed version; all but `virtual_s` are as in `cos2p.version_row.VersionRow`.

    Attributes:
        virtual_s: when it was closed.
        staleness: how many of its updates were 0, 1, 2, ... versions late.
    """

    version: int
    virtual_s: float
    reason: str
    update_count: int
    waited_s: float
    coverage_min: int
    coverage_planned: int
    coverage_bound: float
    staleness: tuple[int, ...]
    staleness_mean: float
    devices_bound: int = 0
    coverage_low: int = 0
    coverage_gini: float = 0.0
    steps_min: int = 0
    steps_mean: float = 0.0
    steps_max: int = 0
    learning_rate: float = 0.0
    staleness_max: int = 0
    label_distance_mean: float | None = None
    label_distance_max: float | None = None
    step_norm: float | None = None
    model_norm: float | None = None
    delta_square: float | None = None
    dispersion: float | None = None
    gradient_proxy: float | None = None
    pruning_noise_mean: float | None = None
    pruning_noise_max: float | None = None


@dataclass(frozen=True)
class DeviceRow:
    """One device over the whole run.

    Attributes:
        memory_bytes: what training may use.
        budget: r, the fraction of the prunable cost that it may hold.
        predicted_peak: largest forecast of its plans, bytes.
        measured_peak: largest peak of live tensor bytes that its training reached.
        busy_s: fetching, training and sending; plans that came to nothing are in it.
        idle_s: the rest: busy_s + idle_s is the run's length.
        fetch_s: of busy_s, of plans reported; so are train_s, upload_s, bytes_up and bytes_down.
        outcomes: plans by outcome.
        label_counts: samples per label; None for a task without classes.
    """

    worker_id: str
    device_class: str
    memory_bytes: int
    budget: float
    flops_per_s: float
    bytes_per_s: float
    sample_count: int
    predicted_peak: int
    measured_peak: int
    busy_s: float
    idle_s: float
    fetch_s: float
    train_s: float
    upload_s: float
    bytes_up: int
    bytes_down: int
    outcomes: Mapping[str, int] = field(default_factory=dict)
    label_counts: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Segment:
    """One stretch of a device's work, for a Gantt chart."""

    worker_id: str
    start_s: float
    end_s: float
    kind: Literal["fetch", "train", "upload"]


@dataclass(frozen=True)
class CoverageMap:
    """Merged updates of each unit over the run, in bins of equal virtual time.

    Attributes:
        units: names, in the model's order.
        prunable: which of them can be left out of a submodel.
        edges_s: of the bins, one more than there are bins.
        counts: one row per unit, one column per bin.
    """

    units: tuple[str, ...]
    prunable: tuple[bool, ...]
    edges_s: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class CellResult:
    """All that a report needs of a cell.

    Attributes:
        config: the run's settings, as RunConfig gives them.
        horizon_s: virtual seconds after which the run was to end; None where versions ended it.
        ended_s: when it did end.
        end_reason: target, stopped, stalled or failed.
        end_detail: what was missing, where it stalled or failed.
        versions: the last one.
        parameters: of the whole model.
        curve: evaluated versions, ascending.
        rounds: closed versions, ascending.
        devices: by worker id.
        segments: by device and time.
    """

    identity: Identity
    config: Mapping[str, Any]
    horizon_s: float | None
    ended_s: float
    end_reason: str
    end_detail: str
    versions: int
    parameters: int
    curve: tuple[CurvePoint, ...]
    rounds: tuple[RoundRow, ...]
    devices: tuple[DeviceRow, ...]
    segments: tuple[Segment, ...]
    coverage: CoverageMap
    effort: Effort = Effort()

    @property
    def final(self) -> CurvePoint | None:
        """The last evaluated version."""
        return self.curve[-1] if self.curve else None

    def at(self, virtual_s: float) -> CurvePoint | None:
        """The newest version that had been evaluated by then; None before the first."""
        return next((p for p in reversed(self.curve) if p.virtual_s <= virtual_s), None)

    def time_to(self, accuracy: float) -> float | None:
        """When the published model first was at least so accurate; None where it never was."""
        hit = (p for p in self.curve if p.accuracy is not None and p.accuracy >= accuracy)
        return next((p.virtual_s for p in hit), None)

    @property
    def busy_share(self) -> float:
        """Share of all devices' time in which they worked, in [0, 1]."""
        busy = sum(d.busy_s for d in self.devices)
        whole = busy + sum(d.idle_s for d in self.devices)
        return busy / whole if whole else 0.0


_ADAPTER: TypeAdapter[CellResult] = TypeAdapter(CellResult)


def write_result(result: CellResult, folder: Path) -> Path:
    """Write `result.json` into a cell's folder, in one step; its path."""
    path = folder / RESULT_FILE
    unfinished = folder / f".{RESULT_FILE}.{os.getpid()}"
    unfinished.write_bytes(_ADAPTER.dump_json(result, indent=1))
    unfinished.replace(path)
    return path


def read_result(path: Path) -> CellResult:
    """A cell's result, from its file or from the folder that holds it.

    Raises:
        SettingsError: there is none, or it was written by another version of the program.
    """
    file = path / RESULT_FILE if path.is_dir() else path
    try:
        return _ADAPTER.validate_json(file.read_bytes())
    except OSError as error:
        raise SettingsError(f"can't read {file}: {error.strerror}") from error
    except ValidationError as error:
        found = plain_validation(error)[:300]
        raise SettingsError(
            f"{file} is not a cell's result as this program writes it ({found}): "
            "remove its folder and run the suite again"
        ) from error
