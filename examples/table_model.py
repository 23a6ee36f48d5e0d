"""A model of your own, written from scratch: a residual network on a table of numbers.

    cos2p run --task examples.table_model:TASK --workers 4 --memory 150KB --bus runs/table

The data here is scikit-learn's breast cancer table: 569 rows, 30 columns, 2 classes. Replace `load`
with yours, and `Block` and `Net` with your model.
"""

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.nn import functional

from cos2p.model.units import STEM
from cos2p.run_config import LocalConfig, RoundConfig, RunConfig
from cos2p_worker.layout import Layout, Slice, UnitSpec, whole
from cos2p_worker.models.architecture import Architecture
from cos2p_worker.task import DataPlace, Dataset, Task

COLUMNS, CLASSES = 30, 2
WIDTH, BLOCKS, NEURONS, GROUP = 32, 4, 64, 16


class Block(nn.Module):
    """One residual block. Its inner width may differ from device to device."""

    def __init__(self, neurons: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, neurons)
        self.fc2 = nn.Linear(neurons, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Float (batch, WIDTH), in and out."""
        y: Tensor = x + self.fc2(functional.relu(self.fc1(self.norm(x))))
        return y


class Net(nn.Module):
    """The model, or a smaller one: `neurons` has an entry for each block that is there."""

    def __init__(self, neurons: dict[int, int]) -> None:
        super().__init__()
        self.embed = nn.Linear(COLUMNS, WIDTH)
        self.blocks = nn.ModuleDict({str(i): Block(n) for i, n in sorted(neurons.items())})
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        """Float rows (batch, COLUMNS) to logits (batch, CLASSES)."""
        x = self.embed(rows)
        for block in self.blocks.values():
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


def units() -> list[UnitSpec]:
    """The model cut into units. FLOPs and kept values are per row of the table."""
    ends = whole(SHAPES, "embed.weight", "embed.bias", "head.weight", "head.bias")
    # The label is an int64: as large as two float32.
    flops, kept = 2 * WIDTH * (COLUMNS + CLASSES), COLUMNS + WIDTH + CLASSES + 2
    specs = [UnitSpec("ends", "core", STEM, ends, flops, kept)]
    for block in range(BLOCKS):
        at, name = f"blocks.{block}.", f"block{block}"
        core = whole(SHAPES, at + "norm.weight", at + "norm.bias", at + "fc2.bias")
        specs.append(UnitSpec(f"{name}.core", "core", block, core, 10 * WIDTH, 2 * WIDTH + 2))
        for i, start in enumerate(range(0, NEURONS, GROUP)):
            slices = (
                Slice(at + "fc1.weight", 0, start, start + GROUP),
                Slice(at + "fc1.bias", 0, start, start + GROUP),
                Slice(at + "fc2.weight", 1, start, start + GROUP),
            )
            cost = (4 * WIDTH * GROUP, GROUP)
            specs.append(UnitSpec(f"{name}.neurons.{i}", "neurons", block, slices, *cost))
    return specs


def build(chosen: tuple[int, ...]) -> nn.Module:
    """The module that holds exactly these units."""
    neurons: dict[int, int] = {}
    for unit in (LAYOUT.units[u] for u in chosen):
        if unit.kind == "neurons":
            neurons[unit.block] = neurons.get(unit.block, 0) + GROUP
    return Net(neurons)


def load(part: str) -> Dataset:
    """The rows of the train, test or validation part, each column scaled to mean 0 and sd 1."""
    rows, labels = load_breast_cancer(return_X_y=True)
    rows = (rows - rows.mean(0)) / rows.std(0)
    places = np.arange(len(rows)) % 10
    mine = {"test": places == 0, "validation": places == 5}.get(part, places % 5 != 0)
    return Dataset(torch.tensor(rows[mine], dtype=torch.float32), torch.tensor(labels[mine]))


def train_shard(place: DataPlace, index: int, count: int) -> Dataset:
    """What device `index` of `count` trains on. On a real device: its own file, whole."""
    data = load("train")
    return Dataset(data.inputs[index::count], data.labels[index::count])


def evaluation(place: DataPlace) -> Dataset:
    """Rows that no device trains on."""
    return load(place.part)


with torch.device("meta"):  # shapes only, no memory
    SHAPES = {
        n: tuple(p.shape) for n, p in Net(dict.fromkeys(range(BLOCKS), NEURONS)).named_parameters()
    }
LAYOUT = Layout(SHAPES, units())
OUTPUTS = frozenset(f"blocks.{b}.fc2.{end}" for b in range(BLOCKS) for end in ("weight", "bias"))
MODEL = Architecture(LAYOUT, build, branch_outputs=OUTPUTS)
RUN = RunConfig(
    rounds=RoundConfig(versions=40),
    local=LocalConfig(steps=10, batch_size=16, learning_rate=2e-3),
)
TASK = Task("table", MODEL, train_shard, evaluation, CLASSES, run=RUN)
