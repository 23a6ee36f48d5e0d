"""The output of `up` and `down` while they work: a line for each action, and the current wait.

Invariant: with --json nothing is printed before the one document.
"""

from rich.console import Console

from cos2p_cli import options
from cos2p_cli.progress import form_of


class StepPrinter:
    """Prints progress. It is a context manager around the work."""

    def __init__(self, console: Console, *, as_json: bool, progress: bool = True) -> None:
        self._console, self._silent = console, as_json
        form = form_of(console, as_json=as_json, progress=progress)
        self._status = console.status("") if form == "live" else None
        self._awaited = ""

    def __enter__(self) -> "StepPrinter":
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._status is not None:
            self._status.stop()

    def done(self, text: str) -> None:
        """Print that an action is done."""
        if not self._silent:
            options.print_line(self._console, text)

    def waiting(self, text: str) -> None:
        """Show what the command waits for now."""
        if self._status is not None:
            self._status.update(text)
        elif text != self._awaited:
            self.done(text)
        self._awaited = text
