"""What a run's settings come to: the defaults, the task's own, the policy's preset, changes.

Invariant: a later layer wins value by value; sections are joined, never replaced as a whole.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from cos2p.errors import SettingsError
from cos2p.run_config import RunConfig, plain_validation
from cos2p_planner.baselines.policies import policy_named


def config_of(base: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The task's settings, under the policy's preset, under changes.

    Raises:
        SettingsError: a name or value that is not allowed.
    """
    policy = policy_named(str(changes.get("policy", base.policy)))
    return with_changes(base, merged(policy.preset, changes))


def with_changes(base: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Settings with the values of `changes`, given as sections of a run file.

    Raises:
        SettingsError: a name or value that is not allowed.
    """
    try:
        return RunConfig.model_validate(merged(base.model_dump(exclude_unset=True), changes))
    except ValidationError as error:
        raise SettingsError(f"settings of the run: {plain_validation(error)}") from error


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`, section by section."""
    result = dict(base)
    for name, value in changes.items():
        old = result.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[name] = merged(old, value)
        else:
            result[name] = value
    return result
