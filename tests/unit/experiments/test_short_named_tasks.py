"""The tasks with a short name: how their data are split, and what is in them."""

import math
import tomllib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from cos2p_experiments.tasks import fashion_mnist, wordnet
from cos2p_experiments.tasks.known_file import Source
from cos2p_worker.task import Part, load_task, short_names


def needs(source: Source) -> pytest.MarkDecorator:
    reason = f"{source.name} is not here: apt-get install {source.debian_package}"
    return pytest.mark.skipif(not source.debian_dir.is_dir(), reason=reason)


needs_fashion, needs_wordnet = needs(fashion_mnist.SOURCE), needs(wordnet.SOURCE)
PROJECT = Path(__file__).parents[3] / "pyproject.toml"
NAMES = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]["cos2p.tasks"]
OFFERED = [
    "digits",
    pytest.param("fashion-mnist", marks=needs_fashion),
    pytest.param("wordnet", marks=needs_wordnet),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_short_name_of_the_project_is_that_of_its_task(name: str) -> None:
    assert name == load_task(NAMES[name]).name


def test_the_installed_project_has_these_short_names() -> None:
    assert NAMES.items() <= short_names().items(), "run `make install` again"


@pytest.mark.parametrize("name", OFFERED)
def test_the_training_data_do_not_depend_on_what_is_evaluated(name: str) -> None:
    for_test, for_validation = (
        load_task(name).at(None, seed=3, part=p).shard(1, 8) for p in get_args(Part)
    )

    assert torch.equal(for_test.inputs, for_validation.inputs)


@pytest.mark.parametrize("name", OFFERED)
def test_the_place_says_how_unequal_a_shipped_tasks_shards_are(name: str) -> None:
    def skew(alpha: float | None) -> float:
        task = load_task(name).at(None, seed=3, alpha=alpha)
        shards = [task.label_counts(task.shard(i, 8)) or () for i in range(8)]
        return float(np.mean([max(counts) / sum(counts) for counts in shards]))

    assert skew(math.inf) < skew(None) < skew(0.05)


@needs_fashion
@pytest.mark.parametrize(
    ("name", "train", "validation", "test"),
    [
        ("fashion-mnist", 12_000, 2_000, 2_000),
        ("fashion-mnist-vit", 55_000, 5_000, 10_000),
        ("fashion-affine-cnn", 55_000, 5_000, 10_000),
    ],
)
def test_the_images_of_clothes_are_dealt_out_once_or_held_out(
    name: str, train: int, validation: int, test: int
) -> None:
    task = load_task(name)
    parts = [task.at(None, 0, part=p).evaluation_data() for p in ("test", "validation")]
    shards = [task.shard(i, 4) for i in range(4)]

    assert [test, validation] == [len(p) for p in parts]
    assert train == sum(len(s) for s in shards)
    # A few images of this set are in it twice.
    held_out = {t.numpy().tobytes() for t in parts[1].inputs}
    again = sum(t.numpy().tobytes() in held_out for s in shards for t in s.inputs)
    assert again <= 5


@needs_fashion
def test_the_demos_validation_images_are_in_no_other_tasks_training_data() -> None:
    demo = load_task("fashion-mnist").at(None, 0, part="validation").evaluation_data()
    full = load_task("fashion-mnist-vit").at(None, 0, part="validation").evaluation_data()

    assert torch.equal(demo.inputs, full.inputs[: len(demo)])


@needs_fashion
def test_moved_clothes_keep_their_labels_and_places() -> None:
    upright, moved = (
        load_task(name).at(None, 0, part="validation").evaluation_data()
        for name in ("fashion-mnist-vit", "fashion-affine-vit")
    )

    assert torch.equal(upright.labels, moved.labels)
    assert not (upright.inputs == moved.inputs).flatten(1).all(1).any()
    # Shrunk on average, so darker; still the same clothes, so not black.
    assert -1.0 < float(moved.inputs.mean()) < float(upright.inputs.mean())


@needs_wordnet
def test_every_gloss_is_in_exactly_one_part() -> None:
    task = load_task("wordnet")
    parts = [task.at(None, 0, part=p).evaluation_data() for p in ("test", "validation")]
    shards = [task.shard(i, 16) for i in range(16)]

    assert [10_000, 5_000] == [len(p) for p in parts]
    assert 94_140 == sum(len(s) for s in shards)
    for part in parts:
        assert bool(part.labels.bincount(minlength=wordnet.CLASSES).all())


@needs_wordnet
def test_glosses_are_numbered_words_and_padding_behind_them() -> None:
    words = load_task("wordnet").evaluation_data().inputs

    present = words != 0
    assert (torch.int32, (10_000, wordnet.LENGTH)) == (words.dtype, tuple(words.shape))
    assert torch.equal(present, present.cummin(1).values)
    assert bool(present[:, 0].all())
    assert int(words.max()) < wordnet.VOCABULARY


def test_a_gloss_is_what_follows_the_bar_of_a_synset() -> None:
    body = (
        "  1 This software and database is being provided to you, the LICENSEE\n"
        '00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is; "a thing"  \n'
        "00002137 29 v 01 a | b 0 000 | to part\n"
    )

    assert [('that which is; "a thing"', 3), ("b 0 000 | to part", 29)] == list(
        wordnet.glosses(body)
    )


def test_classes_are_the_files_with_enough_glosses_in_their_order_and_no_text_comes_twice() -> None:
    found = [("a", 7), ("b", 7), ("c", 2), ("a", 2), ("d", 5), ("b", 7)]

    texts, labels = wordnet.classified(found, least=2)

    assert ["a", "b", "c"] == texts
    assert [1, 1, 0] == labels.tolist()


def test_the_vocabulary_is_the_most_frequent_words_ties_by_alphabet() -> None:
    texts = [["b", "a", "c"], ["d", "c"], ["b"]]

    assert {"b": 2, "c": 3, "a": 4} == wordnet.vocabulary(texts, size=5)


def test_words_without_a_number_are_unknown_and_the_rest_is_padding() -> None:
    row = wordnet.numbered([wordnet.words_of("A lump, of COAL")], {"a": 2, "coal": 9})[0]

    assert [2, 1, 1, 9, *[0] * (wordnet.LENGTH - 4)] == row.tolist()


@pytest.mark.parametrize(("text", "count"), [("...", 1), ("so " * 99, wordnet.LENGTH)])
def test_a_text_has_at_least_one_word_and_no_more_than_fit(text: str, count: int) -> None:
    assert count == len(wordnet.words_of(text))
