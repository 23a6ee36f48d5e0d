"""The progress output of a long command: a live screen, plain lines, or nothing.

Invariants: without a terminal the output is lines. With --json or --no-progress there is none.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Literal

from rich.console import Console
from rich.live import Live

from cos2p.clock import Clock
from cos2p.history.run import RunHistory
from cos2p_cli import figures
from cos2p_cli.screen import render

Form = Literal["live", "lines", "none"]
LINE_EVERY_S = 5.0


def form_of(console: Console, *, as_json: bool, progress: bool) -> Form:
    """Return the form of progress that suits the output."""
    if as_json or not progress:
        return "none"
    return "live" if console.is_terminal else "lines"


def waiting(console: Console, form: Form, text: str) -> AbstractContextManager[object]:
    """Show what the command waits for, for the time of the wait."""
    if form == "live":
        return console.status(text)
    if form == "lines":
        console.print(text, soft_wrap=True)
    return nullcontext()


class RunProgress(ExitStack):
    """Draws a run while it is in progress. It is a context manager around the run.

    `note` is shown until the run has finished. The screen stays at the end unless it is transient.
    """

    def __init__(
        self, console: Console, form: Form, clock: Clock, note: str, *, transient: bool = True
    ) -> None:
        super().__init__()
        self._console, self._form, self._clock, self._note = console, form, clock, note
        self._live: Live | None = None
        if form == "live":
            self._live = self.enter_context(
                Live(console=console, auto_refresh=False, transient=transient)
            )
        self._next_line_s = 0.0
        self._printed_notes = 0

    def on_update(self, run: RunHistory, notes: Sequence[str]) -> None:
        """Draw the newest state of the run."""
        now = self._clock.now()
        if self._live is not None:
            note = "\n".join([*notes, self._note] if run.phase != "finished" else notes)
            self._live.update(render(run, now, self._console.width, note=note), refresh=True)
        elif self._form == "lines":
            for note in notes[self._printed_notes :]:
                self._console.print(note)
            if now >= self._next_line_s and run.version:
                self._next_line_s = now + LINE_EVERY_S
                self._console.print(line(run, now), highlight=False)
        self._printed_notes = len(notes)


def line(run: RunHistory, now_s: float) -> str:
    """Write the run's state in one line."""
    last = run.accuracy[-1] if run.accuracy else None
    newest = run.newest
    return (
        f"version {run.version}/{run.target}"
        f"  test accuracy {figures.percent(last.accuracy if last else None)}"
        f"  N* {newest.coverage_min if newest else '-'}"
        f"  workers {sum(d.starts > 0 and not d.left for d in run.devices.values())}"
        f"  {figures.duration(run.eta_s(now_s))} to go"
    )
