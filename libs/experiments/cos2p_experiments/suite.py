"""A suite of cells: a small TOML file, and the cells that it asks for.

Invariants: the cells are a function of the file alone. They come seed by seed, so an interrupted
suite compares all policies on the seeds that it has.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from cos2p.errors import SettingsError
from cos2p.run_config import Section, read_toml
from cos2p_experiments.fleets import Scale
from cos2p_experiments.retention import Keep
from cos2p_experiments.spec import CellSpec, prepare
from cos2p_planner.presets import merged
from cos2p_worker.task import Part

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=+,-]{0,100}$")]
"""The name of a setting or a policy in tables. It is part of the cell's folder name."""
Sections = dict[str, Any]
"""Settings of a run, in sections as in a run file."""


class SettingPart(Section):
    """A setting in which the policies are compared."""

    task: str | None = None
    """The task; None is the suite's."""
    fleet: str = "jetson16"
    alpha: float | None = Field(None, gt=0)
    """Dirichlet alpha of the split of labels; inf is even, None is the task's own."""
    horizon_s: float | None = Field(None, gt=0)
    """Virtual seconds of a cell; None is the suite's."""
    horizons: tuple[float, ...] = ()
    """Early, middle and late horizon for the report, in virtual seconds."""
    run: Sections = Field(default_factory=dict)

    @field_validator("horizons")
    @classmethod
    def _ascending(cls, times: tuple[float, ...]) -> tuple[float, ...]:
        if times and (len(times) != 3 or list(times) != sorted(set(times))):
            raise ValueError("must be three times in seconds, ascending (early, middle, late)")
        return times


class PolicyPart(Section):
    """A form of a registered policy."""

    policy: str | None = None
    """The registered name of the policy; None is the label."""
    run: Sections = Field(default_factory=dict)
    """Settings that override the policy's preset."""
    settings: dict[Label, Sections] = Field(default_factory=dict)
    """Settings that override `run`, by setting: the values tuned for that setting."""
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Dotted names of settings with their values. Each combination makes one form."""


class QuickPart(Section):
    """Replacements that `--quick` uses; None keeps the suite's value."""

    seeds: tuple[int, ...] | None = None
    settings: tuple[Label, ...] | None = None
    policies: tuple[Label, ...] | None = None
    horizon_s: float | None = Field(None, gt=0)
    evaluate_every_s: float | None = Field(None, ge=0)
    evaluate_count: int | None = Field(None, ge=1)


