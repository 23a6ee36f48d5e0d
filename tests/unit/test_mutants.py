"""The tool behind `make mutants`: which changes it makes, and that a seed draws the same ones."""

import json
import subprocess
import sys

import mutants
import pytest
from mutants import CORES, ROOT, Mutant, all_mutants, changed_source, drawn, mutants_of

SOURCE = '''
"""A module."""
LIMIT = 3
def close(self, counts: dict[str, int], late: bool = False) -> float:
    """Close it."""
    if not counts or len(counts) >= LIMIT:
        raise ValueError("too many: " + str(counts + 1))
    self.release(counts)
    self.log.info("closed", count=1)
    if late:
        return 0.5 * max(counts.values())
    return f"{1 + 1}"
'''


def changes(source: str) -> set[tuple[int, str, str]]:
    return {(m.line, m.before, m.after) for m in mutants_of(source)}


def test_operators_constants_conditions_and_statements_are_changed() -> None:
    signature = "self, counts: dict[str, int], late: bool={}"

    assert changes(SOURCE) == {
        (3, "LIMIT = 3", "LIMIT = 4"),
        (4, signature.format("False"), signature.format("True")),
        (6, "not counts or len(counts) >= LIMIT", "not counts and len(counts) >= LIMIT"),
        (6, "not counts", "counts"),
        (6, "len(counts) >= LIMIT", "len(counts) > LIMIT"),
        (8, "self.release(counts)", "pass"),
        (10, "if late:", "if not late:"),
        (11, "0.5 * max(counts.values())", "0.5 / max(counts.values())"),
        (11, "0.5 * max(counts.values())", "1.0 * max(counts.values())"),
        (11, "max(counts.values())", "min(counts.values())"),
    }


def test_each_change_makes_another_module_that_still_compiles() -> None:
    made = [changed_source(SOURCE, m.number) for m in mutants_of(SOURCE)]

    assert len(set(made)) == len(made)
    for text in made:
        compile(text, "module", "exec")


def named(core: str, count: int) -> list[Mutant]:
    return [Mutant(core, f"{core}.py", i, i, "a", "b") for i in range(count)]


def test_a_seed_draws_the_same_changes_again_and_another_one_others() -> None:
    found = named("planner", 100)

    assert drawn(found, 10, 1) == drawn(found, 10, 1) != drawn(found, 10, 2)


def test_a_small_core_is_drawn_from_as_often_as_a_large_one() -> None:
    found = drawn(named("planner", 100) + named("fence", 3), 8, 1)

    assert [5, 3] == [sum(m.core == core for m in found) for core in ("planner", "fence")]


def test_all_are_taken_where_no_number_is_named() -> None:
    assert named("fence", 3) == drawn(named("fence", 3), 0, 1)


@pytest.mark.parametrize("core", CORES, ids=lambda core: core.name)
def test_every_core_has_lines_to_change_and_tests_to_notice(core: mutants.Core) -> None:
    assert all_mutants(ROOT, [core])
    assert all((ROOT / place).exists() for place in core.tests)


@pytest.mark.slow
@pytest.mark.processes
def test_a_fence_that_lets_everything_in_or_nothing_is_noticed() -> None:
    command = [sys.executable, str(ROOT / "tests/mutants.py"), "--file", "fence.py"]
    done = subprocess.run(
        [*command, "--count", "0", "--json"], capture_output=True, text=True, check=True
    )

    answers = json.loads(done.stdout)["mutants"]
    assert [False] * 5 == [r["survived"] for r in answers]
