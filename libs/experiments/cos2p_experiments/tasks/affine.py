"""Images turned, scaled, shifted and half of them mirrored: each with its own fixed map.

The idea is from affNIST (MNIST under random affine maps). A few filters at fixed places can
separate upright objects in the middle of an image. They can't separate these, so depth and width
help much earlier.

Invariant: the map of an image depends only on its position and the seed.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

TURN_DEGREES = 60.0
"""Largest turn, in either direction."""
SCALES = (0.6, 1.1)
SHIFT = 0.15
"""Largest shift, in sides of the image."""
CHUNK = 2_000


def maps(count: int, seed: int) -> NDArray[np.float32]:
    """Make a map per image, (count, 2, 3): from places in the new image to those in the old one.

    Coordinates run from -1 to 1.
    """
    rng = np.random.default_rng(seed)
    angle = np.deg2rad(rng.uniform(-TURN_DEGREES, TURN_DEGREES, count))
    mirror = rng.choice([-1.0, 1.0], count)
    scale = rng.uniform(*SCALES, count)
    found = np.empty((count, 2, 3), np.float32)
    found[:, 0, 0], found[:, 0, 1] = mirror * np.cos(angle), -np.sin(angle)
    found[:, 1, 0], found[:, 1, 1] = mirror * np.sin(angle), np.cos(angle)
    found[:, :, :2] /= scale[:, None, None]
    found[:, :, 2] = rng.uniform(-2 * SHIFT, 2 * SHIFT, (count, 2))
    return found


def moved(images: NDArray[np.uint8], each: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return images (count, side, side) under their maps, on black; bilinear."""
    result = np.empty_like(images)
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        old = torch.from_numpy(images[part, None].astype(np.float32))
        grid = functional.affine_grid(
            torch.from_numpy(each[part]), list(old.shape), align_corners=False
        )
        new = functional.grid_sample(old, grid, align_corners=False)
        result[part] = new[:, 0].round().to(torch.uint8).numpy()
    return result
