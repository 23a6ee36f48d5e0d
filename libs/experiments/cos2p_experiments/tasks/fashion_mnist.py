"""Fashion-MNIST: 28 x 28 grey images of clothes, ten classes.

It is read from the four idx files (plain or .gz) in the folder that the user names, else from the
folder of Debian's package.

Of the 60,000 training images the same 5,000 are the validation part of every task here.
`fashion-mnist` is a demo of minutes on two cores: 12,000 of the others go to the devices.
`fashion-mnist-vit` and `-cnn` are the experiments' tasks: all 55,000 go to the devices.
`fashion-affine-vit` and `-cnn` are the same with every image turned, scaled and shifted. There a
half of the model is not as good as the whole.
"""

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cos2p_experiments.tasks import RUN
from cos2p_experiments.tasks.affine import maps, moved
from cos2p_experiments.tasks.known_file import Source
from cos2p_worker.models.resnet import ResNetConfig, Stage, resnet
from cos2p_worker.models.stems import Patches
from cos2p_worker.models.transformer import BlockShape, TransformerConfig, transformer
from cos2p_worker.task import DataPlace, Dataset, Part, Task
from cos2p_worker.tasks.dirichlet import samples_of

CLASSES = 10
SAMPLES_MIN = 64
SUBSET_SEED = 2026
AFFINE_SEEDS = {"train": 2026, "t10k": 2027}
TRAIN_IMAGES = 60_000
VALIDATION_IMAGES = 5_000
SOURCE = Source(
    "Fashion-MNIST",
    debian_package="dataset-fashion-mnist",
    debian_dir=Path("/usr/share/datasets/fashion-mnist"),
    files="the four idx files",
)

SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclass(frozen=True)
class ImageSelection:
    """The images that a task uses."""

    train: int = TRAIN_IMAGES - VALIDATION_IMAGES
    validation: int = VALIDATION_IMAGES
    test: int = 10_000
    affine: bool = False


DEMO = ImageSelection(train=12_000, validation=2_000, test=2_000)
FULL = ImageSelection()
AFFINE = ImageSelection(affine=True)


def train_shard(choice: ImageSelection, place: DataPlace, index: int, count: int) -> Dataset:
    """Return the data of device `index` of `count`, split by `samples_of`."""
    images, labels = _part(choice, place.data_dir, "train")
    own = samples_of(labels, place, index, count, samples_min=SAMPLES_MIN)
    return _dataset(images[own], labels[own])


def evaluation(choice: ImageSelection, place: DataPlace) -> Dataset:
    """Return images that no device trains on."""
    return _dataset(*_part(choice, place.data_dir, place.part))


def read_idx(data_dir: Path | None, name: str, digest: str) -> NDArray[np.uint8]:
    """Return the array in an idx file.

    Raises:
        SettingsError: see `Source.read`.
    """
    body = SOURCE.read(data_dir, name, digest)
    dims = body[3]
    shape = [int.from_bytes(body[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    return np.frombuffer(body, np.uint8, offset=4 + 4 * dims).reshape(shape)


def _part(
    choice: ImageSelection, data_dir: Path | None, part: Part | Literal["train"]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the first images of a part, in an order that is the same everywhere."""
    of = _moved_files if choice.affine else _files
    images, labels = of(data_dir, "t10k" if part == "test" else "train")
    places = np.random.default_rng(SUBSET_SEED).permutation(len(labels))
    if part == "validation":
        places = places[-VALIDATION_IMAGES:]
    places = places[: getattr(choice, part)]
    return images[places], labels[places].astype(np.int64)


@cache
def _moved_files(data_dir: Path | None, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images, labels = _files(data_dir, part)
    return moved(images, maps(len(images), AFFINE_SEEDS[part])), labels


@cache
def _files(data_dir: Path | None, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    names = (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    images, labels = (read_idx(data_dir, name, SHA256[name]) for name in names)
    return images, labels


def _dataset(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Dataset:
    inputs = torch.from_numpy(images[:, None]).to(torch.float32)
    return Dataset(inputs.div_(127.5).sub_(1.0), torch.from_numpy(labels))


TASK = Task(
    name="fashion-mnist",
    model=transformer(
        TransformerConfig(
            stem=Patches(28, channels=1, patch=7),
            width=64,
            blocks=(BlockShape(4, 128),) * 6,
            head_width=16,
            neuron_group=16,
            classes=CLASSES,
        )
    ),
    train_shard=partial(train_shard, DEMO),
    evaluation=partial(evaluation, DEMO),
    classes=CLASSES,
    run=RUN,
)
VIT = replace(
    TASK,
    name="fashion-mnist-vit",
    train_shard=partial(train_shard, FULL),
    evaluation=partial(evaluation, FULL),
)
CNN = replace(
    VIT,
    name="fashion-mnist-cnn",
    model=resnet(
        ResNetConfig(
            image_size=28,
            channels=1,
            stages=(
                Stage(2, width=8, inner=16, stride=2),
                Stage(3, width=16, inner=32, stride=2),
                Stage(3, width=32, inner=64, stride=2),
            ),
            channel_group=8,
            classes=CLASSES,
            pool=2,
        )
    ),
)
AFFINE_VIT, AFFINE_CNN = (
    replace(
        task,
        name=name,
        train_shard=partial(train_shard, AFFINE),
        evaluation=partial(evaluation, AFFINE),
    )
    for task, name in ((VIT, "fashion-affine-vit"), (CNN, "fashion-affine-cnn"))
)
