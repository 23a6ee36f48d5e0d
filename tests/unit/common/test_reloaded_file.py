"""A file's value, read again when the file changes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cos2p.errors import SettingsError
from cos2p.reloaded_file import ReloadedFile


def number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file.name} holds no number: {error}") from error


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "number"
    path.write_text("1")
    return path


@pytest.fixture
def write(file: Path, tmp_path: Path) -> Callable[[str], None]:
    """Put a new file in its place, as a mounted Secret changes."""

    def put(text: str) -> None:
        (tmp_path / "new").write_text(text)
        os.replace(tmp_path / "new", file)

    return put


def test_a_changed_file_has_its_new_value(file: Path, write: Callable[[str], None]) -> None:
    value = ReloadedFile(file, number)

    before = value()
    write("22")

    assert (1, 22) == (before, value())


def test_an_unchanged_file_is_not_read_again(file: Path) -> None:
    reads: list[Path] = []

    def counted(path: Path) -> int:
        reads.append(path)
        return number(path)

    value = ReloadedFile(file, counted)

    assert (1, 1) == (value(), value())
    assert [file] == reads


def test_a_wrong_file_is_told_once_and_leaves_the_value(
    file: Path, write: Callable[[str], None]
) -> None:
    warnings: list[str] = []
    value = ReloadedFile(file, number, warnings.append)
    write("none")

    assert (1, 1) == (value(), value())
    assert 1 == len(warnings)


def test_a_file_that_is_gone_leaves_the_value_and_one_that_is_back_is_read(
    file: Path, write: Callable[[str], None]
) -> None:
    value = ReloadedFile(file, number)
    file.unlink()
    gone = value()
    write("3")

    assert (1, 3) == (gone, value())


def test_at_the_start_a_wrong_file_is_an_error(file: Path) -> None:
    file.write_text("")

    with pytest.raises(SettingsError, match="holds no number"):
        ReloadedFile(file, number)
