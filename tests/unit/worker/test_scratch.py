"""Folders for dispatched weights, and what workers leave that could not tidy up."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cos2p.errors import StorageError
from cos2p_worker.scratch import own_folder, remove_abandoned, scratch_folder

LIFE = """
import sys
from pathlib import Path
from cos2p_worker.scratch import scratch_folder

with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "p1.f32").write_bytes(bytes(100))
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_worker(parent: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """The folder of a worker in a process of its own, and the process."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIFE, str(parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Path(process.stdout.readline().strip()), process
    finally:
        process.kill()
        process.communicate()


def abandoned(parent: Path) -> Path:
    """The folder of a worker that was killed."""
    with other_worker(parent) as (folder, _):
        pass
    assert (folder / "p1.f32").exists()
    return folder


def test_a_worker_has_a_folder_until_it_leaves(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "made") as folder:
        (folder / "p1.f32").touch()
        assert [folder] == list((tmp_path / "made").iterdir())

    assert [] == list((tmp_path / "made").iterdir())


def test_the_folder_of_a_killed_worker_is_removed(tmp_path: Path) -> None:
    folder = abandoned(tmp_path)

    assert 1 == remove_abandoned(tmp_path)
    assert not folder.exists()


def test_the_folder_of_a_worker_at_work_stays(tmp_path: Path) -> None:
    with other_worker(tmp_path) as (folder, _):
        assert 0 == remove_abandoned(tmp_path)
        assert (folder / "p1.f32").exists()


def test_of_several_workers_folders_only_those_of_dead_ones_are_removed(tmp_path: Path) -> None:
    dead = [abandoned(tmp_path) for _ in range(2)]

    with scratch_folder(tmp_path) as own, other_worker(tmp_path) as (other, _):
        assert 2 == remove_abandoned(tmp_path)
        assert {own, other} == set(tmp_path.iterdir())

    assert not any(folder.exists() for folder in dead)


def test_workers_that_start_at_once_take_nothing_from_each_other(tmp_path: Path) -> None:
    def live(_: int) -> bool:
        with scratch_folder(tmp_path) as folder:
            remove_abandoned(tmp_path)
            (folder / "p1.f32").touch()
            remove_abandoned(tmp_path)
            return (folder / "p1.f32").exists()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(live, range(200)))

    assert [] == list(tmp_path.iterdir())


def test_what_has_no_lock_of_a_worker_is_not_touched(tmp_path: Path) -> None:
    names = ("cos2p-scratch-photos", "cos2p-demo", "photos")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").touch()
    (tmp_path / "cos2p-demo" / "lock").touch()
    (tmp_path / "cos2p-scratch-file").touch()

    assert 0 == remove_abandoned(tmp_path)
    assert all((tmp_path / name / "kept").exists() for name in names)
    assert (tmp_path / "cos2p-scratch-file").exists()


def test_a_link_to_a_folder_elsewhere_is_not_followed(tmp_path: Path) -> None:
    parent = tmp_path / "scratch"
    parent.mkdir()
    elsewhere = abandoned(tmp_path)
    (parent / elsewhere.name).symlink_to(elsewhere)

    assert 0 == remove_abandoned(parent)
    assert (elsewhere / "p1.f32").exists()


def test_links_in_an_abandoned_folder_are_removed_and_not_what_they_point_to(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "photo").touch()
    parent = tmp_path / "scratch"
    folder = abandoned(parent)
    (folder / "to_folder").symlink_to(data)
    (folder / "to_file").symlink_to(data / "photo")
    (folder / "below").mkdir()
    (folder / "below" / "to_folder").symlink_to(data)

    assert 1 == remove_abandoned(parent)
    assert [] == list(parent.iterdir())
    assert (data / "photo").exists()


def test_a_lock_that_is_a_link_is_not_taken(tmp_path: Path) -> None:
    folder = abandoned(tmp_path / "scratch")
    (folder / "lock").rename(tmp_path / "lock")
    (folder / "lock").symlink_to(tmp_path / "lock")

    assert 0 == remove_abandoned(tmp_path / "scratch")
    assert (folder / "p1.f32").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_folder_of_another_user_is_not_touched(tmp_path: Path) -> None:
    folder = abandoned(tmp_path)
    os.chown(folder, 12345, -1)

    assert 0 == remove_abandoned(tmp_path)
    assert folder.exists()


def test_a_place_that_is_not_there_has_nothing_to_remove(tmp_path: Path) -> None:
    assert 0 == remove_abandoned(tmp_path / "none")


def test_a_folder_that_can_t_be_made_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(StorageError, match="file/below"),
        scratch_folder(tmp_path / "file" / "below"),
    ):
        pass


def test_a_worker_s_own_folder_is_there_again_at_its_next_start(tmp_path: Path) -> None:
    for _ in range(2):
        with own_folder(tmp_path, "w0", "run-1", lambda: True) as folder:
            before = sorted(entry.name for entry in folder.iterdir())
            (folder / "unit").touch()

    assert ["lock", "unit"] == before


def test_a_worker_s_own_folder_goes_with_the_run(tmp_path: Path) -> None:
    with own_folder(tmp_path, "w0", "run-1", lambda: False) as folder:
        (folder / "unit").touch()

    assert [] == list(tmp_path.iterdir())


def test_what_another_run_left_in_a_worker_s_own_folder_is_removed(tmp_path: Path) -> None:
    with own_folder(tmp_path, "w0", "run-1", lambda: True) as folder:
        (folder / "unit").touch()
        (folder / "below").mkdir()
    with own_folder(tmp_path, "w0", "run-2", lambda: True) as folder:
        assert ["lock"] == [entry.name for entry in folder.iterdir()]


def test_a_worker_s_own_folder_has_one_process(tmp_path: Path) -> None:
    with (
        own_folder(tmp_path, "w0", "run-1", lambda: True),
        pytest.raises(StorageError, match="another process works as w0"),
        own_folder(tmp_path, "w0", "run-1", lambda: True),
    ):
        pass


def test_an_own_folder_that_can_t_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(StorageError, match="can't make the folder"),
        own_folder(tmp_path / "file", "w0", "run-1", lambda: True),
    ):
        pass
