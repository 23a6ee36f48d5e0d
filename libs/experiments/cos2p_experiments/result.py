"""What one cell of an experiment found: the file `result.json` beside its run file.

Invariants: times are virtual seconds since the run was asked for (but for `Effort`), bytes are
payload bytes; the file is written whole or not at all, so its presence says that the cell is done.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter, ValidationError

from cos2p.errors import SettingsError
from cos2p.history.curve import Verdict
from cos2p.history.device import DeviceRow
from cos2p.history.state import Span
from cos2p.history.version import VersionRow, row_fields
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
class CurvePoint(Verdict):
    """The verdict on one version, and what had been spent when it was published.

    Attributes:
        virtual_s: when it was published.
        bytes_up: of updates that had been sent.
        bytes_down: of submodels that had been fetched.
        device_s: seconds that devices had been busy, summed over them, of plans that had ended.
    """

    virtual_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    device_s: float = 0.0


@dataclass
class CellDevice(DeviceRow):
    """One device over the whole run; idle_s is the rest: busy_s + idle_s is the run's length.

    Attributes:
        budget: r, the fraction of the prunable cost that it may hold.
        lost_s: seconds of plans that came to nothing, part of busy_s.
    """

    budget: float = 0.0
    lost_s: float = 0.0

    @property
    def busy_s(self) -> float:
        """Fetching, training and sending; plans that came to nothing are in it."""
        return self.fetch_s + self.train_s + self.upload_s + self.lost_s


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


Round = Annotated[VersionRow, BeforeValidator(row_fields), PlainSerializer(VersionRow.to_json)]


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
    rounds: tuple[Round, ...]
    devices: tuple[CellDevice, ...]
    segments: tuple[Span, ...]
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
