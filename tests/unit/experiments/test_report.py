"""The report's folder: what it holds, what it says of cells that are missing."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_results import cell, study

from cos2p.errors import StorageError
from cos2p_experiments.report import write_report
from cos2p_experiments.study import Missing, Study

POLICIES = (("co-s2p", "semi-async"), ("rolling", "semi-async"), ("heterofl", "synchronous"))


def small(**changes: Any) -> Study:
    cells = [cell(p, s, closing=c) for p, c in POLICIES for s in (0, 1)]
    return study(cells, **changes)


def text_of(given: Study, folder: Path) -> str:
    """Of the report without plots."""
    return write_report(given, folder, with_plots=False)[0].read_text()


def test_every_plot_that_it_names_lies_beside_it_and_is_not_empty(tmp_path: Path) -> None:
    text = write_report(small(), tmp_path)[0].read_text()

    named = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert {"time-skewed.png", "bytes-skewed.png", "memory-skewed.png"} < set(named)
    assert {"gantt-skewed.png", "coverage-skewed.png", "against-rolling-skewed.png"} < set(named)
    assert all((tmp_path / name).stat().st_size > 1000 for name in named)


def test_every_table_is_there_as_csv_too(tmp_path: Path) -> None:
    text_of(small(), tmp_path)

    expected = {"accuracy", "bytes", "against-rolling", "against-heterofl", "cost"}
    assert {f"{n}-skewed.csv" for n in expected} | {"goals.csv"} == {
        p.name for p in tmp_path.glob("*.csv")
    }


def test_it_says_seeds_data_commit_machine_cost_tuning_and_the_suite_s_own_text(
    tmp_path: Path,
) -> None:
    given = small(tuning="on two other seeds", suite_text='name = "sample"')

    text = text_of(given, tmp_path)

    for words in ("6 of 6 cells", "seeds 0, 1", "the test data", "Commit unknown"):
        assert words in text
    for words in ("0.15 CPU hours", "How tuned: on two other seeds", 'name = "sample"'):
        assert words in text


def test_cells_of_several_commits_are_seen_as_such(tmp_path: Path) -> None:
    cells = [cell(seed=0), cell(seed=1), cell(seed=2)]
    cells[2] = replace(cells[2], identity=replace(cells[2].identity, commit="abc"))

    assert "Commit unknown (2 cells), abc (1 cell)" in text_of(study(cells), tmp_path)


def test_missing_cells_come_first_grouped_by_reason(tmp_path: Path) -> None:
    gaps = tuple(Missing("skewed", "depthfl", seed, "not run") for seed in (0, 1, 2))

    text = text_of(small(missing=gaps), tmp_path)

    assert "6 of 9 cells" in text
    assert re.search(r"\| skewed +\| depthfl +\| 0-2 +\| not run +\|", text)
    assert text.index("not run") < text.index("What it should show")


def test_a_cell_that_stalled_is_listed_with_its_reason_and_still_counts(tmp_path: Path) -> None:
    stalled = replace(cell("heterofl"), end_reason="stalled", end_detail="no device fits")

    text = text_of(study([cell(), stalled]), tmp_path)

    assert "stalled after 90 s: no device fits" in text
    assert re.search(r"\| heterofl \| 1 ", text)


def test_a_cell_that_was_judged_too_seldom_is_doubtful(tmp_path: Path) -> None:
    """Versions close at 30, 60, 90 s; only the first is judged, which late stands on."""
    seldom = replace(cell("heterofl"), curve=cell().curve[:1])

    text = text_of(study([cell(), seldom]), tmp_path)

    assert "judged too seldom: its figures at late are" in text
    assert 1 == text.count("judged too seldom")


def test_a_suite_without_any_cell_says_what_is_missing(tmp_path: Path) -> None:
    empty = study([], missing=(Missing("skewed", "co-s2p", 0, "x"),))

    text = text_of(empty, tmp_path)

    assert "0 of 1 cells" in text
    assert [] == list(tmp_path.glob("*.png"))


def test_one_cell_alone_makes_a_report(tmp_path: Path) -> None:
    text = write_report(study([cell()]), tmp_path)[0].read_text()

    assert "60.0" in text


def test_an_ablation_compares_with_its_reference_and_has_no_goals(tmp_path: Path) -> None:
    cells = [cell(p, s, base="co-s2p") for p in ("all on", "no floor") for s in (0, 1)]
    given = study(cells, kind="ablation", reference="all on", opponent=None)

    text = text_of(given, tmp_path)

    assert "### Against all on" in text
    assert "What it should show" not in text


def test_the_same_cells_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_report(small(), tmp_path / "a", with_plots=False)
    second = write_report(small(), tmp_path / "b", with_plots=False)

    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]


def test_a_folder_that_can_t_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="can't write the report"):
        write_report(small(), tmp_path / "file")
