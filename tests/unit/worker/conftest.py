"""Small models and tasks for the worker's tests."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cos2p.log.messages import Plan
from cos2p.run_config import AnchorConfig, LocalConfig, RunConfig
from cos2p_worker.models.architecture import Architecture
from cos2p_worker.models.resnet import ResNetConfig, Stage, resnet
from cos2p_worker.models.stems import Patches, Words
from cos2p_worker.models.transformer import BlockShape, TransformerConfig, transformer
from cos2p_worker.task import DataPlace, Dataset, Task

CLASSES = 4
LENGTH = 6
"""Words in a text."""
UnitValues = dict[int, NDArray[np.float32]]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def small_vit(pool: str = "mean") -> Architecture:
    shapes = (BlockShape(2, 32), BlockShape(3, 16), BlockShape(2, 48))
    return transformer(TransformerConfig(Patches(8, 1, 4), 24, shapes, 8, 16, CLASSES, pool))  # type: ignore[arg-type]


def small_resnet(pool: int = 1) -> Architecture:
    stages = (Stage(2, 8, 12), Stage(1, 16, 16, stride=2))
    return resnet(ResNetConfig(8, 1, stages, 4, CLASSES, pool=pool))


def small_text(pool: str = "mean") -> Architecture:
    shapes = (BlockShape(2, 32), BlockShape(3, 16), BlockShape(2, 48))
    return transformer(TransformerConfig(Words(LENGTH, 50), 24, shapes, 8, 16, CLASSES, pool))  # type: ignore[arg-type]


MODELS: dict[str, Callable[[], Architecture]] = {
    "vit": small_vit,
    "vit with a class token": lambda: small_vit("token"),
    "resnet": small_resnet,
    "resnet with tiles": lambda: small_resnet(pool=2),
    "text": small_text,
    "text with a class token": lambda: small_text("token"),
}


@pytest.fixture(params=list(MODELS))
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of model that ships."""
    return str(request.param)


@pytest.fixture
def model(kind: str) -> Architecture:
    """A small model of the kind."""
    return MODELS[kind]()


@pytest.fixture
def samples(kind: str) -> Tensor:
    """Sixteen samples that a model of the kind takes."""
    generator = torch.Generator().manual_seed(0)
    if not kind.startswith("text"):
        return torch.randn(16, 1, 8, 8, generator=generator)
    words = torch.randint(1, 50, (16, LENGTH), generator=generator, dtype=torch.int32)
    present = torch.arange(LENGTH) < torch.randint(1, LENGTH + 1, (16, 1), generator=generator)
    return words * present


@pytest.fixture
def vit_model() -> Architecture:
    return small_vit()


@pytest.fixture
def values_of() -> Callable[[Architecture, int], UnitValues]:
    """Random values for every unit of a model, by seed."""

    def make(model: Architecture, seed: int) -> UnitValues:
        rng = np.random.default_rng(seed)
        return {
            u: (0.1 * rng.standard_normal(unit.size)).astype(np.float32)
            for u, unit in enumerate(model.layout.units)
        }

    return make


def two_blobs(count: int, seed: int) -> Dataset:
    """Images whose class is the bright quarter: learned in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    images = 0.3 * torch.randn(count, 1, 8, 8, generator=generator)
    for quarter in range(CLASSES):
        rows, columns = 4 * (quarter // 2), 4 * (quarter % 2)
        images[labels == quarter, :, rows : rows + 4, columns : columns + 4] += 1.0
    return Dataset(images, labels)


def quarters_shard(place: DataPlace, index: int, count: int) -> Dataset:
    return two_blobs(64, 100 * place.seed + index)


def quarters_evaluation(place: DataPlace) -> Dataset:
    return two_blobs(100, 9999)


@pytest.fixture
def task() -> Task:
    """Which quarter of an image is bright, for a small vision transformer."""
    return Task(
        name="quarters",
        model=small_vit(),
        train_shard=quarters_shard,
        evaluation=quarters_evaluation,
        classes=CLASSES,
        run=RunConfig(
            local=LocalConfig(
                steps=4, batch_size=16, learning_rate=3e-3, anchor=AnchorConfig(share=0.0)
            )
        ),
    )


@pytest.fixture
def plan_of() -> Callable[..., Plan]:
    """Plans for a worker's units."""

    def make(
        trained: tuple[int, ...], frozen: tuple[int, ...] = (), steps: int = 4, seed: int = 1
    ) -> Plan:
        return Plan(
            plan_id="p000001",
            worker_id="w",
            incarnation=1,
            base_version=0,
            trained=trained,
            frozen=frozen,
            local_steps=steps,
            batch_size=16,
            learning_rate=3e-3,
            seed=seed,
            deadline_s=10,
            peak_bytes=0,
        )

    return make
