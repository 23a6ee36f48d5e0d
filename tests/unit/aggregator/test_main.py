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
