"""An asyncio event loop on virtual time. Waiting costs no real time, and a run repeats exactly.

Invariants: the clock moves only when nothing is ready, and then to the next timer. Nothing is read
from sockets, threads or signals. Work for a thread is done at once and takes no virtual time.
A program that waits for an event that can never come raises an error instead of hanging. So does a
program that keeps running without letting time pass.
"""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_S = 1_000_000.0
"""The time at which the clock starts. It is not zero, so that no rounded time equals "never"."""
IDLE_ROUNDS_MAX = 200_000
"""The loop reports a hang after more than this many turns without a step in time."""


class SimulationHangsError(Exception):
    """Nothing can happen any more, or time no longer passes."""


class _VirtualSelector(selectors.SelectSelector):
    """A selector that moves the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = START_S
        self._idle_rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Move the clock by `timeout` at once. No file is ever ready."""
        if timeout is None:
            raise SimulationHangsError("every task waits, and no timer is set")
        if timeout > 0:
            self.now_s += timeout
            self._idle_rounds = 0
            return []
        self._idle_rounds += 1
        if self._idle_rounds > IDLE_ROUNDS_MAX:
            raise SimulationHangsError(
                f"the virtual clock does not advance at {self.now_s - START_S:g} s"
            )
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` is virtual."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        self.thread_cpu_s = 0.0
        """Real seconds of the work that was meant for threads."""
        super().__init__(self._virtual)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._virtual.now_s

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Do the work at once. Its real time does not move this loop's clock."""
        done: asyncio.Future[T] = self.create_future()
        begun_s = time.thread_time()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - handed on, as from a thread
            done.set_exception(error)
        self.thread_cpu_s += time.thread_time() - begun_s
        return done


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on virtual time.

    Raises:
        SimulationHangsError: the coroutine would never end.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
