"""What a simulated run goes through: a small TOML file, and the seeded draw of one case from it.

Invariant: a case is a function of scenario and seed alone.
"""

import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cos2p.errors import SettingsError
from cos2p.run_config import (
    LivenessConfig,
    LocalConfig,
    MergeConfig,
    PlanConfig,
    RoundConfig,
    RunConfig,
    plain_validation,
)
from cos2p_planner.baselines.policies import OURS_OFF
from cos2p_planner.presets import merged, with_changes

Span = tuple[int, int]
"""Least and most, both included."""
Share = float


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FleetPart(_Part):
    """Which devices there are."""

    devices: Span = (4, 8)
    failing_share: Share = 0.0
    """Plans whose training fails."""
    spoilt_share: Share = 0.0
    """Plans whose delta is not finite."""
    boasting_share: Share = 0.0
    """Devices that claim more memory than they have."""


class RunPart(_Part):
    """What is run."""

    versions: Span = (4, 8)
    shards: Span = (1, 3)
    stall_after_s: float = 120.0
    ours: bool = False
    """Whether the run has what Co-S2P has by default; off, plans hold any blocks at any time."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Sections of a run file, over what the seed draws."""


class FaultPart(_Part):
    """What goes wrong on the bus; shares are of appends."""

    delay_s: float = 0.0
    """Mean of the exponential delay before a record is written, and again before its ack."""
    loss_share: Share = 0.0
    """A worker's record is not written and its append fails."""
    duplicate_share: Share = 0.0
    """A worker's record is written twice."""
    lost_ack_share: Share = 0.0
    """Records (or the first of them) are written and the append fails all the same."""


class CrashPart(_Part):
    """What happens to processes."""

    share: Share = 0.0
    """Chance of each process to be killed, drawn `chances` times."""
    chances: int = Field(0, ge=0)
    within_s: float = 25.0
    """Kills fall into this first part of the run."""
    restart_s: tuple[float, float] = (0.2, 5.0)
    rival_share: Share = 0.0
    """Runs in which a second planner is started beside the first."""
    leaving_share: Share = 0.0
    """Workers that are asked to stop (as by SIGTERM) once, and come back."""
    dying_share: Share = 0.0
    """Workers that are killed for good at some time, the first one never."""
    workers_die_at_s: float | None = None
    """All workers are killed then, for good."""
    lost_shard: int | None = None
    """This aggregator shard never starts."""


class Scenario(_Part):
    """One kind of run."""

    about: str
    fleet: FleetPart = FleetPart()
    run: RunPart = RunPart()
    faults: FaultPart = FaultPart()
    crashes: CrashPart = CrashPart()
    ends: Literal["target", "stalled"] = "target"
    limit_s: float = 1500.0
    """Virtual seconds after which the run counts as hanging."""


@dataclass(frozen=True)
class Case:
    """What one seed makes of a scenario."""

    seed: int
    scenario: Scenario
    config: RunConfig
    device_count: int
    snapshot_records: int
    """Records that a planner folds between two snapshots: with 1 each step is followed by one."""


def load_scenario(name: str) -> Scenario:
    """A scenario of those beside this file.

    Raises:
        SettingsError: there is none of this name, or its file is wrong.
    """
    folder = resources.files("cos2p_sim") / "scenarios"
    known = sorted(f.name.removesuffix(".toml") for f in folder.iterdir())
    if name not in known:
        raise SettingsError(f"no scenario {name!r}: there are {', '.join(known)}")
    try:
        return Scenario.model_validate(tomllib.loads((folder / f"{name}.toml").read_text()))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        text = plain_validation(error) if isinstance(error, ValidationError) else str(error)
        raise SettingsError(f"scenario {name}: {text}") from error


def draw_case(scenario: Scenario, seed: int) -> Case:
    """The run's settings under a seed."""
    chance = np.random.default_rng([seed, 1])

    def within(span: Span) -> int:
        return int(chance.integers(span[0], span[1] + 1))

    config = RunConfig(
        seed=seed,
        rounds=RoundConfig(
            versions=within(scenario.run.versions),
            update_fraction=float(chance.choice([0.3, 0.5, 1.0])),
            staleness_max=int(chance.choice([0, 1, 3])),
        ),
        local=LocalConfig(steps=4, steps_min=1, batch_size=4),
        plans=PlanConfig(hold_plans=int(chance.choice([1, 3]))),
        merge=MergeConfig(
            average_decay=float(chance.choice([0.0, 0.9])),
            shards=within(scenario.run.shards),
            checkpoint_every=int(chance.choice([1, 3])),
        ),
        liveness=LivenessConfig(
            min_workers=2,
            heartbeat_s=2.0,
            lost_after_s=7.0,
            stall_after_s=scenario.run.stall_after_s,
        ),
        partitions=2,
    )
    usual = {} if scenario.run.ours else OURS_OFF
    config = with_changes(config, merged(usual, scenario.run.settings))
    records = int(np.random.default_rng([seed, 7]).choice([1, 10, 40]))
    return Case(seed, scenario, config, within(scenario.fleet.devices), records)
