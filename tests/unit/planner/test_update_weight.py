"""What an update counts, against each published rule."""

from typing import Any

import pytest

from cos2p.run_config import RunConfig
from cos2p_planner.rules.update_weight import Weight, weigh


def weight(steps: int = 10, staleness: int = 0, **rounds: Any) -> Weight:
    """Of 100 samples, where E is 10 steps."""
    config = RunConfig.model_validate({"local": {"steps": 10}, "rounds": rounds})
    return weigh(100, steps, staleness, config)


def test_weights_grow_with_samples_and_fall_with_staleness() -> None:
    assert Weight(10.0, 1.0) == weight()
    assert Weight(5.0, 1.0) == weight(staleness=3)


@pytest.mark.parametrize(("exponent", "expected"), [(0.0, 1.0), (0.5, 10.0), (1.0, 100.0)])
def test_samples_count_not_at_all_by_their_root_or_in_full(
    exponent: float, expected: float
) -> None:
    assert expected == weight(sample_exponent=exponent).weight


def test_fedbuff_averages_deltas_each_scaled_by_its_staleness() -> None:
    """1/K sum s(tau) delta with s = 1/sqrt(1 + tau): deltas 4 and 2, tau 0 and 3, make 2.5."""
    rule: dict[str, Any] = {
        "staleness_on": "delta",
        "sample_exponent": 0.0,
        "normalise_steps": False,
    }
    weights = [weight(staleness=tau, **rule) for tau in (0, 3)]

    merged = sum(w.weight * w.scale * d for w, d in zip(weights, (4.0, 2.0), strict=True))
    assert (4.0 + 0.5 * 2.0) / 2 == merged / sum(w.weight for w in weights)


def test_fedasync_moves_by_alpha_and_the_staleness_of_its_one_update() -> None:
    """alpha_tau = alpha * (1 + tau) ** -0.5: with alpha 0.9 and tau 8 the step is 0.3."""
    found = weight(staleness=8, staleness_on="delta", sample_exponent=0.0)

    server_lr = 0.9
    assert pytest.approx(0.3) == server_lr * found.weight * found.scale / found.weight


def test_a_delta_of_few_steps_is_scaled_up_but_not_without_bound() -> None:
    assert [1.0, 1.0, 1.25, 2.0, 2.0] == [weight(steps=n).scale for n in (20, 10, 8, 5, 1)]


def test_steps_are_left_as_they_are_where_they_are_not_normalised() -> None:
    assert 1.0 == weight(steps=2, normalise_steps=False).scale


def test_both_factors_act_on_the_delta_where_staleness_does() -> None:
    assert Weight(10.0, 1.25 / 2) == weight(steps=8, staleness=3, staleness_on="delta")
