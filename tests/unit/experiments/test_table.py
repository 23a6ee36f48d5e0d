"""Tables as Markdown and as CSV."""

from cos2p_experiments.formatting import points
from cos2p_experiments.statistics import Spread
from cos2p_experiments.table import Column, Table, as_csv, markdown

TABLE = Table(
    "t",
    "T",
    (
        Column("policy", "policy"),
        Column("late", "late", points, ("mean", "sd", "count")),
        Column("code", "", None),
    ),
    (("a|b", Spread(5, 0.612, 0.031), 7), ("long name", None, None)),
    ("A note.",),
)


def test_markdown_lines_texts_up_left_and_numbers_right_with_a_dash_for_what_is_unknown() -> None:
    expected = """\
| policy    |       late |
| --------- | ---------: |
| a\\|b      | 61.2 ± 3.1 |
| long name |          - |

A note.
"""

    assert expected == markdown(TABLE)


def test_csv_has_every_part_in_full_and_nothing_for_what_is_unknown() -> None:
    expected = """\
policy,late_mean,late_sd,late_count,code
a|b,0.612,0.031,5,7
long name,,,,
"""

    assert expected == as_csv(TABLE)
