"""Moved images: each by its own map, the same every time."""

import numpy as np
import pytest

from cos2p_experiments.tasks.affine import maps, moved

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 6, 6)).astype(np.uint8)


def same_map(rows: list[list[float]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.tile(np.array(rows, np.float32), (len(IMAGES), 1, 1))


def test_the_map_that_moves_nothing_gives_the_same_image() -> None:
    assert np.array_equal(IMAGES, moved(IMAGES, same_map([[1, 0, 0], [0, 1, 0]])))


def test_a_shift_by_one_pixel_brings_in_black() -> None:
    found = moved(IMAGES, same_map([[1, 0, 2 / 6], [0, 1, 0]]))

    assert np.array_equal(IMAGES[:, :, 1:], found[:, :, :-1])
    assert not found[:, :, -1].any()


def test_a_mirrored_image_is_flipped_left_to_right() -> None:
    assert np.array_equal(IMAGES[:, :, ::-1], moved(IMAGES, same_map([[-1, 0, 0], [0, 1, 0]])))


def test_maps_are_the_same_every_time_and_others_with_another_seed() -> None:
    assert np.array_equal(maps(5, seed=1), maps(5, seed=1))
    assert not np.array_equal(maps(5, seed=1), maps(5, seed=2))


def test_maps_turn_and_scale_without_shear_and_mirror_half() -> None:
    linear = maps(2000, seed=0)[:, :, :2].astype(np.float64)

    gram = linear.transpose(0, 2, 1) @ linear
    assert np.abs(gram[:, 0, 1]).max() < 1e-5
    assert np.allclose(gram[:, 0, 0], gram[:, 1, 1])
    zoom = 1 / np.sqrt(gram[:, 0, 0])
    assert (0.6, 1.1) == pytest.approx((zoom.min(), zoom.max()), abs=0.01)
    assert 0.5 == pytest.approx(float((np.linalg.det(linear) < 0).mean()), abs=0.05)
