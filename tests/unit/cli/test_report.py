"""The report: one page that holds the run, and nothing from elsewhere."""

import re
from typing import Any

import pytest
from fed import Fed

from cos2p_cli.audit import Audit
from cos2p_cli.report import ReportInput, page


def view_of(script: Any, worker: str = "w0") -> Fed:
    view = Fed(rows_max=None)
    at = 100.0
    records = [script.requested(), *script.started(), script.hello(worker)]
    for n in range(1, 5):
        records += [
            script.issued(f"p{n}", worker),
            script.report(f"p{n}", worker),
            script.admitted(f"p{n}", worker, staleness=n % 2),
            script.closed(n),
            script.published(n),
            script.evaluated(n, n / 5),
        ]
    for message in [*records, script.ended(), script.finished()]:
        at += 1
        view.apply(message, at)
    return view


def test_it_shows_accuracy_staleness_coverage_devices_and_settings(script: Any) -> None:
    text = page(ReportInput(view_of(script), "sqlite:x", Audit(plan_count=4)))

    assert 6 == text.count("<svg")
    for expected in ("80.0 %", "w0", "small", "staleness_max", "reached its target"):
        assert expected in text


def test_a_device_has_a_row_of_its_figures(script: Any) -> None:
    text = page(ReportInput(view_of(script), "sqlite:x"))

    (row,) = re.findall(r"<tr><td.*w0.*</tr>", text)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", row)
    assert ["w0", "small", "10 kB", "7 kB", "6.5 kB"] == cells[:5]
    assert "4" in cells


def test_nothing_is_loaded_from_elsewhere(script: Any) -> None:
    text = page(ReportInput(view_of(script), "sqlite:x"))

    loaded = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert [] == [x for x in loaded if not x.startswith(("#", "data:"))]
    assert "<script" not in text


def test_ink_is_the_page_s_own_so_that_dark_pages_can_be_read(script: Any) -> None:
    text = page(ReportInput(view_of(script), "sqlite:x"))

    assert "currentColor" in text
    assert "#010203" not in text
    assert "prefers-color-scheme: dark" in text


def test_text_from_the_log_is_escaped(script: Any) -> None:
    view = view_of(script)
    view.state.task = "<script>alert(1)</script>"

    assert "<script>" not in page(ReportInput(view, "sqlite:x"))


def test_broken_budgets_are_shown_as_such(script: Any) -> None:
    audit = Audit(plan_count=4, findings=["p1: w0 was given too much"])

    text = page(ReportInput(view_of(script), "sqlite:x", audit))

    assert "p1: w0 was given too much" in text
    assert 'class="bad"' in text


@pytest.mark.parametrize("alone", [None, {"w0": 0.55}])
def test_the_comparison_is_there_only_where_it_was_measured(
    script: Any, alone: dict[str, float] | None
) -> None:
    text = page(ReportInput(view_of(script), "sqlite:x", alone=alone))

    assert ("55.0 %" in text) is (alone is not None)


def test_a_run_that_has_only_begun_has_a_page(script: Any) -> None:
    view = Fed(rows_max=None)
    for message in script.started():
        view.apply(message, 1.0)

    assert "not finished" in page(ReportInput(view, "sqlite:x"))


def test_exits_have_a_card_and_a_line_in_the_course(script_with_exits: Any) -> None:
    text = page(ReportInput(view_of(script_with_exits), "sqlite:x"))

    assert 2 == text.count("exit after 1 of 2 blocks")
    assert "40.0 %" in text
