"""The processes of a local run: started, watched and stopped together.

Invariants: each child has its own process group, so Ctrl-C reaches only the command. The command
then stops each child by its pid: SIGTERM, a deadline, SIGKILL. A child never outlives the command
(`parent_watch`). Each child's output goes to its own file. A child that ends with an expected error
ends the run with that child's error line and exit code.
"""

import asyncio
import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cos2p.clock import Clock
from cos2p.errors import Cos2pError, ExitCode, StorageError
from cos2p.service.parent_watch import stop_when_closed

RoleKind = Literal["service", "worker", "job"]
RESTARTS_MAX = 3
"""How often a killed service is restarted. It recovers from the log."""
STOP_DEADLINE_S = 12.0
POLL_S = 0.05


class ChildError(Cos2pError):
    """A process of the run ended with an error. Text and exit code are those of the child."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.exit_code = next((known for known in ExitCode if known == code), ExitCode.BUG)


class Process(NamedTuple):
    """A started process, spawned or forked.

    Attributes:
        pid: the process id.
        code: returns the exit code; the negative signal if it was killed; None while it runs.
    """

    pid: int
    code: Callable[[], int | None]


@dataclass
class Child:
    """One process of the run. It starts when it is made.

    Attributes:
        make: starts the process, with the file for its output.
        settled: whether its end has been handled.
    """

    name: str
    kind: RoleKind
    log: Path
    make: Callable[[Path], Process]
    restart_count: int = 0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the process, and write its pid to NAME.pid next to NAME.log to identify it."""
        self.process = self.make(self.log)
        self.settled = False
        self.log.with_suffix(".pid").write_text(f"{self.process.pid}\n")

    @property
    def running(self) -> bool:
        """Whether the process still runs."""
        return self.process.code() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal unless the process has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


class ChildProcesses:
    """The children of one command. Their output goes to the folder `logs`.

    Forked children share the modules of `preload`, which are imported once (torch among them).
    """

    def __init__(self, logs: Path, clock: Clock, preload: Sequence[str] = ()) -> None:
        self._logs, self._clock = logs, clock
        try:
            logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"can't make {logs}: {error.strerror}") from error
        # Many processes share this machine: one thread each, unless a role sets its own number.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        self._forks: ForkServerContext = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload(list(preload))
        self.children: list[Child] = []
        self.notes: list[str] = []

    def start_service(self, name: str, module: str, env: Mapping[str, str]) -> Child:
        """Start `python -m MODULE`. If it is killed, it is restarted."""
        arguments = [sys.executable, "-m", "cos2p.service.parent_watch", module]
        return self._add(name, "service", partial(_spawn, arguments, {**os.environ, **env}))

    def fork(
        self, name: str, kind: RoleKind, target: Callable[..., object], *arguments: Any
    ) -> Child:
        """Run `target(*arguments)` in a process forked from the one that has torch.

        If a service is killed, it is restarted.
        """

        def make(log: Path) -> Process:
            # The class is the context's own; the type stubs only declare a base class.
            process = self._forks.Process(target=_run, args=(target, arguments, str(log)))
            process.start()
            assert process.pid is not None
            return Process(process.pid, lambda: process.exitcode)

        return self._add(name, kind, make)

    def _add(self, name: str, kind: RoleKind, make: Callable[[Path], Process]) -> Child:
        child = Child(name, kind, self._logs / f"{name}.log", make)
        self.children.append(child)
        return child

    def check(self) -> None:
        """Handle the ends of children: restart, note or raise. Call it often.

        Raises:
            ChildError: a child ended with an error, or a service was killed too often.
        """
        for child in self.children:
            code = child.process.code()
            if code is None or child.settled:
                continue
            child.settled = True
            if code > 0:
                raise _error_of(child, code)
            if code < 0:
                self._killed(child, -code)

    def _killed(self, child: Child, number: int) -> None:
        name = signal.Signals(number).name
        if child.kind == "service" and child.restart_count < RESTARTS_MAX:
            child.restart_count += 1
            child.start()
            self.notes.append(f"{child.name} was killed ({name}) and started again")
        elif child.kind == "worker":
            self.notes.append(f"{child.name} was killed ({name}); the run goes on without it")
        else:
            raise ChildError(
                f"{child.name} was killed ({name}); its output is in {child.log}", ExitCode.BUG
            )

    async def finished(self, *children: Child, deadline_s: float | None = None) -> bool:
        """Wait for these children to end. Return False at the deadline.

        Raises:
            ChildError: a child ended with an error, see `check`.
        """
        end = None if deadline_s is None else self._clock.now() + deadline_s
        while any(c.running for c in children):
            self.check()
            if end is not None and self._clock.now() > end:
                return False
            await self._clock.sleep(POLL_S)
        self.check()
        return True

    async def stop(self, deadline_s: float = STOP_DEADLINE_S) -> list[str]:
        """Stop all running children. Return the names of those that had to be killed."""
        for child in self.children:
            child.settled = True
            child.signal(signal.SIGTERM)
        end = self._clock.now() + deadline_s
        while any(c.running for c in self.children) and self._clock.now() < end:
            await self._clock.sleep(POLL_S)
        late = [c for c in self.children if c.running]
        for child in late:
            child.signal(signal.SIGKILL)
        while any(c.running for c in late):
            await self._clock.sleep(POLL_S)
        return [c.name for c in late]

    async def __aenter__(self) -> "ChildProcesses":
        return self

    async def __aexit__(self, *exception: object) -> None:
        # Shielded: a second Ctrl-C must not leave children behind.
        await asyncio.shield(self.stop())


def error_line(log: str) -> str:
    """Return the line in which a process reports why it ended; empty if there is none."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    # The services' log lines are JSON; the final error is a plain line.
    return next((line for line in reversed(lines) if not line.startswith("{")), "")


def _error_of(child: Child, code: int) -> ChildError:
    """Return a child's own error, or where to find its output."""
    try:
        line = error_line(child.log.read_text(errors="replace"))
    except OSError:
        line = ""
    if code == ExitCode.BUG or not line:
        cause = f": {line}" if line else ""
        text = f"{child.name} failed (exit code {code}){cause}; its output is in {child.log}"
    else:
        own = line.split(": ", 1)[-1].strip()
        text = own if child.kind == "job" else f"{child.name}: {own}"
    return ChildError(text, code)


def _spawn(arguments: Sequence[str], env: Mapping[str, str], log: Path) -> Process:
    with log.open("ab") as out:
        popen = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,  # never written; closing it stops the child (`parent_watch`)
            stdout=out,
            stderr=out,
            env=dict(env),
            process_group=0,
        )

    def code() -> int | None:
        found = popen.poll()
        if found is not None and popen.stdin is not None:
            popen.stdin.close()
        return found

    return Process(popen.pid, code)


def _run(target: Callable[..., object], arguments: tuple[Any, ...], log: str) -> None:
    """Run `target` as the main function of a forked child."""
    os.setpgrp()
    fd = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    # Else the garbage collector writes to the fork server's imports and copies each shared page.
    gc.freeze()
    parent = multiprocessing.parent_process()
    if parent is not None:
        stop_when_closed(parent.sentinel)
    try:
        result = target(*arguments)
    except Cos2pError as error:
        sys.stderr.write(f"cos2p: {' '.join(str(error).split())}\n")
        sys.stderr.flush()
        os._exit(int(error.exit_code))
    sys.exit(result if isinstance(result, int) else 0)
