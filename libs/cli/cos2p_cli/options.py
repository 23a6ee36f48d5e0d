"""The options that all commands share, and how a command's answer leaves the program.

Invariants: with --json exactly one JSON document goes to standard output and nothing else; an
address without a scheme is a folder or file of the embedded bus; a command that only reads never
creates what it was asked to look at.
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
    """The bus settings from options, environment and defaults (a `BusSettings`).

    Raises:
        SettingsError: a value that is not allowed, or an unknown COS2P_ variable.
    """
    from cos2p.settings import BusSettings, load_settings

    return load_settings(BusSettings, bus=address(bus), prefix=prefix)


def address(text: str | None) -> str | None:
    """A bus address; a bare path becomes the embedded bus's."""
    if text is None or text.startswith(("kafka:", "sqlite:")):
        return text
    return f"sqlite:{text}"


@contextlib.asynccontextmanager
async def opened(settings: Any, *, must_exist: bool = True) -> AsyncIterator[Any]:
    """The bus of `settings`, closed at the end.

    Args:
        settings: a `BusSettings`.
        must_exist: refuse an embedded run that is not there instead of making it.

    Raises:
        SettingsError: there is no run at that path; the text names those that are near.
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
    """The one document of a --json command."""
    sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
    sys.stdout.flush()
