"""The settings of one run: what `cos2p init` reads from TOML and every role obeys.

Invariants: they travel in RunStarted and never change within a run, so a replay needs no other
file. A default is Co-S2P's own value, and stands here alone; baselines turn ours off in their
presets. docs/settings.md is generated from this file.
"""

import math
import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cos2p.errors import SettingsError


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class RoundConfig(_Section):
    """When a version closes and what an update counts."""

    versions: int = Field(100, ge=1)
    """Versions after which the run ends."""
    horizon_s: float | None = Field(None, gt=0)
    """Seconds after which it ends all the same; schedules then follow what comes first."""
    closing: Literal["semi-async", "synchronous", "buffer", "compass"] = "semi-async"
    """When a version closes: semi-async on K_min updates, or on the deadline; synchronous when
    every device has answered; buffer on K_min updates however long it takes (FedBuff; FedAsync with
    1); compass by groups of arrival (FedCompass)."""
    update_fraction: float = Field(0.4, gt=0, le=1)
    """K_min: a version may close when this share of the live devices has an update in it."""
    update_count: int | None = Field(None, ge=1)
    """K_min as a number; None takes update_fraction."""
    staleness_max: int = Field(6, ge=0)
    """Updates whose base is older than this many versions are refused as STALE."""
    staleness_exponent: float = Field(0.5, ge=0)
    """s(tau) = (1 + tau) ** -exponent (FedBuff, arXiv 2106.06639)."""
    staleness_on: Literal["weight", "delta"] = "weight"
    """Where s(tau) acts: on the update's share of the mean, or on its delta (as FedBuff has it)."""
    normalise_steps: bool = True
    """A delta of fewer local steps than E counts as of E (FedNova, arXiv 2007.07481)."""
    sample_exponent: float = Field(0.5, ge=0, le=1)
    """An update's weight grows with samples ** exponent."""
    coverage_window: int = Field(4, ge=1)
    """N* is the least number of merged updates of any unit over this many versions."""


class AnchorConfig(_Section):
    """KL from the dispatched submodel's own output on a share of the steps; needs classes."""

    share: float = Field(0.25, ge=0, le=1)
    """Share of the local steps that have the term; 0 turns it off."""


class ExitConfig(_Section):
    """Exits after inner blocks, and what teaches whom; each objective reads what it has."""

    weight: float = Field(0.3, ge=0)
    """w: of the sum of the exits' own losses ("exits")."""
    distillation: float = Field(0.0, ge=0)
    """lambda: of the KL from the detached mean of all heads to each exit ("exits"), between all
    pairs of exits ("depthfl"), from the deepest to the others ("scalefl"), of the cross-entropy
    with the full width's probabilities ("fjord"; 0 leaves that pass out)."""
    final_share: float = Field(0.0, ge=0)
    """mu: of the KL from that mean to the final head, times lambda ("exits")."""
    temperature: float = Field(2.0, gt=0)
    """T of softened outputs; what compares them is weighted with T^2."""
    ramp: float = Field(0.2, ge=0, le=1)
    """Share of the run over which lambda rises ("exits" in a line, "depthfl" as
    published), or after which it is there ("scalefl")."""


class LocalConfig(_Section):
    """What a device does with a plan."""

    steps: int = Field(10, ge=1)
    """E: local steps of a plan on a device that is not slower than its time budget."""
    steps_min: int = Field(2, ge=1)
    """A slow device is asked for no fewer."""
    align_steps: bool = True
    """Local steps are chosen so that arrivals meet the round's deadline: a fast device is asked for
    up to twice E."""
    batch_size: int = Field(32, ge=1)
    """Samples of a local step."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """A device keeps no, one (momentum) or two values (adamw) per trained parameter."""
    learning_rate: float = Field(1e-3, gt=0)
    """Of the run's first version."""
    learning_rate_final: float = Field(1.0, gt=0, le=1)
    """Share of the learning rate left at the run's last version (cosine; 1 keeps it)."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of SGD."""
    gradient_norm_max: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""
    logit_adjustment: float = Field(1.0, ge=0)
    """Strength of the shift of logits by the log of the device's own label share (2007.07314); 0 is
    none."""
    objective: Literal["final", "exits", "depthfl", "scalefl", "fjord"] = "final"
    """The local loss: of the final head; with exits that all devices share, and distillation
    between them; or that of the baseline of this name, as published."""
    exits: ExitConfig = ExitConfig()
    anchor: AnchorConfig = AnchorConfig()
    proximal: float = Field(0.0, ge=0)
    """rho / 2 * squared distance from the dispatched weights is added (FedProx, 1812.06127)."""
    score_every: int = Field(5, ge=0)
    """With plans.importance "gate", scores are collected at the first local step and every so many
    after it: a scored step takes some 10 % longer."""

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate after a share of the run (0 to 1), cosine decay (arXiv 1608.03983)."""
        left = 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
        final = self.learning_rate_final
        return self.learning_rate * (final + (1 - final) * left)


class GrowthConfig(_Section):
    """The model begins small and grows, shallow blocks first."""

    start: float = Field(0.2, gt=0, le=1)
    """Share of the model that is in play at first: no submodel is larger, and the blocks beyond
    this share of the depth wait. What the weakest device can hold is a good choice; 1 has the whole
    model in play from the start."""
    since: float = Field(0.5, ge=0, le=1)
    """Share of the run after which it begins to grow, in a line."""
    until: float = Field(0.9, ge=0, le=1)
    """Share of the run after which all of it is in play."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.since > self.until:
            raise ValueError(f"growth ends at {self.until:g}, before it begins at {self.since:g}")
        return self

    def share_at(self, progress: float) -> float:
        """The share in play after a share of the run (0 to 1)."""
        if progress >= self.until:
            return 1.0
        done = max(progress - self.since, 0.0) / (self.until - self.since or 1.0)
        return self.start + (1 - self.start) * done


