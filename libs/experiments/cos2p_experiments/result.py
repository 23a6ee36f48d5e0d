"""The result of one cell of an experiment: the file `result.json` next to its run file.

Invariants: times are virtual seconds since the run's request, except in `Effort`. Bytes are payload
bytes. The file is written whole or not at all, so its presence means that the cell is done.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter, ValidationError

from cos2p.errors import SettingsError
from cos2p.history.curve import EvaluationRow
from cos2p.history.device import DeviceRow
from cos2p.history.state import Span
from cos2p.history.version import VersionRow, row_fields
from cos2p.run_config import plain_validation

RESULT_FILE = "result.json"
RUN_FILE = "run.sqlite"


@dataclass(frozen=True)
class Identity:
    """The cell of a result, and the sources and machine that computed it.

    Attributes:
        setting: the suite's label of the setting (split and fleet).
        policy: the suite's label of the policy.
        base_policy: the registered policy that this policy is a form of.
        evaluated_on: the data on which the accuracies were measured.
        config_digest: the digest of everything that determines the cell. The same digest gives the
            same bytes.
        commit: the commit of the program's sources; "unknown" outside a checkout, with "+" where
            files were changed.
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
    """The cost of computing the cell, in real seconds of the process that computed it."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    train_cpu_s: float = 0.0
    evaluate_cpu_s: float = 0.0


@dataclass(frozen=True)
class CurvePoint(EvaluationRow):
    """The verdict on one version, with the time and bytes spent until it was published.

    Attributes:
        virtual_s: when the version was published.
        bytes_up: the bytes of updates sent until then.
        bytes_down: the bytes of submodels fetched until then.
        device_s: the busy seconds of all devices, of plans that had ended by then.
    """

    virtual_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    device_s: float = 0.0


@dataclass
class CellDevice(DeviceRow):
    """One device over the whole run. busy_s + idle_s is the run's length.

    Attributes:
        budget: r, the fraction of the prunable cost that the device may hold.
        lost_s: the seconds of plans that were never reported. They are part of busy_s.
    """

    budget: float = 0.0
    lost_s: float = 0.0

    @property
    def busy_s(self) -> float:
        """Seconds of fetching, training and sending, including plans that were never reported."""
        return self.fetch_s + self.train_s + self.upload_s + self.lost_s


@dataclass(frozen=True)
class CoverageMap:
    """Merged updates of each unit over the run, in bins of equal virtual time.

    Attributes:
        units: the units' names, in the model's order.
        prunable: whether each unit can be left out of a submodel.
        edges_s: the edges of the bins, one more than there are bins.
        counts: the merged updates, one row per unit, one column per bin.
    """

    units: tuple[str, ...]
    prunable: tuple[bool, ...]
    edges_s: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]


Round = Annotated[VersionRow, BeforeValidator(row_fields), PlainSerializer(VersionRow.to_json)]


@dataclass(frozen=True)
class CellResult:
    """All data of a cell that a report needs.

    Attributes:
        config: the run's settings, as RunConfig dumps them.
        horizon_s: virtual seconds after which the run had to end; None where versions ended it.
        end_reason: target, stopped, stalled or failed.
        end_detail: what was missing, if the run stalled or failed.
        versions: the number of the last version.
        parameters: the number of parameters of the whole model.
        curve: the evaluated versions, ascending.
        rounds: the closed versions, ascending.
        devices: the devices; their order is `cos2p.history.device.natural`.
        segments: the spans of work, sorted by device and time.
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
    rounds: tuple[Round, ...]
    devices: tuple[CellDevice, ...]
    segments: tuple[Span, ...]
    coverage: CoverageMap
    effort: Effort = Effort()

    @property
    def final(self) -> CurvePoint | None:
        """The last evaluated version."""
        return self.curve[-1] if self.curve else None

    @property
    def busy_share(self) -> float:
        """The share of all devices' time in which they worked, in [0, 1]."""
        busy = sum(d.busy_s for d in self.devices)
        whole = busy + sum(d.idle_s for d in self.devices)
        return busy / whole if whole else 0.0


_ADAPTER: TypeAdapter[CellResult] = TypeAdapter(CellResult)


def write_result(result: CellResult, folder: Path) -> Path:
    """Write `result.json` into a cell's folder in one step, and return its path."""
    path = folder / RESULT_FILE
    unfinished = folder / f".{RESULT_FILE}.{os.getpid()}"
    unfinished.write_bytes(_ADAPTER.dump_json(result, indent=1))
    unfinished.replace(path)
    return path


def read_result(folder: Path) -> CellResult:
    """Read the result in a cell's folder.

    Raises:
        SettingsError: the file is missing, or another version of the program wrote it.
    """
    file = folder / RESULT_FILE
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
