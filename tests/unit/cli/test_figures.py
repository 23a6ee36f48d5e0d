"""Numbers as people write and read them."""

import pytest

from cos2p.errors import SettingsError
from cos2p.model.cost import plain_bytes
from cos2p_cli import figures


@pytest.mark.parametrize(
    ("text", "expected"),
    [("900000", 900_000), ("12MB", 12_000_000), ("1.5GiB", 1_610_612_736), ("3 kb", 3000)],
)
def test_sizes_are_read(text: str, expected: int) -> None:
    assert expected == figures.parse_size(text)


@pytest.mark.parametrize("text", ["", "12 parsecs", "-3MB", "MB"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SettingsError, match="12MB"):
        figures.parse_size(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0 B"), (412_300, "412 kB"), (1_500_000_000, "1.5 GB"), (999_600, "1 MB")],
)
def test_sizes_are_written_with_three_digits(value: int, expected: str) -> None:
    assert expected == plain_bytes(value)


def test_a_written_size_can_be_read_again() -> None:
    assert 412_000 == figures.parse_size(plain_bytes(412_300))


@pytest.mark.parametrize(
    ("seconds", "expected"), [(None, "-"), (42.4, "0:42"), (725, "12:05"), (11_220, "3:07:00")]
)
def test_durations_are_written_as_clocks_do(seconds: float | None, expected: str) -> None:
    assert expected == figures.duration(seconds)


def test_a_sparkline_ends_with_the_newest_value_and_keeps_its_width() -> None:
    line = figures.sparkline([i / 100 for i in range(100)], 10)

    assert 10 == len(line)
    assert "█" == line[-1]
