"""What a cell's log lets go of."""

from dataclasses import replace

import pytest

from cos2p.log.archive import extent_of
from cos2p.log.bus import Offsets
from cos2p_aggregator.replay import replay
from cos2p_experiments.cell import PREFIX, Cell
from cos2p_experiments.fleets import Scale
from cos2p_experiments.retention import TAIL_VERSIONS, Keep
from cos2p_experiments.spec import CellSpec
from cos2p_sim.loop import run_virtual

SPEC = CellSpec(
    suite="test",
    task="digits",
    setting="iid",
    policy="ours",
    base_policy="co-s2p",
    seed=0,
    run={
        "rounds": {"versions": 8, "update_count": 3},
        "local": {"steps": 1, "batch_size": 4},
    },
    evaluate_count=5,
    evaluate_every_s=1e6,
    scale=Scale(step_s=0.05, transfer_steps=1.0),
)


@pytest.fixture(scope="module")
def cells() -> dict[Keep, Cell]:
    """The same cell, kept in each way."""
    ways: tuple[Keep, ...] = ("all", "tail", "log")
    made = {way: Cell(replace(SPEC, keep=way)) for way in ways}
    for cell in made.values():
        run_virtual(cell.run())
    return made


def extent(cell: Cell, topic: str) -> dict[int, Offsets]:
    async def look() -> dict[int, Offsets]:
        return (await extent_of(cell.bus, PREFIX))[f"{PREFIX}-{topic}"]

    return run_virtual(look())


def held(cell: Cell, topic: str) -> int:
    return sum(end.next - end.first for end in extent(cell, topic).values())


def test_what_is_kept_changes_nothing_in_the_run(cells: dict[Keep, Cell]) -> None:
    results = {way: cell.result() for way, cell in cells.items()}

    assert results["all"] == results["tail"] == results["log"]


def test_small_records_are_kept_whatever_is_asked(cells: dict[Keep, Cell]) -> None:
    for topic in ("fleet", "decisions", "models"):
        assert 1 == len({held(cell, topic) for cell in cells.values()})


@pytest.mark.parametrize("topic", ["updates", "checkpoints"])
def test_a_tail_holds_less_than_all_and_a_log_no_blobs(cells: dict[Keep, Cell], topic: str) -> None:
    assert held(cells["all"], topic) > held(cells["tail"], topic) > 0
    assert 0 == held(cells["log"], topic)


def test_weights_that_were_fetched_stay_only_where_all_does(cells: dict[Keep, Cell]) -> None:
    assert held(cells["all"], "submodels") > held(cells["tail"], "submodels") == 0


def test_everything_replays_from_the_start(cells: dict[Keep, Cell]) -> None:
    found = run_virtual(replay(cells["all"].bus, PREFIX))

    found.check()
    assert (0, 9) == (found.started_at, found.compared_count)


def test_a_tail_replays_its_last_versions(cells: dict[Keep, Cell]) -> None:
    found = run_virtual(replay(cells["tail"].bus, PREFIX))

    found.check()
    assert 8 - TAIL_VERSIONS == found.started_at
    assert TAIL_VERSIONS + 1 == found.compared_count
