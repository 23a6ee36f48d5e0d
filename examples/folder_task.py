"""A task for your own images: one sub-folder per class, any format that Pillow reads.

    COS2P_DATA_DIR=photos cos2p demo --task examples.folder_task:TASK

Change CLASSES to the number of your sub-folders. Of each class, every tenth image is for the test,
every tenth for validation (where settings are tuned), and the rest is dealt out to the devices.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cos2p.errors import SettingsError
from cos2p_worker.models.stems import Patches
from cos2p_worker.models.transformer import BlockShape, TransformerConfig, transformer
from cos2p_worker.task import DataPlace, Dataset, Task

CLASSES, SIDE = 3, 32


def load(place: DataPlace, part: str) -> Dataset:
    """All images of the train, test or validation part, RGB in -1..1, shape (n, 3, SIDE, SIDE)."""
    folders = sorted(p for p in (place.data_dir or Path("photos")).glob("*") if p.is_dir())
    if len(folders) != CLASSES:
        raise SettingsError(f"found {len(folders)} class folders, CLASSES is {CLASSES}")
    images, labels = [], []
    for label, folder in enumerate(folders):
        for i, path in enumerate(sorted(folder.iterdir())):
            if {0: "test", 5: "validation"}.get(i % 10, "train") == part:
                image = Image.open(path).convert("RGB").resize((SIDE, SIDE))
                images.append(np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1.0)
                labels.append(label)
    return Dataset(torch.from_numpy(np.stack(images)), torch.tensor(labels))


def train_shard(place: DataPlace, index: int, count: int) -> Dataset:
    """Every count-th image. On real devices each has its own folder: return all of it."""
    data = load(place, "train")
    return Dataset(data.inputs[index::count], data.labels[index::count])


def evaluation(place: DataPlace) -> Dataset:
    """What nobody trains on."""
    return load(place, place.part)


MODEL = TransformerConfig(Patches(SIDE, 3, 8), 64, (BlockShape(4, 128),) * 4, 16, 16, CLASSES)
TASK = Task("folder", transformer(MODEL), train_shard, evaluation, CLASSES)
