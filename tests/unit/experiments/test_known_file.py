"""Data files: the known ones are read, all others refused by what is wrong with them."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from cos2p.errors import SettingsError
from cos2p_experiments.tasks import fashion_mnist, wordnet
from cos2p_experiments.tasks.fashion_mnist import SHA256, read_idx
from cos2p_experiments.tasks.known_file import Source
from cos2p_worker.task import load_task


def write_idx(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> str:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    body = head + array.tobytes()
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files_are_read_plain_or_compressed(tmp_path: Path, ending: str) -> None:
    expected = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    digest = write_idx(tmp_path / f"some{ending}", expected)

    assert np.array_equal(expected, read_idx(tmp_path, "some", digest))


def test_another_file_under_the_right_name_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "some", np.zeros((2, 2), np.uint8))

    with pytest.raises(SettingsError, match="is not the known file"):
        read_idx(tmp_path, "some", SHA256["t10k-labels-idx1-ubyte"])


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    digest = write_idx(tmp_path / "some.gz", np.zeros((40, 40), np.uint8))
    (tmp_path / "some.gz").write_bytes((tmp_path / "some.gz").read_bytes()[:20])

    with pytest.raises(SettingsError, match="can't read"):
        read_idx(tmp_path, "some", digest)


@pytest.mark.parametrize("source", [fashion_mnist.SOURCE, wordnet.SOURCE])
def test_missing_data_name_both_ways_to_get_them(source: Source, tmp_path: Path) -> None:
    task = load_task(source.name.lower()).at(tmp_path, seed=0)

    with pytest.raises(
        SettingsError, match=rf"apt-get install {source.debian_package}.*--data DIR"
    ):
        task.shard(0, 8)
    with pytest.raises(SettingsError, match=f"{source.name}: there is no"):
        task.evaluation_data()
