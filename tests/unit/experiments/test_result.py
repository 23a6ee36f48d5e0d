import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from cos2p.errors import SettingsError
from cos2p.history.device import Announced
from cos2p.history.state import Span
from cos2p.history.version import VersionRow
from cos2p.log.messages import Outcome
from cos2p.run_config import RunConfig
from cos2p_experiments.result import (
    RESULT_FILE,
    CellDevice,
    CellResult,
    CoverageMap,
    CurvePoint,
    Identity,
    read_result,
    write_result,
)


def point(version: int, virtual_s: float, accuracy: float | None) -> CurvePoint:
    return CurvePoint(
        version,
        virtual_s=virtual_s,
        bytes_up=100,
        bytes_down=200,
        device_s=3.0,
        accuracy=accuracy,
        raw_accuracy=accuracy,
        loss=0.5,
    )


def row(version: int, closed_s: float, n_star: int) -> VersionRow:
    """A version of three updates."""
    return VersionRow(
        version,
        closed_s,
        reason="count",
        waited_s=closed_s / version,
        update_count=3,
        coverage_planned=n_star,
        coverage_min=n_star,
        coverage_bound=2.5,
        staleness=(0, 0, 1),
        staleness_mean=1 / 3,
    )


def device(busy_s: float, idle_s: float) -> CellDevice:
    return CellDevice(
        worker_id="worker-0",
        device_class="nano",
        memory_bytes=1000,
        budget=0.25,
        flops_per_s=1e6,
        bytes_per_s=1e6,
        sample_count=10,
        peak_predicted_bytes=900,
        peak_measured_bytes=800,
        idle_s=idle_s,
        train_s=busy_s,
        bytes_up=100,
        bytes_down=200,
        outcomes=Counter({Outcome.ACCEPTED: 2}),
        labels=[Announced(0, (4, 6))],
    )


RESULT = CellResult(
    identity=Identity(
        "quick", "digits", "iid", "ours", "co-s2p", 0, "jetson16", "validation", "ab12"
    ),
    config={"seed": 0},
    horizon_s=60.0,
    ended_s=60.0,
    end_reason="stopped",
    end_detail="",
    versions=2,
    parameters=1000,
    curve=(point(1, 10.0, 0.4), point(2, 20.0, 0.6), point(3, 30.0, 0.5)),
    rounds=(row(1, 9.0, 1),),
    devices=(device(30.0, 30.0), device(60.0, 0.0)),
    segments=(Span("worker-0", "fetch", 0.0, 1.0),),
    coverage=CoverageMap(
        ("stem", "block0.head.0"), (False, True), (0.0, 30.0, 60.0), ((1, 2),) * 2
    ),
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_result(RESULT, tmp_path)

    assert RESULT == read_result(tmp_path)


def test_nothing_but_the_result_is_left_in_the_folder(tmp_path: Path) -> None:
    write_result(RESULT, tmp_path)

    assert [RESULT_FILE] == [p.name for p in tmp_path.iterdir()]


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    path = write_result(RESULT, tmp_path)

    assert "nano" == json.loads(path.read_text())["devices"][0]["device_class"]


def test_another_programs_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / RESULT_FILE).write_text('{"identity": 3}')

    with pytest.raises(SettingsError, match=r"result\.json is not a cell's result.*run the suite"):
        read_result(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"can't read .*result\.json: No such file"):
        read_result(tmp_path)


def test_the_busy_share_is_over_all_devices() -> None:
    assert 0.75 == RESULT.busy_share


def kept_in(new: object, old: object) -> bool:
    """Whether a document holds all that an older one holds. New figures may have come."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and kept_in(new[key], value) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(kept_in, new, old))
    return old == new


def test_results_in_the_archive_lose_nothing_when_this_program_writes_them(tmp_path: Path) -> None:
    archive = Path(__file__).parents[3] / "experiments/results/main.tar.xz"
    with tarfile.open(archive) as files:
        member = next(f for f in files if f.name.endswith(RESULT_FILE))
        kept = files.extractfile(member)
        assert kept is not None
        text = kept.read()
    (tmp_path / RESULT_FILE).write_bytes(text)

    found = read_result(tmp_path)

    RunConfig.model_validate(found.config)
    assert kept_in(json.loads(write_result(found, tmp_path).read_bytes()), json.loads(text))
