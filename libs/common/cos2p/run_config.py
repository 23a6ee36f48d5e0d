"""The settings of one run.

`cos2p init` reads them from TOML, and every role obeys them.
docs/settings.md is generated from this file.

Invariants:
The settings travel in RunStarted and never change within a run.
So a replay needs no other file.
A default is Co-S2P's own value and is defined only here.
Presets of the baselines turn Co-S2P's methods off.
"""

import math
import tomllib
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cos2p.errors import SettingsError

FormT = TypeVar("FormT", bound=BaseModel)


class Section(BaseModel):
    """Base of a TOML file and of the sections in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class _Section(Section, allow_inf_nan=False):
    """Base of a run file and of its sections."""


class RoundConfig(_Section):
    """When a version closes, and how much an update counts."""

    versions: int = Field(100, ge=1)
    """Number of versions after which the run ends."""
    horizon_s: float | None = Field(None, gt=0)
    """Seconds after which the run ends in any case. Schedules then follow the limit that comes
    first."""
    closing: Literal["semi-async", "synchronous", "buffer", "compass"] = "semi-async"
    """When a version closes. semi-async: on K_min updates, or on the deadline. synchronous: when
    every device has answered. buffer: on K_min updates, without a deadline (FedBuff; FedAsync with
    1). compass: by groups of arrival (FedCompass)."""
    update_fraction: float = Field(0.4, gt=0, le=1)
    """K_min as a share: a version may close when this share of the live devices has an update in
    it."""
    update_count: int | None = Field(None, ge=1)
    """K_min as a number; None takes update_fraction."""
    staleness_max: int = Field(6, ge=0)
    """Updates whose base is older than this many versions are refused as STALE."""
    staleness_exponent: float = Field(0.5, ge=0)
    """s(tau) = (1 + tau) ** -exponent (FedBuff, arXiv 2106.06639)."""
    staleness_on: Literal["weight", "delta"] = "weight"
    """Where s(tau) acts: on the update's share of the mean, or on its delta (as in FedBuff)."""
    normalise_steps: bool = True
    """Whether a delta of fewer local steps than E counts as one of E (FedNova, arXiv
    2007.07481)."""
    sample_exponent: float = Field(0.5, ge=0, le=1)
    """An update's weight grows with samples ** exponent."""
    coverage_window: int = Field(4, ge=1)
    """N* is the least number of merged updates of any unit over this many versions."""


class AnchorConfig(_Section):
    """The anchor: KL from the dispatched submodel's own output, on a share of the steps.

    It needs a task with classes.
    """

    share: float = Field(0.25, ge=0, le=1)
    """Share of the local steps that have the term; 0 turns it off."""


class ExitConfig(_Section):
    """Loss weights of exits after inner blocks and of distillation between them.

    Each objective reads only the fields that it uses.
    """

    weight: float = Field(0.3, ge=0)
    """w: weight of the sum of the exits' own losses ("exits")."""
    distillation: float = Field(0.0, ge=0)
    """lambda: weight of the KL from the detached mean of all heads to each exit ("exits"), between
    all pairs of exits ("depthfl"), or from the deepest to the others ("scalefl"). With "fjord", it
    weighs the cross-entropy with the full width's probabilities; 0 leaves that pass out."""
    final_share: float = Field(0.0, ge=0)
    """mu: weight of the KL from that mean to the final head, times lambda ("exits")."""
    temperature: float = Field(2.0, gt=0)
    """T of softened outputs; terms that compare them are weighted with T^2."""
    ramp: float = Field(0.2, ge=0, le=1)
    """Share of the run over which lambda rises ("exits": linearly, "depthfl": as published), or
    after which lambda applies ("scalefl")."""