class Suite(Section):
    """A suite file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,60}$")]
    kind: Literal["comparison", "ablation", "rate"] = "comparison"
    """The kind of report."""
    task: str = "digits"
    settings: dict[Label, SettingPart]
    policies: dict[Label, PolicyPart]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    horizon_s: float | None = Field(None, gt=0)
    """Virtual seconds of a cell; None runs until the settings' number of versions."""
    evaluate_every_s: float = Field(0.0, ge=0)
    """Virtual seconds between evaluations; 0 evaluates every checkpoint."""
    evaluate_on: Part = "test"
    """The data to evaluate on: the validation part for every choice, the test part for results."""
    evaluate_count: int | None = Field(None, ge=1)
    """The number of samples to evaluate on, at even distances; None for all."""
    keep: Keep = "tail"
    scale: Scale = Scale()
    run: Sections = Field(default_factory=dict)
    """Settings of all cells. They override the task's; the policies' presets override them."""
    ours: str = "co-s2p"
    """The label of the policy whose goals the report checks."""
    opponent: str | None = None
    """The label of the policy that every other one is compared with."""
    reference: str | None = None
    """Of an ablation: the form from which each other form differs in one setting."""
    tuning: str = ""
    """How settings were chosen, in words."""
    quick: QuickPart | None = None

    def quick_version(self) -> "Suite":
        """Return the reduced suite that `--quick` runs, under its own name.

        Raises:
            SettingsError: the suite has no quick part, or that part names an unknown label.
        """
        quick = self.quick
        if quick is None:
            raise SettingsError(f"suite {self.name} has no [quick] part: run it without --quick")
        settings = quick.settings if quick.settings is not None else tuple(self.settings)
        policies = quick.policies if quick.policies is not None else tuple(self.policies)
        for label in {*settings} - {*self.settings} | {*policies} - {*self.policies}:
            raise SettingsError(f"suite {self.name}: quick names {label!r}, which is not there")
        changes = quick.model_dump(exclude={"settings", "policies"}, exclude_none=True)
        chosen = {s: self.settings[s] for s in settings}
        if quick.horizon_s is not None:
            # Else a setting's own horizons would override the quick one.
            unset = {"horizon_s": None, "horizons": ()}
            chosen = {s: part.model_copy(update=unset) for s, part in chosen.items()}
        return self.model_copy(
            update=changes
            | {
                "name": f"{self.name}-quick",
                "settings": chosen,
                "policies": {p: self.policies[p] for p in policies},
            }
        )

    def forms(self) -> dict[str, PolicyPart]:
        """Return the policies by label, with grids expanded."""
        found: dict[str, PolicyPart] = {}
        for label, part in self.policies.items():
            for tail, sections in _grid(part.grid):
                form = part.model_copy(update={"run": merged(part.run, sections), "grid": {}})
                form = form.model_copy(update={"policy": part.policy or label})
                found[label + tail] = form
        return found

    def cells(self, data_dir: Path | None = None) -> tuple[CellSpec, ...]:
        """Return all cells, seed by seed."""
        return tuple(
            self._cell(setting, policy, form, seed, data_dir)
            for seed in self.seeds
            for setting in self.settings
            for policy, form in self.forms().items()
        )

    def _cell(
        self, label: str, policy: str, form: PolicyPart, seed: int, data_dir: Path | None
    ) -> CellSpec:
        setting = self.settings[label]
        return CellSpec(
            suite=self.name,
            task=setting.task or self.task,
            setting=label,
            policy=policy,
            base_policy=form.policy or policy,
            seed=seed,
            fleet=setting.fleet,
            alpha=setting.alpha,
            run=merged(self.run, setting.run),
            changes=merged(form.run, form.settings.get(label, {})),
            horizon_s=setting.horizon_s or self.horizon_s,
            evaluate_every_s=self.evaluate_every_s,
            evaluate_on=self.evaluate_on,
            evaluate_count=self.evaluate_count,
            scale=self.scale,
            keep=self.keep,
            data_dir=data_dir,
        )


def load_suite(path: Path) -> Suite:
    """Read a suite file.

    Raises:
        SettingsError: as by `read_toml`, or a policy has settings for an unknown setting.
    """
    suite = read_toml(Suite, path, "suite")
    for label, form in suite.policies.items():
        for name in form.settings:
            if name not in suite.settings:
                raise SettingsError(f"{path}: policies.{label} names the setting {name!r}: no such")
    return suite


def check(specs: tuple[CellSpec, ...]) -> None:
    """Refuse a suite in which a cell could not begin. Only the first seed is checked.

    Raises:
        SettingsError: a cell could not begin. The text names the cell and the reason.
    """
    for spec in specs:
        if spec.seed != specs[0].seed:
            continue
        try:
            task = prepare(spec).task
            task.evaluation_data()
        except SettingsError as error:
            raise SettingsError(f"{spec.setting}, {spec.policy}: {error}") from error


def _grid(axes: Mapping[str, tuple[Any, ...]]) -> Iterator[tuple[str, Sections]]:
    """Yield each combination as the suffix of its label and its sections."""
    for values in itertools.product(*axes.values()):
        sections: Sections = {}
        tail = ""
        for name, value in zip(axes, values, strict=True):
            nested: Any = value
            for word in reversed(name.split(".")):
                nested = {word: nested}
            sections = merged(sections, nested)
            tail += f",{name.rpartition('.')[2]}={value}"
        yield tail, sections
