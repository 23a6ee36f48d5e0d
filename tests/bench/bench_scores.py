"""What collecting gate scores adds to the training of a plan, at the default settings."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from rows import Row

from cos2p.run_config import PlanConfig, RunConfig
from cos2p_worker.initial import initial_values
from cos2p_worker.submodel import all_units
from cos2p_worker.task import Dataset, Task, load_task
from cos2p_worker.torch_trainer import local_machine, local_plan
from cos2p_worker.train import HeldState, Training
from cos2p_worker.trainer import TrainingControl

TASKS = ("fashion-mnist-vit", "digits", "fashion-mnist-cnn")
STEPS, BATCH, SAMPLES = 10, 32, 320
REPETITIONS = 31
SHARE_MAX = 0.05


def rows() -> list[Row]:
    """Share of CPU time that scores add, per model."""
    torch.set_num_threads(1)
    return [_row(name) for name in TASKS]


def _row(name: str) -> Row:
    task = load_task(name)
    plain, scored = _plans(task, "none"), _plans(task, "gate")
    for series in (plain, scored):
        next(series)  # the peak is measured once, by which steps are slower
    took = np.array([(next(plain), next(scored)) for _ in range(REPETITIONS)])
    plain_s, scored_s = np.median(took, axis=0)
    value = float(scored_s / plain_s) - 1
    note = f"{STEPS} steps of {BATCH}, {1000 * plain_s:.0f} ms without; ratio of medians of "
    note += f"{REPETITIONS} interleaved plans, CPU time of one thread"
    budget = f"< {100 * SHARE_MAX:.0f} %"
    return Row(f"gate scores, {name}", 100 * value, "% time", budget, value < SHARE_MAX, note)


def _plans(task: Task, importance: str) -> Iterator[float]:
    """Seconds of CPU of one plan after another, on data without a meaning."""
    config = RunConfig(plans=PlanConfig.model_validate({"importance": importance}))
    local = config.local.model_copy(update={"batch_size": BATCH, "steps": STEPS})
    config = config.model_copy(update={"local": local})
    training = Training(task, _noise(task), config, local_machine())
    units = all_units(task.model)
    plan, base = local_plan(units, STEPS, local, seed=1), initial_values(task, 0, units)
    held: HeldState | None = None
    while True:
        began = time.thread_time()
        _, held = training.run(plan, base, held, TrainingControl())
        yield time.thread_time() - began


def _noise(task: Task) -> Dataset:
    side = 8 if task.name == "digits" else 28
    generator = torch.Generator().manual_seed(0)
    assert task.classes is not None
    labels = torch.randint(0, task.classes, (SAMPLES,), generator=generator)
    return Dataset(torch.randn(SAMPLES, 1, side, side, generator=generator), labels)
