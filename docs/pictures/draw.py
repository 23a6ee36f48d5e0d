"""Runs the demo and draws the README's pictures: its live screen in mid-run, and its report.

    python docs/pictures/draw.py FOLDER    # the demo's run goes there; the PNG go next to this file

Needs Chromium (Debian: `chromium`), which turns both into PNG. Look at what it made.
"""

import asyncio
import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from cos2p.clock import SystemClock
from cos2p.history.follow import HistoryReader
from cos2p.log.buses.sqlite import SqliteBus
from cos2p_cli.screen import render

HERE = Path(__file__).parent
WIDTH = 116
"""Columns of the terminal: from 110 on the screen shows each device's memory and traffic."""
DONE = 0.6
"""The screen is drawn once this share of the versions is there."""
NOTE = "Ctrl-C stops the demo and all of its processes"
SCREEN = (1378, 424)
REPORT = (1100, 870)
"""Width and height of the pictures."""


async def screen_of(folder: Path) -> str:
    """The live screen of a run that is under way, as SVG."""
    clock = SystemClock()
    while not (folder / "log.sqlite").exists():
        await clock.sleep(1.0)
    bus = SqliteBus(folder, clock)
    reader = HistoryReader(bus, "cos2p")
    while not reader.history.target or reader.history.version < DONE * reader.history.target:
        await clock.sleep(0.5)
        await reader.poll()
    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True)
    console.print(render(reader.history, clock.now(), WIDTH, note=NOTE))
    await bus.close()
    return console.export_svg(title="cos2p demo")


def shoot(page: Path, out: Path, size: tuple[int, int]) -> None:
    """A picture of the top of a page."""
    window = ",".join(map(str, size))
    flags = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={window}"]
    target = f"--screenshot={out.resolve()}"
    command = ["chromium", *flags, target, page.resolve().as_uri()]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)  # it complains of no desktop


def main(folder: Path) -> None:
    """Run the demo in `folder` and draw both pictures of it."""
    demo = subprocess.Popen(["cos2p", "demo", "--dir", str(folder), "--no-progress"])
    screen = asyncio.run(screen_of(folder))
    if demo.wait():
        sys.exit(demo.returncode)
    page = folder / "screen.svg"
    page.write_text(screen)
    shoot(page, HERE / "screen.png", SCREEN)
    shoot(folder / "report.html", HERE / "report.png", REPORT)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
