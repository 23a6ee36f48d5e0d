"""The roles of policies and devices in a setting: baselines, the ceiling, limited devices.

Invariant: best and weakest baseline are chosen by the accuracy that the table shows: at the late
horizon, as mean over seeds, on the same data. This choice favours the baseline.
"""

from collections.abc import Callable

import numpy as np

from cos2p_experiments import measures, statistics
from cos2p_experiments.result import CellDevice, CellResult
from cos2p_experiments.study import Study

CEILING = "fedavg-ideal"
"""The policy that trains the full model on every device, even over the device's memory."""
SKEWED = 0.2
"""A split counts as skewed above this mean total variation between device's and fleet's label mix.

Dirichlet 0.3 over ten labels lies at 0.5 or more. An even split of 1,000 samples a device lies
under 0.1.
"""


def values(
    study: Study, setting: str, policy: str, measure: Callable[[CellResult], float | None]
) -> dict[int, float]:
    """Return a measure by seed, for the cells that have it."""
    found = {seed: measure(cell) for seed, cell in study.of(setting, policy).items()}
    return {seed: value for seed, value in found.items() if value is not None}


def accuracies(study: Study, setting: str, policy: str, at_s: float) -> dict[int, float]:
    """Return the accuracy of the published model at a moment, by seed."""
    return values(study, setting, policy, lambda cell: measures.accuracy_at(cell, at_s))


def final_accuracies(study: Study, setting: str, policy: str) -> dict[int, float]:
    """Return the accuracy of the published model at the late horizon, by seed."""
    return accuracies(study, setting, policy, study.horizons_of(setting)[-1])


def evaluated_on(study: Study, setting: str) -> str:
    """Name the data on which a setting's accuracies were measured."""
    return " and ".join(sorted({c.identity.evaluated_on for c in study.cells_of(setting)}))


def synchronous_baselines(study: Study, setting: str) -> tuple[str, ...]:
    """Return the methods other than ours that cut submodels behind a barrier, weakest first.

    Only those with the most seeds are returned, so that a half-run suite compares like with like.
    """
    found = {
        p: final_accuracies(study, setting, p)
        for p in study.present(setting)
        if all(is_synchronous_baseline(c) for c in study.of(setting, p).values())
    }
    most = max((len(v) for v in found.values()), default=0)
    full = {p: float(np.mean(list(v.values()))) for p, v in found.items() if len(v) == most > 0}
    return tuple(sorted(full, key=lambda p: full[p]))


def is_synchronous_baseline(cell: CellResult) -> bool:
    """Whether a cell is of a published submodel method under its own synchronous barrier."""
    base = cell.identity.base_policy
    whole = base.startswith("fedavg") or base == "co-s2p"
    return not whole and cell.config.get("rounds", {}).get("closing") == "synchronous"


def ceiling(study: Study, setting: str) -> str | None:
    """Return the policy that trains the full model everywhere; None if the setting has none."""
    there = (c.identity for c in study.cells_of(setting))
    found = {own.policy for own in there if own.base_policy == CEILING}
    return next((p for p in study.policies if p in found), None)


def devices(study: Study, setting: str) -> dict[str, CellDevice]:
    """Return the fleet by worker id. Each device is taken from a cell with its lowest budget."""
    fleet: dict[str, CellDevice] = {}
    for cell in study.cells_of(setting):
        for device in cell.devices:
            known = fleet.get(device.worker_id)
            if known is None or device.budget < known.budget:
                fleet[device.worker_id] = device
    return fleet


def limited(study: Study, setting: str) -> dict[str, CellDevice]:
    """Return the devices that can't hold the full model."""
    return {w: d for w, d in devices(study, setting).items() if d.budget < 1}


def is_skewed(study: Study, setting: str) -> bool:
    """Whether the devices' label mixes differ much from the fleet's."""
    distances = [measures.label_distance(c) for c in study.cells_of(setting)]
    mean = statistics.mean([d for d in distances if d is not None])
    return mean is not None and mean > SKEWED


def coverage_bound(study: Study, setting: str) -> int:
    """Return floor(sum r_i), the highest N* if each device has one update in the window."""
    # The small term keeps a sum that is whole but for rounding errors from falling by one.
    return int(sum(d.budget for d in devices(study, setting).values()) + 1e-9)
