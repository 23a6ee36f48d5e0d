"""The programs as processes, for tests of what they say and of how they end.

Invariant: a program gets only the COS2P_ variables that it is given, so that a test's surroundings
change nothing.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = {
    "cos2p": ("-c", "from cos2p_cli.main import main; main()"),
    "planner": ("-m", "cos2p_planner"),
    "aggregator": ("-m", "cos2p_aggregator"),
    "worker": (str(HERE / "stand_in_worker.py"),),
}


def start(
    program: str, *arguments: str, cwd: Path, environ: Mapping[str, object]
) -> subprocess.Popen[str]:
    """Start a program.

    Args:
        program: a key of `PROGRAMS`.
        arguments: its own.
        cwd: where it runs.
        environ: its settings, named without COS2P_ and in any case.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COS2P_")}
    given = {f"COS2P_{name.upper()}": str(value) for name, value in environ.items()}
    return subprocess.Popen(
        [sys.executable, *PROGRAMS[program], *arguments],
        cwd=cwd,
        env={**clean, **given, "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end_of(process: subprocess.Popen[str], limit_s: float = 60.0) -> tuple[int, str, str]:
    """Wait for a program: its exit code, standard output and standard error."""
    with process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out, err
