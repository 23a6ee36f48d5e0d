"""Scenarios of simulated runs: small TOML files, and the seeded draw of one case from each.

Invariant: a case is a function of scenario and seed alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cos2p.errors import SettingsError
from cos2p.run_config import (
    LivenessConfig,
    LocalConfig,
    MergeConfig,
    PlanConfig,
    RoundConfig,
    RunConfig,
    Section,
    read_toml,
)
from cos2p_planner.baselines.policies import OURS_OFF
from cos2p_planner.presets import merged, with_changes

Span = tuple[int, int]
"""Least and most value, both included."""


class FleetPart(Section):
    """The devices of a run."""

    devices: Span = (4, 8)
    failing_share: float = 0.0
    """Share of plans whose training fails."""
    spoilt_share: float = 0.0
    """Share of plans whose delta is not finite."""
    boasting_share: float = 0.0
    """Share of devices that claim more memory than they have."""


class RunPart(Section):
    """The run itself."""

    versions: Span = (4, 8)
    shards: Span = (1, 3)
    stall_after_s: float = 120.0
    ours: bool = False
    """Whether the run has Co-S2P's own defaults. Without them, a plan may hold any blocks."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Sections of a run file. They override the settings that the seed draws."""


class FaultPart(Section):
    """The faults of the bus. Each share is a share of appends."""

    delay_s: float = 0.0
    """Mean of the exponential delay before a record is written, and again before its ack."""
    loss_share: float = 0.0
    """A worker's record is not written, and its append fails."""
    duplicate_share: float = 0.0
    """A worker's record is written twice."""
    lost_ack_share: float = 0.0
    """The records, or the first of them, are written, but the append fails."""


class CrashPart(Section):
    """The kills and stops of processes."""

    share: float = 0.0
    """Chance that a process is killed. It is drawn `chances` times for each process."""
    chances: int = Field(0, ge=0)
    within_s: float = 25.0
    """Kills happen within this many virtual seconds from the start."""
    restart_s: tuple[float, float] = (0.2, 5.0)
    rival_share: float = 0.0
    """Share of runs in which a second planner starts while the first runs."""
    leaving_share: float = 0.0
    """Share of workers that are asked to stop once (as by SIGTERM) and come back."""
    dying_share: float = 0.0
    """Share of workers that are killed once and never restarted. worker-0 is never one of them."""
    workers_die_at_s: float | None = None
    """The time at which all workers are killed. They are not restarted."""
    lost_shard: int | None = None
    """This aggregator shard never starts."""


class Scenario(Section):
    """One kind of run."""

    about: str
    fleet: FleetPart = FleetPart()
    run: RunPart = RunPart()
    faults: FaultPart = FaultPart()
    crashes: CrashPart = CrashPart()
    ends: Literal["target", "stalled"] = "target"
    limit_s: float = 1500.0
    """Virtual seconds after which the run counts as hung."""


@dataclass(frozen=True)
class Case:
    """One draw of a scenario under a seed."""

    seed: int
    scenario: Scenario
    config: RunConfig
    device_count: int
    snapshot_records: int
    """Records that a planner folds between two snapshots. With 1, a snapshot follows each step."""


def load_scenario(name: str) -> Scenario:
    """Load a scenario from the `scenarios` folder of this package.

    Raises:
        SettingsError: no scenario has this name, or its file is wrong.
    """
    folder = Path(__file__).parent / "scenarios"
    known = sorted(file.stem for file in folder.iterdir())
    if name not in known:
        raise SettingsError(f"no scenario {name!r}: there are {', '.join(known)}")
    return read_toml(Scenario, folder / f"{name}.toml", "scenario")


def draw_case(scenario: Scenario, seed: int) -> Case:
    """Draw the run's settings under a seed."""
    rng = np.random.default_rng([seed, 1])

    def within(span: Span) -> int:
        return int(rng.integers(span[0], span[1] + 1))

    config = RunConfig(
        seed=seed,
        rounds=RoundConfig(
            versions=within(scenario.run.versions),
            update_fraction=float(rng.choice([0.3, 0.5, 1.0])),
            staleness_max=int(rng.choice([0, 1, 3])),
        ),
        local=LocalConfig(steps=4, steps_min=1, batch_size=4),
        plans=PlanConfig(hold_plans=int(rng.choice([1, 3]))),
        merge=MergeConfig(
            average_decay=float(rng.choice([0.0, 0.9])),
            shards=within(scenario.run.shards),
            checkpoint_every=int(rng.choice([1, 3])),
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
    # A stream of its own, so that this draw leaves all other draws of the seed unchanged.
    records = int(np.random.default_rng([seed, 7]).choice([1, 10, 40]))
    return Case(seed, scenario, config, within(scenario.fleet.devices), records)
