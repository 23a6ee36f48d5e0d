"""Whether a ring is ready: which containers are awaited, which keep failing, and why. Pure.

Invariant: messages from before a container's last start do not count.
"""

from collections.abc import Mapping, Sequence

from cos2p.errors import BudgetError, Cos2pError, ExitCode
from cos2p.history.run import RunHistory
from cos2p.model.cost import plain_bytes
from cos2p_cli.containers.engine import ExistingContainer
from cos2p_cli.containers.specs import CLASS
from cos2p_cli.supervisor import ChildError, error_line

FAILURES_MAX = 3
"""This many restarts count as a permanent failure."""
CLOCKS_S = 1.0
"""How much the engine's clock and the records' clock may differ."""


def not_ready(run: RunHistory, found: Sequence[ExistingContainer]) -> list[str]:
    """Return the names of the containers that are not ready yet."""
    return [f.name for f in found if f.role != "init" and not _is_ready(run, f)]


def _is_ready(run: RunHistory, found: ExistingContainer) -> bool:
    if found.status != "running":
        return False
    since_s = found.started_s - CLOCKS_S
    match found.role:
        case "planner":
            return (run.state.planner_s or 0.0) >= since_s
        case "aggregator":
            # An aggregator that resumed a run publishes nothing until the next version.
            return run.state.aggregator_s is not None
        case "worker":
            device = run.devices.get(found.name)
            return device is not None and run.seen_s(device) >= since_s and not device.left
        case _:
            return True


def failing(
    found: Sequence[ExistingContainer], restarts_before: Mapping[str, int]
) -> ExistingContainer | None:
    """Return a container that has failed for good, or again and again; None without one."""
    for f in found:
        again = f.restarts - restarts_before.get(f.name, 0) >= FAILURES_MAX
        over = f.status in ("exited", "dead") and f.exit_code != 0
        if f.role != "init" and (again or over):
            return f
    return None


def error_of(found: ExistingContainer, log: str) -> Cos2pError:
    """Return the error for a failed container: its own last message, or what killed it."""
    kind = found.labels.get(CLASS)
    if found.out_of_memory:
        asked = f": give the class {kind} more, {kind}=N:MEMORY:CPUS in --workers" if kind else ""
        limit = f" of {plain_bytes(found.memory_bytes)}" if found.memory_bytes else ""
        return BudgetError(f"{found.name} was killed by its memory limit{limit}{asked}")
    last = last_line(log)
    if found.role == "init":
        return ChildError(last.removeprefix("cos2p: "), _exit_code(found))
    return ChildError(
        f"{found.name} ended with exit code {found.exit_code}: {last} "
        f"(whole log: docker logs {found.name})",
        _exit_code(found),
    )


def _exit_code(found: ExistingContainer) -> int:
    """Return the code of an expected error, else that of a failed run."""
    expected = (ExitCode.USAGE, ExitCode.BUS, ExitCode.STORAGE)
    return found.exit_code if found.exit_code in expected else ExitCode.RUN_FAILED


def last_line(log: str) -> str:
    """Return the line in which a process reports why it ended, else its last line."""
    return error_line(log) or log.strip().rpartition("\n")[2] or "its log is empty"


def short_list(names: Sequence[str]) -> str:
    """Write the first four names and the number of the others."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
