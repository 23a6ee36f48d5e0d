"""The screen: what a person sees, and that it fits."""

import io
from typing import Any

import pytest
from fed import Fed
from rich.console import Console

from cos2p.log import messages as m
from cos2p_cli.screen import EXCLUDED_MAX, render


def shown(view: Fed, width: int, now_s: float = 110.0) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(render(view, now_s, width))
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def excluded(worker_id: str, reason: str) -> m.DeviceExcluded:
    stamp = {"run_id": "r1", "epoch": 1, "fleet_offset": 0, "at_s": 0.0}
    return m.DeviceExcluded.model_validate(stamp | {"worker_id": worker_id, "reason": reason})


def running(script: Any) -> Fed:
    view = Fed()
    records = [script.requested(), *script.started()]
    for i in range(12):
        records += [
            script.hello(f"worker-{i}", memory=123_456_789),
            script.report("p", f"worker-{i}"),
        ]
    records += [script.issued("p1", "worker-3"), script.closed(1), script.evaluated(1, 0.874)]
    for message in records:
        view.apply(message, 100.0)
    return view


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_row_wraps(script: Any, width: int) -> None:
    lines = shown(running(script), width).splitlines()

    assert max(len(line) for line in lines) <= width
    assert 12 == sum(line.startswith("worker-") for line in lines)
    assert 4 + 1 + 1 + 12 == len(lines)


def test_it_says_version_target_accuracy_coverage_and_eta(script: Any) -> None:
    text = shown(running(script), 100)

    for expected in ("version 1/4", "87.4 %", "N* 2 of at most 3.5", "to go"):
        assert expected in text


def test_the_exits_of_a_model_that_has_them_are_told_with_their_depth(
    script_with_exits: Any,
) -> None:
    lines = shown(running(script_with_exits), 100).splitlines()

    assert "exit after 1 of 2 blocks 43.7 %, mean of all heads 21.9 %" in lines


def test_workers_are_in_the_order_of_their_numbers(script: Any) -> None:
    lines = [x.split()[0] for x in shown(running(script), 80).splitlines() if "worker-" in x[:7]]

    assert [f"worker-{i}" for i in range(12)] == lines


def test_a_run_that_stopped_early_says_why(script: Any) -> None:
    view = running(script)
    view.apply(script.ended("stopped"), 120.0)

    assert "ended: stopped" in shown(view, 80)


def test_an_empty_log_is_no_error() -> None:
    assert "waiting for a run" in shown(Fed(), 80)


@pytest.mark.parametrize("width", [80, 200])
def test_an_excluded_device_is_shown_with_the_whole_reason(script: Any, width: int) -> None:
    view = running(script)
    reason = (
        "its memory: a budget of 10 B is below the smallest submodel; 1 kB (1024 bytes) would do"
    )
    view.apply(excluded("worker-2", reason), 100.0)

    lines = shown(view, width).splitlines()

    row = next(line for line in lines if line.startswith("worker-2 "))
    assert ["worker-2", "small", "excluded"] == row.split()[:3]
    assert f"worker-2 is excluded: {reason}" in " ".join(" ".join(lines).split())
    assert max(len(line) for line in lines) <= width


def test_of_many_excluded_devices_the_first_are_shown_and_the_others_counted(script: Any) -> None:
    view = running(script)
    for i in range(12):
        view.apply(excluded(f"worker-{i}", "it has no samples"), 100.0)

    text = shown(view, 80)

    assert EXCLUDED_MAX == text.count("is excluded: it has no samples")
    assert f"and {12 - EXCLUDED_MAX} more devices are excluded: cos2p status --json" in text
