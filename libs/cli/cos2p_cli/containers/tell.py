"""The output of `up` and `down` while they work: a line for each action, and the current wait.

Invariant: with --json nothing is printed before the one document.
"""

from types import TracebackType

from rich.console import Console

from cos2p_cli.progress import form_of


class Tell:
    """Prints progress. It is a context manager around the work."""

    def __init__(self, console: Console, *, as_json: bool, progress: bool = True) -> None:
        self._console = console
        self._silent = as_json
        form = form_of(console, as_json=as_json, progress=progress)
        self._status = console.status("") if form == "live" else None
        self._waited = ""

    def __enter__(self) -> "Tell":
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def did(self, text: str) -> None:
        """Print that an action is done."""
        if not self._silent:
            self._console.print(text, soft_wrap=True, highlight=False)

    def waits(self, text: str) -> None:
        """Show what the command waits for now."""
        if self._status is not None:
            self._status.update(text)
        elif text != self._waited:
            self.did(text)
        self._waited = text
