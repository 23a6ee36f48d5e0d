"""`cos2p doctor`: checks that everything a run needs is there, and advises what to do.

Invariants: it checks and does not repair. It appends nothing without `--write`. Each check is
independent, so one failure does not hide the next. The exit code is that of the first failure.
"""

import os
import platform
import shutil
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.text import Text

from cos2p.clock import Clock, SystemClock
from cos2p.errors import Cos2pError, ExitCode
from cos2p.history.follow import HistoryReader, open_history
from cos2p.history.read import letters
from cos2p.log import codec
from cos2p.log import messages as m
from cos2p.log.bus import Bus
from cos2p.log.topics import CATALOGUE, DEAD_LETTERS
from cos2p.model.cost import plain_bytes
from cos2p.settings import BusSettings
from cos2p_cli import figures, options, topics

Level = Literal["ok", "warn", "fail"]
SKEW_WARN_S = 2.0
SILENT_WARN_S = 30.0
DISK_WARN_BYTES = 1 << 30
DISK_FAIL_BYTES = 50 << 20
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
PROBE = "cos2p doctor: a test of the right to write"
PACKAGES = ("cos2p", "numpy", "msgpack", "pydantic", "aiokafka", "blake3")


@dataclass(frozen=True)
class Check:
    """The result of one check, one line of the output."""

    name: str
    level: Level
    text: str
    advice: str = ""
    code: ExitCode = ExitCode.OK


@options.blocking
async def run(settings: BusSettings, *, write: bool, as_json: bool) -> int:
    """Print all checks. Return the exit code of the first failure, 0 without one."""
    console, checks = Console(), []
    async for check in checks_of(settings, SystemClock(), write=write):
        checks.append(check)
        if not as_json:
            _print(console, check)
    failed = next((c for c in checks if c.level == "fail"), None)
    code = int(failed.code) if failed else 0
    if as_json:
        options.print_json({"checks": [asdict(c) for c in checks], "exit_code": code})
    return code


def _print(console: Console, check: Check) -> None:
    level = (f"{check.level.upper():<5}", STYLES[check.level])
    line = Text.assemble(level, (f"{check.name:<11}", "bold"), check.text)
    console.print(line, soft_wrap=True)
    if check.advice:
        advice = Text(f"                → {check.advice}", style="dim")
        console.print(advice, soft_wrap=True)


async def checks_of(
    settings: BusSettings, clock: Clock, *, write: bool = False
) -> AsyncIterator[Check]:
    """Yield all checks, each as soon as it is made."""
    yield _programs()
    yield _torch()
    yield _memory()
    path = options.embedded_path(settings.bus)
    if path is not None:
        for check in _storage(path):
            yield check
            if check.level == "fail":
                return
    async with options.opened(settings, must_exist=False) as bus:
        async for check in checks_on_bus(bus, settings, clock, write=write):
            yield check


async def checks_on_bus(
    bus: Bus, settings: BusSettings, clock: Clock, *, write: bool = False
) -> AsyncIterator[Check]:
    """Yield the checks that need the bus. They end where later checks can't succeed."""
    began = clock.now()
    try:
        found = await topics.rows(bus, settings.prefix)
    except Cos2pError as error:
        yield Check("bus", "fail", str(error), "check address and settings", error.exit_code)
        return
    yield Check("bus", "ok", f"{settings.bus} answered in {1000 * (clock.now() - began):.0f} ms")
    if bad := [r for r in found if r.state != "ok"]:
        for row in bad:
            yield Check("topics", "fail", *row.fault, ExitCode.BUS)
        return
    record_count = sum(r.record_count for r in found)
    yield Check("topics", "ok", f"all {len(found)} exist, {record_count:,} records")
    yield await _readable(bus, settings.prefix)
    if write:
        yield await _writable(bus, settings.prefix, clock)
    reader = await open_history(bus, settings.prefix)
    yield _messages(reader)
    yield await _dead_letters(bus, settings.prefix)
    yield _skew(reader, clock)
    for check in _liveness(reader, clock):
        yield check


def _programs() -> Check:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return Check("programs", "ok", f"Python {platform.python_version()}, {versions}")


def _torch() -> Check:
    try:
        return Check("torch", "ok", f"torch {metadata.version('torch')} (not loaded)")
    except metadata.PackageNotFoundError:
        return Check(
            "torch",
            "warn",
            "torch is not installed",
            "only workers, init, demo and export --budget need it: install Co-S2P's extra `worker`",
        )


def _memory() -> Check:
    from cos2p_worker.device import cpu_limit, memory_limit

    limit = memory_limit()
    memory = f"{plain_bytes(limit.limit_bytes)} of memory ({limit.source})"
    return Check("machine", "ok", f"{memory}, {cpu_limit():g} processors")


def _storage(path: Path) -> list[Check]:
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        advice = "start a run there with `cos2p demo` or `cos2p init`, or choose another --bus"
        return [Check("storage", "fail", f"nothing is stored at {path}", advice, ExitCode.USAGE)]
    if os.access(folder, os.W_OK) and os.access(path, os.W_OK):
        storage = Check("storage", "ok", f"{path} can be written")
    else:
        advice = "reading and replaying work; a run can't continue here"
        storage = Check("storage", "warn", f"{path} is read-only", advice)
    free = shutil.disk_usage(folder).free
    disk = Check("disk", "ok", f"{plain_bytes(free)} free on the disk of {path}")
    if free < DISK_FAIL_BYTES:
        disk = replace(disk, level="fail", advice="free some space", code=ExitCode.STORAGE)
    elif free < DISK_WARN_BYTES:
        disk = replace(disk, level="warn", advice="a run of a large model needs more")
    return [storage, disk]


