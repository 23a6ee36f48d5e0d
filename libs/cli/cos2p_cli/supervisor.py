"""The processes of a local run: started, watched, stopped together.

Invariants: a child belongs to its own process group, so that Ctrl-C reaches only the command, which
then stops each child by its pid: SIGTERM, a deadline, SIGKILL; a child never outlives the command
(`leash`); what a child says goes to a file of its own; a child that ends with a foreseen error ends
the run with that child's line and exit code.
"""

import asyncio
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, Literal, Protocol

from cos2p.clock import Clock
from cos2p.errors import Cos2pError, ExitCode, StorageError
from cos2p.service.leash import tie_to

RoleKind = Literal["service", "worker", "job"]
RESTARTS_MAX = 3
"""A service that was killed is started again so often: it recovers from the log."""
STOP_DEADLINE_S = 12.0
POLL_S = 0.05


class ChildError(Cos2pError):
    """A process of the run ended with an error; the text and the exit code are the child's."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        known = [c for c in ExitCode if int(c) == code]
        self.exit_code = known[0] if known else ExitCode.BUG


class Process(Protocol):
    """What the crew needs of a process, however it was made."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    def code(self) -> int | None:
        """Exit code; the negative signal where it was killed; None while it runs."""
        ...


@dataclass
class Child:
    """One process of the run."""

    name: str
    kind: RoleKind
    log: Path
    process: Process
    again: Callable[[], Process] | None = None
    restart_count: int = 0
    settled: bool = False
    """Its end has been taken note of."""

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self.process.code() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal unless it has ended."""
        if self.running:
            try:
                os.kill(self.process.pid, number)
            except ProcessLookupError:
                return


class _Spawned:
    def __init__(self, arguments: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        with log.open("ab") as out:
            self._popen = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                env=dict(env),
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def code(self) -> int | None:
        code = self._popen.poll()
        if code is not None and self._popen.stdin is not None:
            self._popen.stdin.close()
        return code


class _Forked:
    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        process.start()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def code(self) -> int | None:
        return self._process.exitcode


class Crew:
    """The children of one command.

    Args:
        logs: folder for the children's output; made where it is missing.
        clock: for deadlines.
        preload: modules that forked children share, imported once (torch among them).
    """

    def __init__(self, logs: Path, clock: Clock, preload: Sequence[str] = ()) -> None:
        self._logs, self._clock = logs, clock
        try:
            logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"can't make {logs}: {error.strerror}") from error
        # Many processes share this machine; one thread each, unless a role sets its own number.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        self._forks: ForkServerContext = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload(list(preload))
        self.children: list[Child] = []
        self.notes: list[str] = []

    def start_service(self, name: str, module: str, env: Mapping[str, str]) -> Child:
        """Start `python -m MODULE`; killed, it is started again."""
        log = self._logs / f"{name}.log"
        arguments = [sys.executable, "-m", "cos2p.service.leash", module]
        full_env = {**os.environ, **env}

        def make() -> Process:
            return _Spawned(arguments, log, full_env)

        return self._add(Child(name, "service", log, make(), make))

    def fork(
        self,
        name: str,
        kind: RoleKind,
        target: Callable[..., object],
        *arguments: Any,
        again: bool = False,
    ) -> Child:
        """Run `target(*arguments)` in a process forked from the one that has torch."""
        log = self._logs / f"{name}.log"

        def make() -> Process:
            # Its class is the context's own; the stubs only promise a base.
            process = self._forks.Process(target=_run, args=(target, arguments, str(log)))
            return _Forked(process)

        return self._add(Child(name, kind, log, make(), make if again else None))

    def _add(self, child: Child) -> Child:
        self.children.append(child)
        self._note_pid(child)
        return child

    def _note_pid(self, child: Child) -> None:
        """NAME.pid beside NAME.log: which process is which."""
        child.log.with_suffix(".pid").write_text(f"{child.process.pid}\n")

    def check(self) -> None:
        """Look after the children; call it often.

        Raises:
            ChildError: one ended with an error, or a service was killed too often.
        """
        for child in self.children:
            code = child.process.code()
            if code is None or child.settled:
                continue
            child.settled = True
            if code > 0:
                raise ChildError(last_words(child, code), code)
            if code < 0:
                self._killed(child, -code)

    def _killed(self, child: Child, number: int) -> None:
        name = signal.Signals(number).name
        if child.again is not None and child.restart_count < RESTARTS_MAX:
            child.restart_count += 1
            child.process, child.settled = child.again(), False
            self._note_pid(child)
            self.notes.append(f"{child.name} was killed ({name}) and started again")
        elif child.kind == "worker":
            self.notes.append(f"{child.name} was killed ({name}); the run goes on without it")
        else:
            raise ChildError(
                f"{child.name} was killed ({name}); its output is in {child.log}", ExitCode.BUG
            )

    async def finished(self, *children: Child, deadline_s: float | None = None) -> bool:
        """Wait for these to end; False at the deadline.

        Raises:
            ChildError: as `check` does.
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
        """End all children that still run; the names of those that had to be killed."""
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

    async def __aenter__(self) -> "Crew":
        return self

    async def __aexit__(self, *exception: object) -> None:
        # Shielded: a second Ctrl-C must not leave children behind.
        await asyncio.shield(self.stop())


def last_words(child: Child, code: int) -> str:
    """The error line of a child, or where to look."""
    try:
        lines = child.log.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    spoken = [x for x in lines if x.strip() and not x.lstrip().startswith("{")]
    if code == ExitCode.BUG or not spoken:
        last = f": {spoken[-1].strip()}" if spoken else ""
        return f"{child.name} failed (exit code {code}){last}; its output is in {child.log}"
    words = spoken[-1].split(": ", 1)[-1].strip()
    return words if child.kind == "job" else f"{child.name}: {words}"


def _run(target: Callable[..., object], arguments: tuple[Any, ...], log: str) -> None:
    """The first thing that a forked child does."""
    os.setpgrp()
    fd = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    # The garbage collector would write to what the fork server imported: to a copy of each page.
    gc.freeze()
    parent = multiprocessing.parent_process()
    if parent is not None:
        tie_to(parent.sentinel)
    try:
        result = target(*arguments)
    except Cos2pError as error:
        sys.stderr.write(f"cos2p: {' '.join(str(error).split())}\n")
        sys.stderr.flush()
        os._exit(int(error.exit_code))
    sys.exit(result if isinstance(result, int) else 0)