class LocalConfig(_Section):
    """How a device trains a plan."""

    steps: int = Field(10, ge=1)
    """E: local steps of a plan on a device that is not slower than its time budget."""
    steps_min: int = Field(2, ge=1)
    """Least number of local steps that a plan asks of a slow device."""
    align_steps: bool = True
    """Whether local steps are chosen so that updates arrive by the round's deadline. A fast device
    then gets up to twice E."""
    batch_size: int = Field(32, ge=1)
    """Samples of a local step."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """The local optimiser. Per trained parameter, a device keeps no value (sgd), one (sgd with
    momentum) or two (adamw)."""
    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate of the run's first version."""
    learning_rate_final: float = Field(1.0, gt=0, le=1)
    """Share of the learning rate left at the run's last version (cosine; 1 keeps it constant)."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD."""
    gradient_norm_max: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    logit_adjustment: float = Field(1.0, ge=0)
    """Strength of the shift of logits by the log of the device's own label share (arXiv
    2007.07314); 0 turns it off."""
    objective: Literal["final", "exits", "depthfl", "scalefl", "fjord"] = "final"
    """The local loss. final: the loss of the final head. exits: the loss with exits that all
    devices share, and distillation between them. Other names: the loss of the baseline of this
    name, as published."""
    exits: ExitConfig = ExitConfig()
    anchor: AnchorConfig = AnchorConfig()
    proximal: float = Field(0.0, ge=0)
    """rho of FedProx (arXiv 1812.06127): the loss includes rho / 2 * squared distance from the
    dispatched weights."""
    score_every: int = Field(5, ge=0)
    """With plans.importance "gate", scores are collected at the first local step and at every step
    of this number after it. A scored step takes about 10 % longer."""

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate after a share of the run (0 to 1): cosine decay (arXiv 1608.03983)."""
        left = 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
        final = self.learning_rate_final
        return self.learning_rate * (final + (1 - final) * left)


class GrowthConfig(_Section):
    """Growth: the model starts small and takes in deeper blocks later."""

    start: float = Field(0.2, gt=0, le=1)
    """Share of the model that is in use at first. No submodel is larger, and the blocks beyond this
    share of the depth are not trained yet. The share that the weakest device can hold is a good
    choice. 1 uses the whole model from the start."""
    since: float = Field(0.5, ge=0, le=1)
    """Share of the run after which the model begins to grow, linearly."""
    until: float = Field(0.9, ge=0, le=1)
    """Share of the run after which the whole model is in use."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.since > self.until:
            raise ValueError(f"growth ends at {self.until:g}, before it begins at {self.since:g}")
        return self

    def share_at(self, progress: float) -> float:
        """The share of the model in use after a share of the run (0 to 1)."""
        if progress >= self.until:
            return 1.0
        done = max(progress - self.since, 0.0) / (self.until - self.since or 1.0)
        return self.start + (1 - self.start) * done


class PlanConfig(_Section):
    """How the planner chooses units."""

    hold_plans: int = Field(4, ge=1)
    """A device keeps its units, and its optimiser's state, for this many plans."""
    block_width_min: float = Field(1.0, gt=0, le=1)
    """Least width of a block: blocks are skipped where keeping all would leave them narrower."""
    importance: Literal["none", "gate", "magnitude"] = "none"
    """What makes a unit worth more to a device beyond coverage. gate: squared gate gradients on its
    data. magnitude: the size of its weights. none: nothing (units rotate)."""
    importance_weight: float = Field(1.0, ge=0)
    """Number of devices whose coverage a unit of mean importance is worth."""
    importance_scope: Literal["block", "model"] = "block"
    """Whether units are compared with their kind in their own block, or in all blocks. The latter
    lets devices gather in the blocks that matter most."""
    nested_depth: float = Field(0.1, ge=0, le=1)
    """Share of the blocks, from the first on, that every device trains as far as it can before
    other units. Its units beyond these blocks rotate. 1 gives each device the first blocks that
    fit, 0 turns nesting off."""
    growth: GrowthConfig = GrowthConfig()
    coverage_floor: int = Field(0, ge=0)
    """N* to plan for: dual prices keep every unit's coverage at or above it. 0 sets no floor."""
    depth: Literal["skip", "frozen-prefix"] = "skip"
    """What a device trains that is too small for block_width_min everywhere. skip: blocks are left
    out. frozen-prefix: it trains neighbouring blocks, and the blocks before them run forward
    only."""
    enforce_memory: bool = True
    """Whether budgets bind. If off, a plan may give any device the whole model, and its worker
    trains the plan regardless of its memory. This is for simulations of an upper bound that no real
    fleet reaches (fedavg-ideal)."""
    memory_margin: float = Field(0.0, ge=0, lt=1)
    """Share of a device's memory that plans leave free."""


