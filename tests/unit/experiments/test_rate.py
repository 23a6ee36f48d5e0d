"""The rate check's arithmetic, against grids worked by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from sample_results import cell

from cos2p_experiments.rate import Point, fit_rate, mean_point, point_of
from cos2p_experiments.result import CellResult

GRID = [(n, e) for n in (1, 2, 4, 6) for e in (2, 5, 10)]


def grid(law: Callable[[int, int], float]) -> list[Point]:
    return [Point(n, e, 100, law(n, e)) for n, e in GRID]


def result_of(n_stars: tuple[int, ...], proxies: tuple[float | None, ...]) -> CellResult:
    """A cell with these N* and proxies, 4 and 6 steps in turn."""
    found = cell("co-s2p", 0, (0.1,), coverage=n_stars)
    rounds = tuple(
        replace(r, gradient_proxy=p, steps_mean=4.0 + 2 * (i % 2))
        for i, (r, p) in enumerate(zip(found.rounds, proxies, strict=True))
    )
    return replace(found, rounds=rounds)


def test_a_cell_is_its_harmonic_coverage_its_steps_its_versions_and_its_mean_proxy() -> None:
    """N* 2 and 6: 1 / N* is 1/3 in the mean."""
    found = point_of(result_of((2, 6), (3.0, 1.0)))

    assert found is not None
    assert pytest.approx(3.0) == found.n_star
    assert (5.0, 2, 2.0) == (found.steps, found.versions, found.proxy)


def test_noise_is_the_variance_of_the_mean_of_n_star_updates() -> None:
    """|D|^2 is 12 - 6 = 6 in both versions; the variance of the mean 6 / 2 and 6 / 5."""
    found = result_of((3, 6), (1.0, 1.0))
    rounds = tuple(replace(r, delta_square=12.0, dispersion=6.0) for r in found.rounds)

    point = point_of(replace(found, rounds=rounds))

    assert point is not None
    assert pytest.approx((3 + 1.2) / 12) == point.noise


def test_one_update_shows_no_noise() -> None:
    found = result_of((1, 1), (1.0, 1.0))
    rounds = tuple(replace(r, delta_square=12.0, dispersion=6.0) for r in found.rounds)

    point = point_of(replace(found, rounds=rounds))

    assert point is not None
    assert None is point.noise


@pytest.mark.parametrize(
    "given",
    [result_of((2, 0), (3.0, 1.0)), result_of((2, 2), (3.0, None)), result_of((2, 2), (0.0, 0.0))],
)
def test_a_cell_without_coverage_or_without_proxy_has_no_point(given: CellResult) -> None:
    assert None is point_of(given)


def test_seeds_are_averaged_in_logarithms() -> None:
    found = mean_point([Point(2, 5, 100, 1.0, 0.2), Point(2, 5, 100, 4.0, 0.4)])

    assert pytest.approx(2.0) == found.proxy
    assert pytest.approx(0.3) == found.noise
    assert pytest.approx(1000.0) == found.product


def test_a_grid_that_follows_the_rate_has_the_slope_of_one_half() -> None:
    fit = fit_rate(grid(lambda n, e: 7 / math.sqrt(n * e * 100)))

    assert ["product", "n_star", "steps"] == list(fit)
    for slope in fit.values():
        assert 12 == slope.count
        assert pytest.approx(-0.5) == slope.value
        assert pytest.approx(0, abs=1e-6) == slope.half_width


def test_the_interval_is_students() -> None:
    """Logarithms 0 1 2 3 against 0 -1 0 -1: slope -1/5, residuals .2 .6 .6 .2, s^2 = .8 / 2, so the
    error is sqrt(.4 / 5); t is 4.302653 at two degrees of freedom."""
    logs = zip((0, 1, 2, 3), (0, -1, 0, -1), strict=True)
    fit = fit_rate([Point(math.exp(x), 1, 1, math.exp(y)) for x, y in logs])

    assert 4 == fit["product"].count
    assert pytest.approx(-0.2) == fit["product"].value
    assert pytest.approx(4.302653 * math.sqrt(0.08), rel=1e-6) == fit["product"].half_width
    assert "as promised" == fit["product"].verdict


def test_the_slopes_apart_tell_which_of_the_two_does_it() -> None:
    """N* alone lowers the proxy, by 1 / N*."""
    fit = fit_rate(grid(lambda n, e: 1 / n))

    assert pytest.approx(-1.0) == fit["n_star"].value
    assert pytest.approx(0.0, abs=1e-9) == fit["steps"].value
    assert ("faster", "slower") == (fit["n_star"].verdict, fit["steps"].verdict)


def test_where_only_one_of_the_two_varies_there_are_no_slopes_apart() -> None:
    fit = fit_rate([Point(n, 5, 100, 1 / n) for n in (1, 2, 4)])

    assert pytest.approx(-1.0) == fit["product"].value
    assert ["product"] == list(fit)


def test_two_points_have_a_slope_and_no_interval() -> None:
    fit = fit_rate([Point(1, 2, 100, 1.0), Point(4, 2, 100, 0.5)])

    assert pytest.approx(-0.5) == fit["product"].value
    assert None is fit["product"].half_width
    assert None is fit["product"].verdict


@pytest.mark.parametrize("points", [[], [Point(1, 2, 9, 1.0)], [Point(2, 5, 9, 1.0)] * 3])
def test_points_with_one_product_have_no_slope(points: list[Point]) -> None:
    assert {} == fit_rate(points)
