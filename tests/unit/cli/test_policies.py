"""What `cos2p policies` says."""

import json

import pytest

from cos2p.run_config import RunConfig
from cos2p_cli.policies import policies
from cos2p_planner.baselines.policies import POLICIES
from cos2p_planner.presets import config_of


def test_every_policy_is_listed_with_its_source_and_what_it_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    policies(as_json=False)

    output = capsys.readouterr().out
    assert all(f"{p.name}: {p.source}" in output for p in POLICIES.values())
    assert "rounds.closing=buffer" in output
    assert "local.objective=final" not in output
    assert "plans.nested_depth=0.0" in output


def test_as_json_presets_are_sections_of_a_run_file(capsys: pytest.CaptureFixture[str]) -> None:
    policies(as_json=True)

    found = json.loads(capsys.readouterr().out)["policies"]
    assert list(POLICIES) == [row["name"] for row in found]
    fedbuff = next(row for row in found if row["name"] == "fedbuff")
    assert config_of(RunConfig(), {"policy": "fedbuff"}) == RunConfig.model_validate(
        {"policy": "fedbuff"} | fedbuff["preset"]
    )
    ours = next(row for row in found if row["name"] == "co-s2p")
    assert {} == ours["preset"]
