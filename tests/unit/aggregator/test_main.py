import os
import subprocess
import sys

import pytest


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cos2p_aggregator", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_help_has_an_example() -> None:
    done = run("--help")

    assert 0 == done.returncode
    assert "example:\n  cos2p-aggregator --bus kafka://" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--bus", "ftp:somewhere"), "'ftp:somewhere' is not a bus address"),
        (("--prefix", "a b"), "prefix"),
        (("--shard", "-1"), "shard"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    arguments: tuple[str, str], complaint: str
) -> None:
    done = run(*arguments)

    assert 2 == done.returncode
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_its_linear_algebra_has_one_thread() -> None:
    """OpenBLAS makes its threads when numpy is imported, so that may not come first."""
    given = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    counted = (
        "import cos2p_aggregator.__main__, numpy, os; print(len(os.listdir('/proc/self/task')))"
    )

    done = subprocess.run(
        [sys.executable, "-c", counted], env=given, capture_output=True, text=True, check=True
    )

    assert 1 == int(done.stdout)
