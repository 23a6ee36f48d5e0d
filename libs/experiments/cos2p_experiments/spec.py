"""What determines a cell, and what its names stand for.

Invariant: two cells of one seed and setting differ in what their policies say, and in nothing else:
same split, same initial weights, same devices.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cos2p.model.cost import CostModel
from cos2p.run_config import RunConfig
from cos2p_experiments.fleets import Member, Scale, fleet_named, members
from cos2p_experiments.retention import Keep
from cos2p_planner.presets import config_of, merged, with_changes
from cos2p_worker.task import Part, Task, load_task

LASTING: Mapping[str, Any] = {
    "rounds": {"versions": 1_000_000},
    "liveness": {"stall_after_s": 3600.0},
}
"""What a run with a horizon needs: time ends it, not its versions, and slow rounds are no stall."""


@dataclass(frozen=True)
class CellSpec:
    """What determines a cell, and where its run file may lie.

    Attributes:
        suite: its name.
        task: short name or module:attribute.
        setting: label.
        policy: label.
        base_policy: registered policy.
        seed: of split, weights, devices, plans.
        fleet: name.
        alpha: of the split of labels; None is the task's own, infinity even.
        run: settings of suite and setting: over the task's, under the policy's preset.
        changes: settings of this form of the policy: over its preset.
        horizon_s: virtual seconds; None where the run's versions end it.
        evaluate_every_s: virtual seconds between evaluations, of the newest version then; 0 judges
            every checkpoint.
        evaluate_on: which data.
        evaluate_count: samples of them, at even distances; None for all.
        scale: to virtual seconds.
        keep: blobs in the run file (no part of what determines the cell).
        data_dir: the task's data (likewise).
    """

    suite: str
    task: str
    setting: str
    policy: str
    base_policy: str
    seed: int
    fleet: str = "jetson16"
    alpha: float | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    horizon_s: float | None = None
    evaluate_every_s: float = 0.0
    evaluate_on: Part = "test"
    evaluate_count: int | None = None
    scale: Scale = field(default_factory=Scale)
    keep: Keep = "tail"
    data_dir: Path | None = None

    @property
    def digest(self) -> str:
        """Of everything that determines the cell, labels included."""
        body = asdict(self)
        del body["keep"], body["data_dir"]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def key(self) -> str:
        """The cell's folder: readable, and another one for any other spec."""
        return f"{self.setting}--{self.policy}--s{self.seed}--{self.digest[:8]}"


@dataclass(frozen=True)
class Ready:
    """A spec with everything that its names stand for.

    Attributes:
        task: with the model that the settings ask for.
        config: the run's settings.
        fleet: scaled by the task's own settings with the suite's, so the same for every policy.
    """

    task: Task
    config: RunConfig
    fleet: tuple[Member, ...]


def prepare(spec: CellSpec) -> Ready:
    """Load the task, lay the settings over each other, scale the fleet.

    Raises:
        SettingsError: a name or value of the spec that is wrong.
    """
    loaded = load_task(spec.task)
    plan = fleet_named(spec.fleet)
    base = _base(spec, loaded)
    config = settings_of(spec)
    task = loaded.at(spec.data_dir, spec.seed, alpha=spec.alpha, part=spec.evaluate_on)
    if spec.evaluate_count is not None:
        task = _thinned(task, spec.evaluate_count)
    fleet = members(
        plan,
        CostModel.of(task.units, base),
        spec.scale,
        seed=spec.seed,
        margin=base.plans.memory_margin,
    )
    return Ready(task.for_run(config), config, fleet)


def settings_of(spec: CellSpec) -> RunConfig:
    """The run's settings as they are today: a policy's own are no part of the spec's digest.

    Raises:
        SettingsError: a name or value of the spec that is wrong.
    """
    base = _base(spec, load_task(spec.task))
    return config_of(base, merged(spec.changes, {"policy": spec.base_policy}))


def _base(spec: CellSpec, loaded: Task) -> RunConfig:
    """The task's settings under the suite's, the same for every policy."""
    count = len(fleet_named(spec.fleet).boards)
    own: dict[str, Any] = {
        "seed": spec.seed,
        "liveness": {"min_workers": count},
        "partitions": count,
    }
    if spec.evaluate_every_s:  # or policies with few, long rounds would be judged by old versions
        own["merge"] = {"checkpoint_every": 1}
    if spec.horizon_s is not None:
        own = merged(merged(LASTING, own), {"rounds": {"horizon_s": spec.horizon_s}})
    return with_changes(loaded.run, merged(own, spec.run))


def _thinned(task: Task, count: int) -> Task:
    whole = task.evaluation
    return replace(task, evaluation=lambda place: whole(place).thinned(count))
