"""The digits, and how labels are split over devices."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from cos2p.errors import SettingsError
from cos2p_worker.task import Part
from cos2p_worker.tasks import digits
from cos2p_worker.tasks.dirichlet import dirichlet_split

LABELS = np.random.default_rng(0).integers(0, 10, 1400)


def test_the_dirichlet_shards_are_disjoint_and_cover_the_data() -> None:
    shards = dirichlet_split(LABELS, 8, alpha=0.3, seed=1, samples_min=32)

    assert list(range(1400)) == sorted(np.concatenate(shards).tolist())
    assert min(len(s) for s in shards) >= 32


def test_the_dirichlet_split_is_the_same_every_time_and_another_with_another_seed() -> None:
    first, again, other = (
        dirichlet_split(LABELS, 8, alpha=0.3, seed=s, samples_min=32) for s in (1, 1, 2)
    )

    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_smaller_alpha_is_a_more_unequal_split() -> None:
    def skew(alpha: float) -> float:
        shards = dirichlet_split(LABELS, 8, alpha=alpha, seed=1, samples_min=1)
        shares = [np.bincount(LABELS[s], minlength=10).max() / len(s) for s in shards]
        return float(np.mean(shares))

    assert skew(100.0) < 0.2 < 0.35 < skew(0.3)


def test_many_devices_get_their_least_number_of_samples_all_the_same() -> None:
    shards = dirichlet_split(LABELS, 40, alpha=0.05, seed=0, samples_min=32)

    assert 32 == min(len(s) for s in shards)
    assert 1400 == len(set(np.concatenate(shards).tolist()))


def test_too_many_devices_are_refused_with_the_number_that_would_do() -> None:
    with pytest.raises(SettingsError, match="use at most 43 devices"):
        dirichlet_split(LABELS, 44, alpha=0.3, seed=0, samples_min=32)


def test_an_infinite_alpha_gives_every_device_the_same_share_of_each_label() -> None:
    shards = dirichlet_split(LABELS, 8, alpha=math.inf, seed=1, samples_min=1)

    counts = np.array([np.bincount(LABELS[s], minlength=10) for s in shards])
    assert int(np.ptp(counts, axis=0).max()) <= 1
    assert list(range(1400)) == sorted(np.concatenate(shards).tolist())


def test_every_digit_is_in_exactly_one_of_training_validation_and_test() -> None:
    shards = [digits.TASK.shard(i, 8) for i in range(8)]
    held_out = [digits.TASK.at(None, 0, part=p).evaluation_data() for p in get_args(Part)]

    seen = [t.numpy().tobytes() for data in (*shards, *held_out) for t in data.inputs]
    assert 1797 == len(seen) == len(set(seen))
    assert [0.2 * 1797, 0.08 * 1797] == pytest.approx([len(d) for d in held_out], abs=5)


def test_what_is_held_out_of_the_digits_has_every_label_in_its_share() -> None:
    for part in get_args(Part):
        counts = digits.TASK.at(None, 0, part=part).evaluation_data().labels.bincount()
        assert int(counts.max()) - int(counts.min()) <= 2


def test_the_evaluated_digits_do_not_depend_on_the_seed() -> None:
    other = digits.TASK.at(None, seed=5)

    assert torch.equal(digits.TASK.evaluation_data().inputs, other.evaluation_data().inputs)
    assert not torch.equal(digits.TASK.shard(0, 8).labels, other.shard(0, 8).labels[:1])
