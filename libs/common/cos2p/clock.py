"""Clocks that services receive as an argument.

Only this module and the buses may read a clock or sleep.

Invariant: `now()` never goes back within a process, even if the wall clock does.
"""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """The clock that a service uses."""

    def now(self) -> float:
        """Seconds since the epoch as read at the process's start, monotonic from then on."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` on the event loop."""
        await asyncio.sleep(seconds)


class SystemClock(Clock):
    """The clock of real time."""

    def __init__(self) -> None:
        self._base_s = time.time() - time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch; later changes of the wall clock have no effect."""
        return self._base_s + time.monotonic()


class LoopClock(Clock):
    """The running event loop's time, which is virtual under the simulator's loop."""

    def now(self) -> float:
        """Seconds on the loop's clock."""
        return asyncio.get_running_loop().time()