class PlanConfig(_Section):
    """How units are chosen."""

    hold_plans: int = Field(4, ge=1)
    """A device keeps its units, and its optimiser's state, for this many plans."""
    block_width_min: float = Field(1.0, gt=0, le=1)
    """Blocks are skipped where keeping all would leave them narrower than this."""
    importance: Literal["none", "gate", "magnitude"] = "none"
    """What makes a unit worth more to a device beyond coverage: squared gate gradients on its data,
    the size of its weights, or nothing (units rotate)."""
    importance_weight: float = Field(1.0, ge=0)
    """How many devices' coverage a unit of mean importance is worth."""
    importance_scope: Literal["block", "model"] = "block"
    """Units are compared with their kind in their own block, or in all blocks, which lets devices
    gather in the blocks that matter most."""
    nested_depth: float = Field(0.1, ge=0, le=1)
    """Share of the blocks, from the first on, that every device trains as far as it can before
    anything else; what it holds beyond them rotates. 1 gives each device the first blocks that fit
    it, 0 nests nothing."""
    growth: GrowthConfig = GrowthConfig()
    coverage_floor: int = Field(0, ge=0)
    """N* to plan for: dual prices hold every unit's coverage at or over it; 0 has no floor."""
    depth: Literal["skip", "frozen-prefix"] = "skip"
    """How a device too small for block_width_min everywhere is served: blocks are left out, or
    neighbouring blocks are trained and those before them run forward only."""
    enforce_memory: bool = True
    """Whether budgets bind. Off, every device may be planned the whole model and its worker trains
    it whatever it uses: the ceiling that no real fleet reaches (fedavg-ideal), for simulations."""
    memory_margin: float = Field(0.0, ge=0, lt=1)
    """Share of a device's memory left unplanned."""


class MergeConfig(_Section):
    """What the aggregator does with updates."""

    server_lr: float = Field(1.0, gt=0)
    """Factor on each version's step."""
    average_decay: float = Field(0.9, ge=0, lt=1)
    """The published model is the moving average of versions with this decay; 0 turns it off."""
    shards: int = Field(1, ge=1, le=64)
    """Aggregator processes; each has a part of the model's units."""
    checkpoint_every: int = Field(10, ge=1)
    """Whole versions are written every so many versions (and at the end)."""


class EvaluationConfig(_Section):
    """How a published version is judged."""

    scaling: Literal["survival", "none"] = "survival"
    """What a unit gives to the stream when the whole model is used: times its survival probability,
    the share of the last versions' updates whose submodels held it, by weight (dropout's and
    stochastic depth's rule); or as it is."""
    answer: Literal["final", "mean"] = "final"
    """Whose answer is the model's where methods are compared: the final head's, or that of the mean
    of all exits' probabilities. Both are told in any case."""


class LivenessConfig(_Section):
    """When a silent part is given up."""

    min_workers: int = Field(1, ge=1)
    """Plans are issued once so many devices are there, those refused for memory among them."""
    heartbeat_s: float = Field(2.0, gt=0)
    """A device says that it is alive so often."""
    lost_after_s: float = Field(15.0, gt=0)
    """A device silent for so long loses its plan (EXPIRED)."""
    warn_after_s: float = Field(60.0, gt=0)
    """A run without a new version for so long, or for half of `stall_after_s` where that is less,
    is told of: the planner is not ready, and names who is waited for."""
    stall_after_s: float = Field(120.0, gt=0)
    """A run without a new version for so long ends, naming what is missing."""
    strikes_max: int = Field(3, ge=1)
    """A device whose updates failed checks so often gets no more plans."""

    @property
    def patience_s(self) -> float:
        """How long a version may take before that is told."""
        return min(self.warn_after_s, self.stall_after_s / 2)


class RunConfig(_Section):
    """All settings of a run."""

    seed: int = Field(0, ge=0)
    """Of all that is drawn at random."""
    policy: str = Field("co-s2p", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """The planner's rules: how to choose units, close versions and weigh updates."""
    rounds: RoundConfig = RoundConfig()
    local: LocalConfig = LocalConfig()
    plans: PlanConfig = PlanConfig()
    merge: MergeConfig = MergeConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    liveness: LivenessConfig = LivenessConfig()
    partitions: int = Field(4, ge=1, le=1024)
    """Partitions of the blob topics."""

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
    """Read a run's TOML file.

    Raises:
        SettingsError: the file is missing, no TOML, or holds a key or value that is not allowed.
    """
    try:
        body = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"can't read the run file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    try:
        return RunConfig.model_validate(body)
    except ValidationError as error:
        raise SettingsError(f"{path}: {plain_validation(error)}") from error


def plain_validation(error: ValidationError) -> str:
    """What pydantic found, as one line that a person can act on."""
    return "; ".join(
        f"{'.'.join(str(p) for p in e['loc']) or 'value'}: {e['msg']}" for e in error.errors()
    )
