"""A plan's weights in a file of their own."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cos2p.errors import StorageError
from cos2p_worker.fetch import Base


def test_values_come_back_as_put_and_read_only(tmp_path: Path) -> None:
    with closing(Base(tmp_path / "p1.f32", {3: 2, 5: 1})) as base:
        base.put(3, np.array([1, 2], np.float32))
        base.put(5, np.array([7], np.float32))
        values = base.values

        assert [1, 2] == values[3].tolist()
        assert [7] == values[5].tolist()
        with pytest.raises(ValueError, match="read-only"):
            values[3][0] = 9


def test_closing_removes_the_file(tmp_path: Path) -> None:
    with closing(Base(tmp_path / "p1.f32", {0: 1})):
        assert ["p1.f32"] == [p.name for p in tmp_path.iterdir()]

    assert [] == list(tmp_path.iterdir())


def test_a_disk_that_can_t_hold_the_weights_is_an_error_that_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="free some space or set --scratch-dir"):
        Base(tmp_path / "p1.f32", {0: 1 << 58})

    assert [] == list(tmp_path.iterdir())