async def _readable(bus: Bus, prefix: str) -> Check:
    for topic in CATALOGUE:
        name = topic.full_name(prefix)
        try:
            for partition, ends in (await bus.end_offsets(name)).items():
                if ends.next > ends.first:
                    await bus.read(name, partition, ends.first, bytes_max=1)
        except Cos2pError as error:
            advice = "grant this user Read on the topic, or restore the files"
            return Check("rights", "fail", f"{name}: {error}", advice, error.exit_code)
    return Check("rights", "ok", f"each of the {len(CATALOGUE)} topics can be read")


async def _writable(bus: Bus, prefix: str, clock: Clock) -> Check:
    name = DEAD_LETTERS.full_name(prefix)
    letter = m.DeadLetter(
        run_id="doctor",
        topic=name,
        partition=0,
        offset=0,
        reason=PROBE,
        reader="doctor",
        value_head=b"",
    )
    try:
        offset = (await bus.append(name, 0, [codec.encode(letter)]))[0]
        record = (await bus.read(name, 0, offset, wait_s=5.0))[0]
    except Cos2pError as error:
        advice = "grant this user Write on the topics"
        return Check("write", "fail", f"{name}: {error}", advice, error.exit_code)
    skew = record.timestamp_s - clock.now()
    text = f"a record was appended and read back; the bus's clock is {abs(skew):.1f} s off ours"
    if abs(skew) > SKEW_WARN_S:
        return Check("write", "warn", text, "set the clocks by NTP")
    return Check("write", "ok", text)


def _messages(reader: HistoryReader) -> Check:
    run, tally = reader.history, reader.tally
    if tally.unreadable_count:
        return Check(
            "messages",
            "fail",
            f"{figures.count(tally.unreadable_count, 'record')} can't be read by this program",
            "run the newest program version; `cos2p topics list` names the topic of dead letters",
            ExitCode.DATA,
        )
    if tally.foreign_count:
        return Check(
            "messages",
            "warn",
            f"{figures.count(tally.foreign_count, 'record')} of another run under this prefix",
            "one prefix holds one run: stop the other run's processes",
        )
    what = f"run {run.run_id}" if run.run_id else "no run yet"
    text = f"all {figures.count(tally.record_count, 'record')} can be read; {what}"
    return Check("messages", "ok", text)


async def _dead_letters(bus: Bus, prefix: str) -> Check:
    count, last = 0, None
    async for letter in letters(bus, prefix, DEAD_LETTERS, None):
        if isinstance(letter.message, m.DeadLetter) and letter.message.reason != PROBE:
            count, last = count + 1, letter.message
    if last is None:
        return Check("letters", "ok", "no dead letters")
    return Check(
        "letters",
        "warn",
        f"{figures.count(count, 'dead letter')}; the last is {last.topic}@{last.offset}, "
        f"rejected by the {last.reader}: {last.reason[:120]}",
        "find out what writes them: another program version, or something that is not a role",
    )


def _skew(reader: HistoryReader, clock: Clock) -> Check:
    last_s = reader.history.last_s
    ahead = last_s - clock.now()
    if last_s and ahead > SKEW_WARN_S:
        text = f"the newest record is {ahead:.1f} s ahead of this machine's clock"
        return Check("clocks", "warn", text, "set the clocks by NTP")
    return Check("clocks", "ok", "no record is from the future")


def _liveness(reader: HistoryReader, clock: Clock) -> list[Check]:
    run, now = reader.history, clock.now()
    if run.phase == "empty":
        return [Check("run", "warn", "no run is requested", "start one: `cos2p init`")]
    if run.phase == "finished":
        return [Check("run", "ok", f"finished at version {run.version} ({run.end_reason})")]
    checks = []
    seen = (("planner", run.state.planner_s), ("aggregator", run.state.aggregator_s))
    for role, last_s in seen:
        if last_s is None:
            text = f"the {role} has written nothing"
            checks.append(Check(role, "fail", text, f"start cos2p-{role}", ExitCode.RUN_FAILED))
        elif now - last_s > SILENT_WARN_S:
            text = f"the {role} has written nothing for {figures.duration(now - last_s)}"
            checks.append(Check(role, "warn", text, "look at its log; restarting it is safe"))
        else:
            text = f"last message {figures.duration(now - last_s)} ago"
            checks.append(Check(role, "ok", text))
    states = {name: run.state_of(device, now) for name, device in run.devices.items()}
    lost = [k for k, s in states.items() if s == "lost"]
    alive = sum(s not in ("lost", "left", "unknown") for s in states.values())
    if lost or not alive:
        names = ", ".join(lost[:5]) or "none"
        text = f"{alive} of {len(states)} workers alive; lost: {names}"
        checks.append(Check("workers", "warn", text, "look at their logs; restarting is safe"))
    elif excluded := [k for k, s in states.items() if s == "excluded"]:
        named = "; ".join(f"{k} ({run.devices[k].excluded})" for k in excluded[:5])
        text = f"{len(excluded)} of {figures.count(len(states), 'worker')} excluded: {named}"
        checks.append(Check("workers", "warn", text, "they get no plans until that is repaired"))
    else:
        checks.append(Check("workers", "ok", f"{figures.count(alive, 'worker')} alive"))
    return checks
