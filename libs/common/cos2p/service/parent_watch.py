"""Ties a child process to its parent, so that the child stops when the parent ends.

`python -m cos2p.service.parent_watch MODULE` runs the `main` of MODULE.
The parent holds the other end of the child's standard input and never writes to it.

Invariant: when the parent has ended, for any reason, the child receives SIGTERM.
So no role of a local run outlives the command that started it.
"""

import os
import signal
import sys
import threading
from importlib import import_module
from multiprocessing import connection


def stop_when_closed(handle: int) -> None:
    """Stop this process with SIGTERM once the other end of `handle` is closed."""

    def wait() -> None:
        # A pipe becomes readable when its other end is closed: the parent never writes.
        connection.wait([handle])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="parent-watch").start()


if __name__ == "__main__":
    stop_when_closed(sys.stdin.fileno())
    del sys.argv[0]
    sys.exit(import_module(f"{sys.argv[0]}.__main__").main())
