"""Handwritten digits (scikit-learn's `load_digits`): 1,797 grey images of 8 x 8, ten classes.

A fifth of the images is the test part, a tenth of the rest the validation part. Both are fixed,
stratified by class, and never given to devices.
"""

from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cos2p.errors import SettingsError
from cos2p.run_config import LocalConfig, MergeConfig, PlanConfig, RoundConfig, RunConfig
from cos2p_worker.models.stems import Patches
from cos2p_worker.models.transformer import BlockShape, TransformerConfig, transformer
from cos2p_worker.task import DataPlace, Dataset, Part, Task
from cos2p_worker.tasks.dirichlet import samples_of

CLASSES = 10
SAMPLES_MIN = 32
SPLIT_SEED = 2026
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
"""Share of the images that are not in the test part."""

MODEL = TransformerConfig(
    stem=Patches(8, channels=1, patch=4),
    width=48,
    blocks=(BlockShape(4, 96),) * 4,
    head_width=12,
    neuron_group=16,
    classes=CLASSES,
)


def train_shard(place: DataPlace, index: int, count: int) -> Dataset:
    """Return the data of device `index` of `count`, split by `samples_of`."""
    images, labels = _part("train")
    own = samples_of(labels, place, index, count, samples_min=SAMPLES_MIN)
    return _dataset(images[own], labels[own])


def evaluation(place: DataPlace) -> Dataset:
    """Return images that no device trains on."""
    return _dataset(*_part(place.part))


def _dataset(images: NDArray[np.float32], labels: NDArray[np.int64]) -> Dataset:
    return Dataset(torch.from_numpy(images[:, None]), torch.from_numpy(labels))


@cache
def _part(part: Part | Literal["train"]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise SettingsError(
            "the digits come with scikit-learn: install Co-S2P's extra `digits`"
        ) from error
    found = load_digits()
    images = (found.images / 8.0 - 1.0).astype(np.float32)
    labels = found.target.astype(np.int64)
    chosen = _parts(labels) == part
    return images[chosen], labels[chosen]


def _parts(labels: NDArray[np.int64]) -> NDArray[np.str_]:
    """Return the part that each image is in."""
    rng = np.random.default_rng(SPLIT_SEED)
    parts = np.full(len(labels), "train", dtype="<U10")
    for label in range(CLASSES):
        places = rng.permutation(np.flatnonzero(labels == label))
        test = round(TEST_SHARE * len(places))
        validation = round(VALIDATION_SHARE * (len(places) - test))
        parts[places[:test]] = "test"
        parts[places[test : test + validation]] = "validation"
    return parts


TASK = Task(
    name="digits",
    model=transformer(MODEL),
    train_shard=train_shard,
    evaluation=evaluation,
    classes=CLASSES,
    # The margin covers what transients add to the cost model's forecast in the smallest submodels.
    run=RunConfig(
        rounds=RoundConfig(versions=60),
        local=LocalConfig(steps=20, learning_rate=2e-3, learning_rate_final=0.3),
        plans=PlanConfig(memory_margin=0.05, coverage_floor=1),
        merge=MergeConfig(average_decay=0.97, checkpoint_every=5),
    ),
)
