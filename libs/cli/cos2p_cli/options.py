"""The options that all commands share, and the output of a command's answer.

Invariants: with --json exactly one JSON document goes to standard output and nothing else. An
address without a scheme is a folder or file of the embedded bus. A command that only reads never
creates the run that it must read.
"""

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cos2p.errors import SettingsError

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
    bool, typer.Option("--json", help="One JSON document on standard output, nothing else.")
]


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


@contextlib.asynccontextmanager
async def opened(settings: Any, *, must_exist: bool = True) -> AsyncIterator[Any]:
    """Open the bus of `settings` and close it at the end.

    Args:
        settings: a `BusSettings`.
        must_exist: whether to refuse a missing embedded run instead of creating it.

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
    """Refuse an embedded bus that does not exist.

    Raises:
        SettingsError: nothing is stored at that path.
    """
    scheme, _, rest = bus.partition(":")
    if scheme != "sqlite" or Path(rest).exists():
        return
    near = sorted(
        (p for p in Path("runs").glob("*") if p.is_dir()), key=lambda p: -p.stat().st_mtime
    )
    hint = (
        f"; runs here, newest first: {', '.join(str(p) for p in near[:5])}"
        if near
        else "; start one with `cos2p demo`"
    )
    raise SettingsError(f"there is no run at {rest}{hint} (say which with --bus)")


def print_json(document: Mapping[str, Any]) -> None:
    """Print the one document of a --json command."""
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
    sys.stdout.flush()
