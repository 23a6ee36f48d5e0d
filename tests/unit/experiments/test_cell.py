"""Whole cells on the digits, cut short."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cos2p.errors import SettingsError
from cos2p_experiments.cell import Cell, run_cell
from cos2p_experiments.fleets import Scale
from cos2p_experiments.result import RUN_FILE, CellResult, read_result
from cos2p_experiments.spec import CellSpec
from cos2p_sim.loop import run_virtual

SHORT = CellSpec(
    suite="test",
    task="digits",
    setting="iid",
    policy="ours",
    base_policy="co-s2p",
    seed=3,
    alpha=float("inf"),
    run={
        "local": {"steps": 2, "batch_size": 8},
        "rounds": {"update_count": 3},
    },
    horizon_s=2.0,
    evaluate_every_s=0.5,
    evaluate_count=50,
    scale=Scale(step_s=0.05, transfer_steps=1.0),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[CellResult, Path]:
    """A cell that keeps all blobs, and its folder."""
    folder = tmp_path_factory.mktemp("cell") / "a"
    return run_cell(replace(SHORT, keep="all"), folder), folder


def fingerprint(spec: CellSpec) -> str:
    cell = Cell(spec)
    run_virtual(cell.run())
    return cell.bus.fingerprint()


def test_a_cell_ends_at_its_horizon(done: tuple[CellResult, Path]) -> None:
    result, _ = done

    assert "target" == result.end_reason
    assert pytest.approx(2.0, abs=0.01) == result.ended_s


def test_it_learns_from_all_sixteen_devices() -> None:
    """Closing on three of them: the slow ones' first plans are stale, until their pace is known."""
    result = run_cell(replace(SHORT, horizon_s=4.0))

    assert 16 == len(result.devices)
    assert all(d.merged_count for d in result.devices)


def test_it_is_evaluated_once_in_each_stretch_and_at_the_end(
    done: tuple[CellResult, Path],
) -> None:
    result, _ = done

    versions = [p.version for p in result.curve]
    assert versions == sorted(set(versions))
    assert 5 >= len(versions) >= 4
    assert (0, result.versions) == (versions[0], versions[-1])


def test_each_verdict_tells_the_accuracy_of_units_unscaled(
    done: tuple[CellResult, Path],
) -> None:
    result, _ = done

    assert all(p.plain_accuracy is not None for p in result.curve)
    assert result.curve[0].plain_accuracy == result.curve[0].accuracy


def test_no_device_measured_more_than_it_has(done: tuple[CellResult, Path]) -> None:
    result, _ = done

    assert [] == [d for d in result.devices if not 0 < d.peak_measured_bytes <= d.memory_bytes]


def test_each_device_works_and_waits_for_as_long_as_the_run_lasts(
    done: tuple[CellResult, Path],
) -> None:
    result, _ = done

    assert [pytest.approx(result.ended_s)] * 16 == [d.busy_s + d.idle_s for d in result.devices]


def test_segments_of_a_device_do_not_overlap(done: tuple[CellResult, Path]) -> None:
    result, _ = done

    for device in result.devices:
        own = [s for s in result.segments if s.worker_id == device.worker_id]
        assert own
        ends = [s.end_s for s in own[:-1]]
        assert [] == [e for e, s in zip(ends, own[1:], strict=True) if e > s.start_s + 0.002]


def test_bytes_grow_along_the_curve(done: tuple[CellResult, Path]) -> None:
    result, _ = done

    first, last = result.curve[0], result.curve[-1]
    assert (0, 0) == (first.bytes_up, first.bytes_down)
    assert last.bytes_down >= last.bytes_up > 0


def test_the_coverage_map_counts_every_merged_update(done: tuple[CellResult, Path]) -> None:
    result, _ = done

    assert sum(r.update_count for r in result.rounds) == sum(result.coverage.counts[0])


def test_the_result_lies_beside_the_run_file(done: tuple[CellResult, Path]) -> None:
    result, folder = done

    assert result == read_result(folder)


@pytest.mark.parametrize("keep", ["all", "tail"])
def test_a_run_file_replays_to_the_same_bytes(
    done: tuple[CellResult, Path], tmp_path: Path, keep: str
) -> None:
    _, folder = done
    if keep == "tail":
        folder = tmp_path
        run_cell(SHORT, folder)

    cos2p = [sys.executable, "-c", "from cos2p_cli.main import main; main()"]
    replayed = subprocess.run(
        [*cos2p, "replay", "--bus", str(folder / RUN_FILE)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (replayed.returncode, replayed.stderr)
    assert "all digests agree" in replayed.stdout
    assert ("from the start" in replayed.stdout) == (keep == "all")


def test_the_same_cell_gives_the_same_bytes() -> None:
    spec = replace(SHORT, keep="all", horizon_s=0.8)

    assert fingerprint(spec) == fingerprint(spec)


def test_another_seed_gives_other_bytes() -> None:
    spec = replace(SHORT, horizon_s=0.5)

    assert fingerprint(spec) != fingerprint(replace(spec, seed=4))


def test_what_is_kept_is_no_part_of_a_cells_identity() -> None:
    assert SHORT.key == replace(SHORT, keep="all").key


def test_every_setting_is_part_of_a_cells_identity() -> None:
    assert SHORT.digest != replace(SHORT, changes={"local": {"steps": 3}}).digest


def test_a_run_that_no_device_can_train_is_a_result_that_says_so(tmp_path: Path) -> None:
    demand = {"liveness": {"min_workers": 17, "stall_after_s": 3.0}}

    result = run_cell(replace(SHORT, horizon_s=60.0, run=demand), tmp_path)

    assert "stalled" == result.end_reason
    assert "16 of the 17 required devices" in result.end_detail


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(SettingsError, match="no policy is named 'best'"):
        run_cell(replace(SHORT, base_policy="best"))


def test_an_unknown_fleet_is_named() -> None:
    with pytest.raises(SettingsError, match="no fleet is named 'yacht': take one of jetson16,"):
        run_cell(replace(SHORT, fleet="yacht"))


def test_a_cell_leaves_no_loop_behind() -> None:
    run_cell(replace(SHORT, horizon_s=0.5))

    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
