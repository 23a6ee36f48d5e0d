"""Ties a child process to its parent: `python -m cos2p.service.leash MODULE` runs its `main`.

Invariant: when the parent is gone, however it went, the child is asked to stop (SIGTERM), so that
no role of a local run outlives the command that started it. The parent holds the other end of the
child's standard input and never writes to it.
"""

import os
import signal
import sys
import threading
from importlib import import_module
from multiprocessing import connection


def tie_to(handle: int) -> None:
    """Ask this process to stop once `handle` becomes readable (its other end was closed)."""

    def wait() -> None:
        connection.wait([handle])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="leash").start()


if __name__ == "__main__":
    tie_to(sys.stdin.fileno())
    del sys.argv[0]
    sys.exit(import_module(f"{sys.argv[0]}.__main__").main())
