"""Whether a ring has come up: who has not said a word yet, and who keeps dying, and why. Pure.

Invariant: what was said before a container's last start does not count.
"""

from collections.abc import Mapping, Sequence

from cos2p.errors import (
    BudgetError,
    BusError,
    Cos2pError,
    ExitCode,
    RunFailedError,
    SettingsError,
    StorageError,
)
from cos2p.history.run import RunHistory
from cos2p.model.cost import plain_bytes
from cos2p_cli.containers.engine import Found
from cos2p_cli.containers.specs import CLASS

DEATHS_MAX = 3
"""So many in a row are no accident."""
CLOCKS_S = 1.0
"""What the engine's clock and the records' may differ by."""
_ERRORS: Mapping[int, type[Cos2pError]] = {
    ExitCode.USAGE: SettingsError,
    ExitCode.BUS: BusError,
    ExitCode.STORAGE: StorageError,
}


def awaited(run: RunHistory, found: Sequence[Found]) -> list[str]:
    """Names of the containers that are not ready yet."""
    return [f.name for f in found if f.role != "init" and not _is_ready(run, f)]


def _is_ready(run: RunHistory, found: Found) -> bool:
    if found.status != "running":
        return False
    since_s = found.started_s - CLOCKS_S
    match found.role:
        case "planner":
            return (run.state.planner_s or 0.0) >= since_s
        case "aggregator":
            # One that took a run up again has nothing to say until the next version.
            return run.state.aggregator_s is not None
        case "worker":
            device = run.devices.get(found.name)
            return device is not None and run.seen_s(device) >= since_s and not device.left
        case _:
            return True


def dying(found: Sequence[Found], restarts_before: Mapping[str, int]) -> Found | None:
    """A container that has ended badly for good, or again and again."""
    for f in found:
        again = f.restarts - restarts_before.get(f.name, 0) >= DEATHS_MAX
        over = f.status in ("exited", "dead") and f.exit_code != 0
        if f.role != "init" and (again or over):
            return f
    return None


def why_dead(found: Found, log: str) -> Cos2pError:
    """What to tell of a container that died: its own last words, or what killed it."""
    kind = found.labels.get(CLASS)
    if found.out_of_memory:
        asked = f": give the class {kind} more, {kind}=N:MEMORY:CPUS in --workers" if kind else ""
        limit = f" of {plain_bytes(found.memory_bytes)}" if found.memory_bytes else ""
        return BudgetError(f"{found.name} was killed by its memory limit{limit}{asked}")
    made = _ERRORS.get(found.exit_code, RunFailedError)
    return made(
        f"{found.name} ended with exit code {found.exit_code}: {last_words(log)} "
        f"(all of it: docker logs {found.name})"
    )


def last_words(log: str) -> str:
    """The line in which a process says why it ended; else the last one it wrote."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next(
        (line for line in reversed(lines) if not line.startswith("{")),
        lines[-1] if lines else "it said nothing",
    )


def few(names: Sequence[str]) -> str:
    """Some names, and how many more."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
