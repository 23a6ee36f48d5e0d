"""How a run's settings result from the defaults, the task, the policy's preset and changes.

Invariant: a later layer wins value by value. Sections are joined, never replaced as a whole.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from cos2p.errors import SettingsError
from cos2p.run_config import RunConfig, plain_validation
from cos2p_planner.baselines.policies import policy_named


def config_of(base: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Return the task's settings, overridden by the policy's preset, then by the changes.

    Raises:
        SettingsError: a name or value is not allowed.
    """
    policy = policy_named(str(changes.get("policy", base.policy)))
    return with_changes(base, merged(policy.preset, changes))


def with_changes(base: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Return settings with the values of `changes`, given as sections of a run file.

    Raises:
        SettingsError: a name or value is not allowed.
    """
    try:
        return RunConfig.model_validate(merged(base.model_dump(exclude_unset=True), changes))
    except ValidationError as error:
        raise SettingsError(f"settings of the run: {plain_validation(error)}") from error


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `changes`, section by section."""
    result = dict(base)
    for name, value in changes.items():
        old = result.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[name] = merged(old, value)
        else:
            result[name] = value
    return result
