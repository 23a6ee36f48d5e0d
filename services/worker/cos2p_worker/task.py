"""Tasks: what a user writes to train their own model, in some forty lines.

Invariants:
- A task is an object named `module:attribute`.
- The same task gives the same model, units and shards in every process.
- Evaluation data is read only by the evaluator and by comparisons.
- The training data do not depend on which part is evaluated. So a choice made on the validation
  part has seen nothing of the test part.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from cos2p.errors import SettingsError
from cos2p.model.units import UnitTable
from cos2p.run_config import RunConfig
from cos2p_worker.layout import Layout
from cos2p_worker.loss import Loss
from cos2p_worker.models.architecture import Architecture
from cos2p_worker.models.exits import Exits, exits_of


@dataclass(frozen=True)
class Dataset:
    """Samples in memory: the model's inputs and the loss's labels, first dimension the samples.

    For classification the labels are int64 class numbers.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels) or not len(self.inputs):
            raise SettingsError(
                f"a dataset needs samples, as many inputs as labels: {len(self.inputs)} inputs, "
                f"{len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def thinned(self, count: int) -> "Dataset":
        """Return `count` samples at even distances; all of them if there are no more."""
        if count < 1:
            raise SettingsError(f"a dataset can't be thinned to {count} samples")
        if count >= len(self):
            return self
        places = torch.arange(count) * len(self) // count
        return Dataset(self.inputs[places], self.labels[places])


Part = Literal["test", "validation"]
"""Data that no device trains on: the test part for results, the validation part for choices."""


@dataclass(frozen=True)
class DataPlace:
    """Where a task's data are, and how they are distributed.

    Attributes:
        data_dir: the folder that the user named, if any.
        seed: seed of the split into shards; the same in every process of a run.
        alpha: concentration of the Dirichlet split of labels: smaller is more unequal, infinity is
            even (IID); None is the task's own. A task with natural shards does not use it.
        part: the part that `evaluation_data` returns.
    """

    data_dir: Path | None = None
    seed: int = 0
    alpha: float | None = None
    part: Part = "test"

    def __post_init__(self) -> None:
        if self.alpha is not None and not self.alpha > 0:
            raise SettingsError(
                f"alpha {self.alpha}: a Dirichlet concentration is above 0 (inf splits evenly)"
            )


@dataclass(frozen=True)
class Task:
    """A model, its data and its loss.

    Attributes:
        name: the task's name for people.
        train_shard: (place, index, count) to the data of device `index` of `count`.
        evaluation: (place) to data that no device trains on: `place.part` of them.
        classes: number of labels; None where the labels are not classes (no accuracy, no logit
            adjustment).
        run: the settings that suit this task; a run file overrides them.
    """

    name: str
    model: Architecture
    train_shard: Callable[[DataPlace, int, int], Dataset]
    evaluation: Callable[[DataPlace], Dataset]
    classes: int | None = None
    loss: Loss = functional.cross_entropy
    run: RunConfig = field(default_factory=RunConfig)
    place: DataPlace = field(default_factory=DataPlace)

    @property
    def layout(self) -> Layout:
        """The model's units and their slices."""
        return self.model.layout

    @property
    def units(self) -> UnitTable:
        """The model's units."""
        return self.model.layout.table

    def at(
        self,
        data_dir: Path | None,
        seed: int,
        *,
        alpha: float | None = None,
        part: Part = "test",
    ) -> "Task":
        """Return the same task with its data elsewhere, split otherwise, or with another part.

        Raises:
            SettingsError: a value that `Place` does not allow.
        """
        return replace(self, place=DataPlace(data_dir, seed, alpha, part))

    def for_run(self, config: RunConfig) -> "Task":
        """Return the same task with the model that the run's settings require: its exits.

        Every process of a run has to use it: exits are units, so they are in the unit table.

        Raises:
            SettingsError: this task can't be trained with these settings.
        """
        local = config.local
        if self.classes is None and local.objective != "final":
            raise SettingsError(
                f"task {self.name} has no classes: set local.objective = 'final', the other "
                "objectives compare class probabilities"
            )
        return self.with_exits(
            exits_of(local, self.units.block_count),
            f"the model of task {self.name} can't have exits: local.objective = "
            f"{local.objective!r} needs them",
        )

    def with_exits(self, exits: Exits, refusal: str) -> "Task":
        """Return the same task with these exits.

        Raises:
            SettingsError: its model can't have any; the text is `refusal`.
        """
        if exits == self.model.exits:
            return self
        if self.model.with_exits is None:
            raise SettingsError(refusal)
        return replace(self, model=self.model.with_exits(exits))

    def require_made_for(self, config: RunConfig) -> None:
        """Check that the model is the run's, or one that has more exits than it requires.

        Raises:
            SettingsError: `for_run` was forgotten, or these settings don't suit the task.
        """
        model = self.for_run(config).model
        if model.exits and model.exits != self.model.exits:
            raise SettingsError(
                f"the model of task {self.name} lacks the exits that local.objective = "
                f"{config.local.objective!r} needs: take Task.for_run(config)"
            )

    def shard(self, index: int, count: int) -> Dataset:
        """Return the data of device `index` of `count`.

        Raises:
            SettingsError: there is no such shard, or its data are not what the task promises.
        """
        if not 0 <= index < count:
            raise SettingsError(f"there is no shard {index} of {count}")
        return self._checked(self.train_shard(self.place, index, count))

    def evaluation_data(self) -> Dataset:
        """Return data that no device trains on: the place's part."""
        return self._checked(self.evaluation(self.place))

    def label_counts(self, data: Dataset) -> tuple[int, ...] | None:
        """Return the samples per label; None for a task without classes."""
        if self.classes is None:
            return None
        return tuple(torch.bincount(data.labels, minlength=self.classes).tolist())

    def _checked(self, data: Dataset) -> Dataset:
        if self.classes is not None:
            labels = data.labels
            if labels.dtype != torch.int64 or labels.ndim != 1:
                raise SettingsError(f"task {self.name}: labels must be int64, one per sample")
            if int(labels.min()) < 0 or int(labels.max()) >= self.classes:
                raise SettingsError(f"task {self.name}: labels must be in 0..{self.classes - 1}")
        return data


@cache
def short_names() -> Mapping[str, str]:
    """Return `module:attribute` by short name: the worker's own task, then installed ones.

    Any installed package gives its tasks short names as entry points of the group `cos2p.tasks`.
    """
    found = {"digits": "cos2p_worker.tasks.digits:TASK"}
    return found | {point.name: point.value for point in entry_points(group="cos2p.tasks")}


def load_task(name: str) -> Task:
    """Load the task named `module:attribute`, or by a short name.

    Modules of the current folder can be named, as with `python -m`.

    Raises:
        SettingsError: no such module or attribute, or it is not a task; the text names which.
    """
    module_name, colon, attribute = short_names().get(name, name).partition(":")
    if not colon or not module_name or not attribute:
        raise SettingsError(
            f"{name!r} names no task: use module:attribute, or one of {', '.join(short_names())}"
        )
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"task {name!r}: there is no module {error.name!r} (searched from {here})"
        ) from error
    except ImportError as error:
        raise SettingsError(f"task {name!r}: {error}") from error
    if not hasattr(module, attribute):
        raise SettingsError(f"task {name!r}: module {module_name} has no {attribute!r}")
    task = getattr(module, attribute)
    if not isinstance(task, Task):
        raise SettingsError(f"task {name!r} is a {type(task).__name__}, not a Task")
    return task
