"""The origin of a result: the sources' commit and the machine.

Invariant: the commit is looked up when this module is imported, together with the sources. The
checkout may change while a suite runs.
"""

import os
import platform
import subprocess
from pathlib import Path


def machine() -> str:
    """Return the processor and the number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def commit_of(folder: Path) -> str:
    """Return the checked-out commit, with a "+" where tracked files differ; else "unknown"."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        found = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except OSError:
        return "unknown"
    return found + ("+" if changed else "") if found else "unknown"


COMMIT = commit_of(Path(__file__).resolve().parents[3])
