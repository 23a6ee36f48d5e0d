"""Device classes as people write them."""

import pytest

from cos2p.errors import SettingsError
from cos2p_cli.containers.classes import BUILT_IN, ClassRequest, Limits, limits_of, parse_fleet


def test_a_fleet_is_read_with_built_in_and_free_classes() -> None:
    assert (
        ClassRequest("orin", 2),
        ClassRequest("tiny", 1, Limits(600 << 20, 0.5)),
    ) == parse_fleet("orin=2, tiny=1:600m:0.5")


@pytest.mark.parametrize(
    ("text", "size"),
    [("2g", 2 << 30), ("1.5GiB", 3 << 29), ("800MB", 800_000_000), ("900000000", 900_000_000)],
)
def test_a_size_is_what_docker_and_our_own_options_take(text: str, size: int) -> None:
    (asked,) = parse_fleet(f"a=1:{text}:1")

    assert Limits(size, 1.0) == asked.limits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("orin", "not a class with its count"),
        ("Orin=1", "not a class with its count"),
        ("orin=two", "not a class with its count"),
        ("orin=65", "a count is at most 64"),
        ("orin=-1", "not a class with its count"),
        ("tiny=1:600m", "not a class with its count"),
        ("tiny=1:lots:1", "is not a size"),
        ("tiny=1:600:1", "below 64 MiB"),
        ("tiny=1:600m:none", "not a class with its count"),
        ("tiny=1:600m:0", "0 processors"),
        ("orin=1,orin=2", "twice"),
        (" ", "names no class"),
    ],
)
def test_a_malformed_fleet_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_fleet(text)


def test_given_limits_win_over_those_of_workers_and_those_over_the_built_in_ones() -> None:
    here, given = Limits(1, 1.0), Limits(2, 2.0)

    assert given == limits_of(ClassRequest("orin", 1, given), {"orin": here})
    assert here == limits_of(ClassRequest("orin", 1), {"orin": here})
    assert BUILT_IN["orin"] == limits_of(ClassRequest("orin", 1), {})


def test_an_unknown_class_without_limits_is_refused_with_how_to_write_it() -> None:
    with pytest.raises(SettingsError, match="tiny=3:1g:1"):
        limits_of(ClassRequest("tiny", 3), {})
