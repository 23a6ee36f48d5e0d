"""What the commands share: their options, how they open a run, and how they print.

Invariants: with --json exactly one JSON document goes to standard output and nothing else. An
address without a scheme is a folder or file of the embedded bus. A command that only reads never
creates the run that it must read.
"""

import contextlib
import functools
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from cos2p.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from cos2p.history.run import RunHistory

P = ParamSpec("P")
T = TypeVar("T")

BusOption = Annotated[
    str | None,
    typer.Option(
        "--bus",
        "-b",
        envvar="COS2P_BUS",
        metavar="ADDRESS",
        help="kafka://HOST:PORT, sqlite:PATH, or just the run's folder.",
    ),
]
PrefixOption = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        envvar="COS2P_PREFIX",
        metavar="PREFIX",
        help="Prefix of the run's topics (default: cos2p).",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document and nothing else.")
]
NoProgressOption = Annotated[bool, typer.Option("--no-progress", help="Show no live screen.")]
TaskOption = Annotated[
    str,
    typer.Option(metavar="TASK", help="digits, fashion-mnist, or module:attribute of your task."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A run file (TOML): a policy (cos2p policies) and settings that differ from it.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", envvar="COS2P_DATA_DIR", metavar="DIR", help="Folder of the task's data files."
    ),
]
RunIdOption = Annotated[
    str | None, typer.Option("--run-id", metavar="NAME", help="The run's name.")
]


def blocking(work: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Turn a coroutine function into a function that runs it to its end."""

    @functools.wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        import asyncio

        return asyncio.run(work(*args, **kwargs))

    return run


def settings_of(bus: str | None, prefix: str | None) -> Any:
    """Return the bus settings from options, environment and defaults (a `BusSettings`).

    Raises:
        SettingsError: a value is not allowed, or a COS2P_ variable is unknown.
    """
    from cos2p.settings import BusSettings, load_settings

    return load_settings(BusSettings, bus=address(bus), prefix=prefix)


def address(text: str | None) -> str | None:
    """Return a bus address. A bare path becomes an address of the embedded bus."""
    if text is None or text.startswith(("kafka:", "sqlite:")):
        return text
    return f"sqlite:{text}"


def embedded_path(bus: str) -> Path | None:
    """Return the folder or file of an embedded bus; None for another bus."""
    return Path(bus.removeprefix("sqlite:")) if bus.startswith("sqlite:") else None


@contextlib.asynccontextmanager
async def opened(settings: Any, *, must_exist: bool = True) -> AsyncIterator[Any]:
    """Open the bus of a `BusSettings` and close it at the end.

    With `must_exist` a missing embedded run is refused instead of created.

    Raises:
        SettingsError: there is no run at that path. The text names the newest runs of `runs`.
    """
    from cos2p.clock import SystemClock
    from cos2p.service.open_bus import open_bus

    if must_exist:
        require_run(settings.bus)
    bus = open_bus(settings, SystemClock())
    try:
        yield bus
    finally:
        await bus.close()


def require_run(bus: str) -> None:
    """Raise SettingsError if nothing is stored at the path of an embedded bus."""
    path = embedded_path(bus)
    if path is None or path.exists():
        return
    near = sorted(
        (p for p in Path("runs").glob("*") if p.is_dir()), key=lambda p: -p.stat().st_mtime
    )
    hint = (
        f"; runs here, newest first: {', '.join(str(p) for p in near[:5])}"
        if near
        else "; start one with `cos2p demo`"
    )
    raise SettingsError(f"there is no run at {path}{hint} (choose one with --bus)")


async def history_of(bus: Any, prefix: str) -> "RunHistory":
    """Read the history of the run at this prefix.

    Raises:
        SettingsError: the prefix has topics but no run.
    """
    from cos2p.history.follow import open_history

    run = (await open_history(bus, prefix)).history
    if run.phase == "empty":
        raise SettingsError(f"no run is stored at the prefix {prefix!r}: check --prefix and --bus")
    return run


def print_line(console: "Console", text: str, style: str | None = None) -> None:
    """Print text as it is: rich neither wraps nor colours it."""
    console.print(text, style=style, soft_wrap=True, highlight=False)


def print_json(document: Mapping[str, Any]) -> None:
    """Print the one document of a --json command."""
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
    sys.stdout.flush()
