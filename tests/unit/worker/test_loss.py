"""The shift of logits by a device's own label share."""

import math

import pytest
import torch
from torch.nn import functional

from cos2p_worker.loss import adjusted, label_shift

LOGITS = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
LABELS = torch.tensor([0, 2])


def test_the_shift_is_the_log_of_the_smoothed_share() -> None:
    expected = [math.log(8 / 13), math.log(4 / 13), math.log(1 / 13)]

    assert expected == pytest.approx(label_shift((7, 3, 0), 1.0).tolist())


def test_strength_scales_the_shift() -> None:
    assert torch.allclose(0.5 * label_shift((7, 3, 0), 1.0), label_shift((7, 3, 0), 0.5))


def test_an_even_mix_of_labels_changes_nothing() -> None:
    loss = adjusted(functional.cross_entropy, label_shift((5, 5, 5), 1.0))

    expected = functional.cross_entropy(LOGITS, LABELS)
    assert torch.allclose(expected, loss(LOGITS, LABELS))


def test_a_missing_label_is_pushed_down_less_than_without_the_shift() -> None:
    """The gradient on an absent label's logit is what makes a device forget that label."""
    logits = LOGITS.clone().requires_grad_()
    plain = torch.autograd.grad(functional.cross_entropy(logits, LABELS), logits)[0]
    loss = adjusted(functional.cross_entropy, label_shift((9, 0, 9), 1.0))

    shifted = torch.autograd.grad(loss(logits, LABELS), logits)[0]

    assert (shifted[:, 1] < 0.5 * plain[:, 1]).all()


def test_without_a_shift_the_loss_is_left_as_it_is() -> None:
    assert functional.cross_entropy is adjusted(functional.cross_entropy, None)
