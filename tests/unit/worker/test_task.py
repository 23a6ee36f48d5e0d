"""Tasks: loading by name, and what is asked of their data."""

from pathlib import Path

import pytest
import torch

from cos2p.errors import SettingsError
from cos2p_worker.task import Dataset, Task, load_task, short_names
from cos2p_worker.tasks import digits


def test_a_task_is_loaded_by_module_and_attribute() -> None:
    assert digits.TASK is load_task("cos2p_worker.tasks.digits:TASK")


def test_the_workers_own_task_has_a_short_name() -> None:
    assert digits.TASK is load_task("digits")


def test_an_installed_package_gives_its_tasks_short_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[cos2p.tasks]\nmine = cos2p_worker.tasks.digits:TASK\n")
    monkeypatch.syspath_prepend(tmp_path)
    short_names.cache_clear()

    assert digits.TASK is load_task("mine")
    short_names.cache_clear()


def test_a_module_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from cos2p_worker.tasks.digits import TASK as MINE\n"
    (tmp_path / "own_task_of_this_test.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("/nowhere")

    assert digits.TASK is load_task("own_task_of_this_test:MINE")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nothing", "'nothing' names no task: use module:attribute, or one of digits"),
        ("cos2p_worker.task:", "names no task"),
        ("no_such_module_here:TASK", "there is no module 'no_such_module_here'"),
        ("cos2p_worker.tasks.digits:NO", "has no 'NO'"),
        ("cos2p_worker.tasks.digits:MODEL", "is a TransformerConfig, not a Task"),
    ],
)
def test_a_wrong_name_is_refused_by_what_is_wrong_with_it(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        load_task(name)


def test_a_dataset_needs_as_many_labels_as_inputs() -> None:
    with pytest.raises(SettingsError, match="3 inputs, 2 labels"):
        Dataset(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(SettingsError, match="0 inputs"):
        Dataset(torch.zeros(0, 2), torch.zeros(0))


def test_a_shard_that_is_not_there_is_refused(task: Task) -> None:
    with pytest.raises(SettingsError, match="there is no shard 3 of 3"):
        task.shard(3, 3)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (torch.full((4,), 9), r"labels must be in 0\.\.3"),
        (torch.full((4,), -1), r"labels must be in 0\.\.3"),
        (torch.zeros(4), "must be int64"),
        (torch.zeros(4, 2, dtype=torch.int64), "one per sample"),
    ],
)
def test_labels_that_are_no_classes_are_refused(
    task: Task, labels: torch.Tensor, text: str
) -> None:
    from dataclasses import replace

    broken = replace(task, train_shard=lambda *_: Dataset(torch.zeros(4, 1, 8, 8), labels))

    with pytest.raises(SettingsError, match=text):
        broken.shard(0, 1)


def test_label_counts_name_every_class(task: Task) -> None:
    data = Dataset(torch.zeros(3, 1, 8, 8), torch.tensor([1, 1, 2]))

    assert (0, 2, 1, 0) == task.label_counts(data)


def test_a_dataset_is_thinned_to_samples_from_all_over_it() -> None:
    data = Dataset(torch.arange(10.0), torch.arange(10))

    assert [0, 2, 5, 7] == data.thinned(4).labels.tolist()
    assert data is data.thinned(10)
    with pytest.raises(SettingsError, match="thinned to 0"):
        data.thinned(0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_a_concentration_that_is_none_is_refused(task: Task, alpha: float) -> None:
    with pytest.raises(SettingsError, match="is above 0"):
        task.at(None, seed=0, alpha=alpha)
