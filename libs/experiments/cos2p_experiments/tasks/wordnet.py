"""WordNet's glosses: which of 27 fields of meaning does a short definition belong to?

It is read from the four data files of WordNet 3.0 in the folder that the user names, else from the
folder of Debian's package.

The classes are the lexicographer files ("noun.animal", "verb.motion") that have at least a thousand
glosses. The samples are their glosses (definition and examples), each text once. The parts are
drawn once and fixed. The vocabulary is counted on the training part alone.

A sample is its first 32 words: int32 numbers in order of frequency. 1 is a word that is not in the
vocabulary. 0 follows the last word.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cos2p_experiments.tasks import RUN
from cos2p_experiments.tasks.known_file import Source
from cos2p_worker.models.stems import PADDING, Words
from cos2p_worker.models.transformer import BlockShape, TransformerConfig, transformer
from cos2p_worker.task import DataPlace, Dataset, Part, Task
from cos2p_worker.tasks.dirichlet import samples_of

CLASSES = 27
GLOSSES_MIN = 1000
"""A lexicographer file with fewer glosses is not a class."""
SAMPLES_MIN = 64
SPLIT_SEED = 2026
VALIDATION_GLOSSES = 5_000
TEST_GLOSSES = 10_000
LENGTH = 32
VOCABULARY = 4096
UNKNOWN = 1
FIRST_WORD = 2
"""Number of the most frequent word."""
SOURCE = Source(
    "WordNet",
    debian_package="wordnet-base",
    debian_dir=Path("/usr/share/wordnet"),
    files="data.noun, data.verb, data.adj and data.adv of WordNet 3.0",
)
SHA256 = {
    "data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
    "data.verb": "adcf43e35b581e8036d8b5a52d63d9cd3d3b4870b2720d3c03c799df44777bc2",
    "data.adj": "c89120dfc1f046ddff4a631bf9b7e9fa1a36b5e86565a23bf82dbe14f30b88a7",
    "data.adv": "444a63bf3955080ab7524f5079cfc07ff9bc682cb98bdb1db73b0fb9829f1139",
}
WORD = re.compile(r"[a-z0-9]+")

Gloss = tuple[str, int]
"""A text, and the number of its lexicographer file."""


def train_shard(place: DataPlace, index: int, count: int) -> Dataset:
    """Return the data of device `index` of `count`, split by `samples_of`."""
    words, labels = _part(place.data_dir, "train")
    own = samples_of(labels, place, index, count, samples_min=SAMPLES_MIN)
    return _dataset(words[own], labels[own])


def evaluation(place: DataPlace) -> Dataset:
    """Return glosses that no device trains on."""
    return _dataset(*_part(place.data_dir, place.part))


def glosses(body: str) -> Iterator[Gloss]:
    """Yield the glosses of one data file.

    A line is a synset: "offset file-number ... | gloss" (wndb(5WN)). Lines that begin with a blank
    are the licence.
    """
    for line in body.splitlines():
        if not line.startswith(" "):
            head, _, gloss = line.partition("|")
            yield gloss.strip(), int(head.split(maxsplit=2)[1])


def classified(found: Sequence[Gloss], least: int) -> tuple[list[str], NDArray[np.int64]]:
    """Return texts and classes of files with `least` glosses, in order of their numbers.

    Each text is used once. A text that two files share counts for the first.
    """
    sizes = Counter(file for _, file in found)
    classes = {f: i for i, f in enumerate(sorted(f for f, n in sizes.items() if n >= least))}
    first: dict[str, int] = {}
    for text, file in found:
        if file in classes:
            first.setdefault(text, classes[file])
    return list(first), np.array(list(first.values()), np.int64)


def words_of(text: str) -> list[str]:
    """Return the text's first words, in lower case; never an empty list."""
    return WORD.findall(text.lower())[:LENGTH] or [""]


def vocabulary(texts: Sequence[list[str]], size: int) -> dict[str, int]:
    """Return numbers of the most frequent words; equally frequent ones in alphabetical order."""
    counts = Counter(word for text in texts for word in text)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: FIRST_WORD + i for i, word in enumerate(ranked[: size - FIRST_WORD])}


def numbered(texts: Sequence[list[str]], numbers: dict[str, int]) -> NDArray[np.int32]:
    """Return word numbers, (texts, LENGTH), padded at the end."""
    found = np.full((len(texts), LENGTH), PADDING, np.int32)
    for row, text in zip(found, texts, strict=True):
        row[: len(text)] = [numbers.get(word, UNKNOWN) for word in text]
    return found


def _part(
    data_dir: Path | None, part: Part | Literal["train"]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    words, labels, parts = _load(data_dir)
    return words[parts[part]], labels[parts[part]]


@cache
def _load(
    data_dir: Path | None,
) -> tuple[NDArray[np.int32], NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """Return the word numbers and class of every gloss, and which glosses are in which part."""
    bodies = (SOURCE.read(data_dir, name, digest) for name, digest in SHA256.items())
    found = [gloss for body in bodies for gloss in glosses(body.decode("latin-1"))]
    texts, labels = classified(found, GLOSSES_MIN)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(texts))
    ends = (TEST_GLOSSES, TEST_GLOSSES + VALIDATION_GLOSSES)
    parts = dict(zip(("test", "validation", "train"), np.split(order, ends), strict=True))
    split = [words_of(text) for text in texts]
    numbers = vocabulary([split[i] for i in parts["train"]], VOCABULARY)
    return numbered(split, numbers), labels, parts


def _dataset(words: NDArray[np.int32], labels: NDArray[np.int64]) -> Dataset:
    return Dataset(torch.from_numpy(words), torch.from_numpy(labels))


TASK = Task(
    name="wordnet",
    model=transformer(
        TransformerConfig(
            stem=Words(LENGTH, VOCABULARY),
            width=64,
            blocks=(BlockShape(4, 128),) * 4,
            head_width=16,
            neuron_group=16,
            classes=CLASSES,
        )
    ),
    train_shard=train_shard,
    evaluation=evaluation,
    classes=CLASSES,
    run=RUN,
)
