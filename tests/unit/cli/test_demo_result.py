"""What the demo prints at the end."""

import io
from pathlib import Path
from typing import Any

import pytest
from fed import Fed
from rich.console import Console

from cos2p_cli.audit import Audit
from cos2p_cli.demo_result import DemoResult, StandaloneResult, program, to_document, to_text
from cos2p_cli.fleet import demo_devices


def result(script: Any, *, bus: str = "sqlite:runs/demo", prefix: str = "cos2p") -> DemoResult:
    view = Fed()
    devices = demo_devices(8)
    records = [script.requested(), *script.started()]
    for device in devices:
        assert device.kind is not None
        records.append(script.hello(device.worker_id, kind=device.kind.name, memory=1_234_567))
        records += [
            script.issued(f"p{device.index}", device.worker_id),
            script.report(f"p{device.index}", device.worker_id),
            script.admitted(f"p{device.index}", device.worker_id),
        ]
    records += [script.closed(1), script.evaluated(1, 0.942), script.ended(), script.finished()]
    for message in records:
        view.apply(message, 100.0)
    return DemoResult(
        run=view,
        audit=Audit(plan_count=8, dispatch_count=8, parameters=1000, parameters_max=560),
        devices=devices,
        alone=[StandaloneResult(d.worker_id, (40 + d.index) / 100, 5) for d in devices],
        folder=Path("runs/demo"),
        bus=bus,
        prefix=prefix,
        report=Path("runs/demo/report.html"),
        seconds=99.0,
    )


def shown(found: DemoResult, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(to_text(found, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_two_accuracies_come_first_with_how_they_were_measured(script: Any) -> None:
    text = shown(result(script), 120)

    together, coverage, alone = text.strip().splitlines()[:3]
    assert "94.2 %" in together
    assert "93.2 % raw" in together
    assert "N*  " in coverage
    assert "in the last 4 versions (spread evenly: 3.5)" in coverage
    assert "47.0 %" in alone
    assert "worker-7" in alone
    assert "same 5 steps" in alone


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_has_a_row_per_device_that_does_not_wrap(script: Any, width: int) -> None:
    lines = shown(result(script), width).splitlines()

    rows = [x for x in lines if x.startswith("worker-")]
    assert [f"worker-{i}" for i in range(8)] == [r.split()[0] for r in rows]
    assert max(len(x.rstrip()) for x in lines if "cos2p " not in x) <= width


def test_budgets_that_were_broken_are_told_instead_of_praised(script: Any) -> None:
    found = result(script)
    found.audit.findings.append("p1: too much")

    text = shown(found, 120)

    assert "Budgets were broken 1 times; first: p1: too much" in text
    assert "no worker ever held" not in text


def test_the_next_commands_stand_whole_on_their_lines_with_bus_and_prefix(script: Any) -> None:
    embedded = shown(result(script), 80)
    kafka = shown(result(script, bus="kafka://h:1", prefix="cos2p-demo-1"), 80)

    assert "    cos2p replay --bus runs/demo --without worker-7" in embedded.splitlines()
    where = "--bus kafka://h:1 --prefix cos2p-demo-1"
    assert f"    cos2p replay {where} --without worker-7" in kafka.splitlines()


def test_the_document_holds_what_the_text_shows(script: Any) -> None:
    found = to_document(result(script), 100.0)

    assert {"worker_id": "worker-7", "accuracy": 0.47} == found["alone"]["best"]
    assert [0.6, 0.6, 0.45, 0.45, 0.3, 0.3, 0.15, 0.15] == [
        w["budget_share"] for w in found["workers"]
    ]
    assert 0.942 == found["accuracy"][-1]["accuracy"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["large"]),
        (4, ["large", "medium", "small", "tiny"]),
        (5, ["large", "large", "medium", "small", "tiny"]),
        (8, ["large", "large", "medium", "medium", "small", "small", "tiny", "tiny"]),
    ],
)
def test_workers_are_spread_over_the_four_classes(count: int, expected: list[str]) -> None:
    assert expected == [d.kind.name for d in demo_devices(count) if d.kind]
    assert list(range(count)) == [d.index for d in demo_devices(count)]


def test_a_command_that_the_shell_does_not_find_is_named_by_its_path(tmp_path: Path) -> None:
    elsewhere = tmp_path / "bin" / "cos2p"
    elsewhere.parent.mkdir()
    elsewhere.touch()

    assert str(elsewhere) == program([str(elsewhere)])
    assert "cos2p" == program(["/usr/lib/something/pytest"])


def test_each_exit_has_a_line_under_the_whole_model(script_with_exits: Any) -> None:
    lines = shown(result(script_with_exits), 120).strip().splitlines()

    assert "47.1 %" in lines[1]
    assert "exit after 1 of 2 blocks, of the same version" in lines[1]
    assert "mean of all heads" in lines[2]
