"""The specification of a cell, and the objects that its names stand for.

Invariant: two cells of one seed and setting differ only in their policies' settings. They have the
same split, the same initial weights and the same devices.
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
"""Settings of a run with a horizon: time ends it, not its versions. Slow rounds don't stall it."""


@dataclass(frozen=True)
class CellSpec:
    """Everything that determines a cell, plus what to keep and where the data lies.

    Attributes:
        task: the task's short name or module:attribute.
        setting: the setting's label.
        policy: the policy's label.
        base_policy: the name of the registered policy.
        seed: the seed of split, weights, devices and plans.
        alpha: Dirichlet alpha of the split of labels; None is the task's own, infinity is even.
        run: settings of suite and setting. They override the task's; the policy's preset
            overrides them.
        changes: settings of this form of the policy. They override its preset.
        horizon_s: virtual seconds of the run; None where its versions end it.
        evaluate_every_s: virtual seconds between evaluations of the newest version; 0 evaluates
            every checkpoint.
        evaluate_on: the part of the data to evaluate on.
        evaluate_count: the number of samples to evaluate on, at even distances; None for all.
        keep: which blobs stay in the run file. It does not determine the cell.
        data_dir: the folder of the task's data. It does not determine the cell.
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
        """The digest of everything that determines the cell, labels included."""
        body = asdict(self)
        del body["keep"], body["data_dir"]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def key(self) -> str:
        """The name of the cell's folder. It is readable and unique to this spec."""
        return f"{self.setting}--{self.policy}--s{self.seed}--{self.digest[:8]}"


@dataclass(frozen=True)
class Ready:
    """A spec with everything that its names stand for.

    The task has the model that the settings ask for. The fleet is the same for every policy.
    """

    task: Task
    config: RunConfig
    fleet: tuple[Member, ...]


def prepare(spec: CellSpec) -> Ready:
    """Load the task, merge the settings and scale the fleet.

    Raises:
        SettingsError: a name or value of the spec that is wrong.
    """
    base, config = _base(spec), settings_of(spec)
    task = load_task(spec.task).at(
        spec.data_dir, spec.seed, alpha=spec.alpha, part=spec.evaluate_on
    )
    if spec.evaluate_count is not None:
        task = _thinned(task, spec.evaluate_count)
    fleet = members(
        fleet_named(spec.fleet),
        CostModel.of(task.units, base),
        spec.scale,
        seed=spec.seed,
        margin=base.plans.memory_margin,
    )
    return Ready(task.for_run(config), config, fleet)


def settings_of(spec: CellSpec) -> RunConfig:
    """Return the run's settings by today's presets, which the spec's digest does not cover.

    Raises:
        SettingsError: a name or value of the spec that is wrong.
    """
    return config_of(_base(spec), merged(spec.changes, {"policy": spec.base_policy}))


def _base(spec: CellSpec) -> RunConfig:
    """Return the task's settings, overridden by the suite's. They are the same for every policy."""
    count = len(fleet_named(spec.fleet).boards)
    own: dict[str, Any] = {
        "seed": spec.seed,
        "liveness": {"min_workers": count},
        "partitions": count,
    }
    if spec.evaluate_every_s:  # else policies with few, long rounds would be judged by old versions
        own["merge"] = {"checkpoint_every": 1}
    if spec.horizon_s is not None:
        own = merged(merged(LASTING, own), {"rounds": {"horizon_s": spec.horizon_s}})
    return with_changes(load_task(spec.task).run, merged(own, spec.run))


def _thinned(task: Task, count: int) -> Task:
    whole = task.evaluation
    return replace(task, evaluation=lambda place: whole(place).thinned(count))
