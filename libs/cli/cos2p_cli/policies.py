"""`cos2p policies`: the methods that a run file may name, and the settings of each.

Invariants: the printed settings are those that `cos2p init` uses: they override a task's settings,
and a run file overrides them. No torch is loaded.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import typer

from cos2p_cli.options import JsonOption, print_json


def policies(as_json: JsonOption = False) -> None:
    """List the policies that a run file may name, and their settings."""
    from cos2p_planner.baselines.policies import POLICIES

    if as_json:
        rows = [
            {"name": p.name, "source": p.source, "preset": _plain(p.preset)}
            for p in POLICIES.values()
        ]
        print_json({"policies": rows})
        return
    typer.echo('A run file chooses one by name: policy = "NAME". Its own settings win.\n')
    for policy in POLICIES.values():
        typer.echo(f"{policy.name}: {policy.source}")
        typer.echo(f"    {', '.join(_settings(policy.preset)) or 'the defaults'}")


def _plain(preset: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _plain(v) if isinstance(v, Mapping) else v for k, v in preset.items()}


def _settings(preset: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield settings such as `rounds.closing=synchronous`, without those that equal the default."""
    from cos2p.run_config import RunConfig

    usual: Any = RunConfig().model_dump()
    for part in prefix.split(".")[:-1]:
        usual = usual[part]
    for name, value in preset.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        elif value != usual[name]:
            yield f"{prefix}{name}={value}"