class MergeConfig(_Section):
    """How the aggregator merges updates."""

    server_lr: float = Field(1.0, gt=0)
    """Factor on each version's step."""
    average_decay: float = Field(0.9, ge=0, lt=1)
    """Decay of the moving average of versions, which is the published model; 0 turns it off."""
    shards: int = Field(1, ge=1, le=64)
    """Number of aggregator processes; each has a part of the model's units."""
    checkpoint_every: int = Field(10, ge=1)
    """Number of versions from one checkpoint to the next. The last version has one, too."""


class EvaluationConfig(_Section):
    """How the evaluator measures a published version."""

    scaling: Literal["survival", "none"] = "survival"
    """How a unit's contribution to the stream is scaled when the whole model is used. survival: by
    its survival probability, the share of the last versions' updates, by weight, whose submodels
    held it (the rule of dropout and stochastic depth). none: unchanged."""
    answer: Literal["final", "mean"] = "final"
    """The model's answer where methods are compared: that of the final head, or that of the mean of
    all exits' probabilities. Both are reported in any case."""


class LivenessConfig(_Section):
    """When a silent device loses its plan, and when a stalled run ends."""

    min_workers: int = Field(1, ge=1)
    """Number of devices that must be present before plans are issued. Devices refused for memory
    count, too."""
    heartbeat_s: float = Field(2.0, gt=0)
    """Seconds between two heartbeats of a device."""
    lost_after_s: float = Field(15.0, gt=0)
    """Seconds of silence after which a device loses its plan (EXPIRED)."""
    warn_after_s: float = Field(60.0, gt=0)
    """Seconds without a new version after which the planner reports that it is not ready, and names
    the devices that it waits for. Half of `stall_after_s` applies where that is less."""
    stall_after_s: float = Field(120.0, gt=0)
    """Seconds without a new version after which the run ends and names what is missing."""
    strikes_max: int = Field(3, ge=1)
    """Number of updates that failed checks after which a device gets no more plans."""

    @property
    def patience_s(self) -> float:
        """How long a version may take before the planner reports a stall, in seconds."""
        return min(self.warn_after_s, self.stall_after_s / 2)


class RunConfig(_Section):
    """All settings of a run."""

    seed: int = Field(0, ge=0)
    """Seed of all random draws."""
    policy: str = Field("co-s2p", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """The planner's rules: how to choose units, close versions and weigh updates."""
    rounds: RoundConfig = RoundConfig()
    local: LocalConfig = LocalConfig()
    plans: PlanConfig = PlanConfig()
    merge: MergeConfig = MergeConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    liveness: LivenessConfig = LivenessConfig()
    partitions: int = Field(4, ge=1, le=1024)
    """Number of partitions of each blob topic."""

    @model_validator(mode="after")
    def _scores_come_from_somewhere(self) -> Self:
        if self.plans.importance == "gate" and not self.local.score_every:
            raise ValueError("plans.importance = 'gate' needs local.score_every of 1 or more")
        return self

    @property
    def slots(self) -> int:
        """Optimiser values kept per trained parameter: 0 SGD, 1 momentum, 2 Adam."""
        if self.local.optimizer == "adamw":
            return 2
        return 1 if self.local.momentum else 0


def load_run_config(path: Path) -> RunConfig:
    """Read a run's TOML file; see `read_toml` for the errors."""
    return read_toml(RunConfig, path, "run file")


def read_toml(form: type[FormT], path: Path, called: str) -> FormT:
    """Read a TOML file of the given form. `called` names the file in an error.

    Raises:
        SettingsError: the file is missing, is not TOML, or holds a key or value that is not
            allowed.
    """
    try:
        return form.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise SettingsError(f"can't read the {called} {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        raise SettingsError(f"{path}: {plain_validation(error)}") from error


def plain_validation(error: ValidationError) -> str:
    """Describe what pydantic found, in one line that a person can act on."""
    return "; ".join(
        f"{'.'.join(str(p) for p in e['loc']) or 'value'}: {e['msg']}" for e in error.errors()
    )
