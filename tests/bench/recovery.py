"""`make bench-recovery`: what a start costs on a long log, with and without snapshots.

    python tests/bench/recovery.py [--versions 20000] [--beats 1000000] [--skip-kafka] [--json]

The log is made by the planner's core (`long_log.py`), first on the embedded bus, then copied to a
Kafka of its own. Each role is then started as a process and measured until it is ready. The exit
code is 1 when a figure misses its budget.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from long_log import DEVICES, RUN, LongRun, SetClock, copy_topics, write_beats
from main import broker, show
from rich.console import Console
from rows import Row

from cos2p.clock import SystemClock
from cos2p.log import messages as m
from cos2p.log.bus import Bus
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.log.mailbox import Outbox
from cos2p.log.snapshots import fitting_snapshots
from cos2p.log.topics import CATALOGUE, DECISIONS, FLEET, HEARTBEATS, SNAPSHOTS, specs
from cos2p.service.open_bus import open_bus
from cos2p.settings import BusSettings

HERE = Path(__file__).resolve().parent
PREFIX = "long"
READY_S, READY_MB = 2.0, 150.0
WHOLE_S = 60.0
GROWTH = 1.2
PAIRS = 5
IDLE_DAY_MB = 20.0
FLAT = 1.1
SNAPSHOT_SHARE = 0.02
LIMIT_S = 300.0


@dataclass(frozen=True)
class Cost:
    """What a start cost.

    Attributes:
        seconds: from exec to ready.
        mb: peak of the resident memory by then.
        fields: of the log line that said so.
    """

    seconds: float
    mb: float
    fields: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """A bus with a long log on it."""

    url: str
    name: str

    @property
    def env(self) -> dict[str, str]:
        """What a process needs to find it."""
        own = {"COS2P_BUS": self.url, "COS2P_PREFIX": PREFIX, "COS2P_LOG_FORMAT": "json"}
        return dict(os.environ) | own

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Bus]:
        """The bus, for this process."""
        bus = open_bus(BusSettings(bus=self.url, prefix=PREFIX), SystemClock())
        try:
            yield bus
        finally:
            await bus.close()


def peak_mb(pid: int) -> float:
    """Largest resident memory so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextmanager
def started(place: Place, *arguments: str, until: str) -> Iterator[Cost]:
    """A process from its start until it logs an event; it is stopped when the block ends."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], env=place.env, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if f'"{until}"' in line:
                seconds = time.perf_counter() - began
                yield Cost(seconds, peak_mb(process.pid), json.loads(line))
                return
        raise AssertionError(f"{arguments} ended before {until}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LIMIT_S)


def planner(place: Place) -> tuple[Cost, bool]:
    """A planner's start, and whether it wrote a snapshot within a minute."""
    with started(place, "-m", "cos2p_planner", until="epoch_started") as cost:
        return cost, asyncio.run(_snapshot_written(place))


async def _snapshot_written(place: Place) -> bool:
    """Whether there is a snapshot, or one comes."""
    async with place.opened() as bus:
        name = SNAPSHOTS.full_name(PREFIX)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            found = await anext(
                fitting_snapshots(bus, PREFIX, "planner", RUN, lambda n, reason: None), None
            )
            if found is not None:
                return True
            end = (await bus.end_offsets(name))[0].next
            await bus.read(name, 0, end, wait_s=1.0)
    return False


def worker(place: Place) -> Cost:
    """A worker's start, to its Hello."""
    with started(place, str(HERE / "long_worker.py"), until="said_hello") as cost:
        return cost


def end_run(place: Place, start: Cost) -> None:
    """End the run as the planner of this start would."""

    async def end() -> None:
        async with place.opened() as bus:
            stamp = {"run_id": RUN, "epoch": start.fields["epoch"], "fleet_offset": 0}
            body = {"at_s": time.time(), "version": start.fields["version"], "reason": "stopped"}
            await Outbox(bus, PREFIX, DECISIONS).send(m.RunEnded.model_validate(stamp | body))

    asyncio.run(end())


def aggregator(place: Place) -> Cost:
    """An aggregator's start and the run's end, which it obeys when it has caught up."""
    with started(place, "-m", "cos2p_aggregator", until="run_carried_out") as cost:
        return cost


def status(place: Place) -> Cost:
    """`cos2p status --json`, as a whole process."""
    began = time.perf_counter()
    arguments = ["-c", "from cos2p_cli.main import main; main()", "status", "--json"]
    process = subprocess.Popen(
        [sys.executable, *arguments], env=place.env, stdout=subprocess.DEVNULL
    )
    _, code, used = os.wait4(process.pid, 0)
    assert code == 0, f"cos2p status failed on {place.url}"
    return Cost(time.perf_counter() - began, used.ru_maxrss / 1024)


def rows_of(place: Place, small: Place | None) -> Iterator[Row]:
    """The figures of one bus; `small` has a log of a tenth of the versions."""
    whole, wrote = planner(place)
    yield from _both(f"planner without a snapshot, {place.name}", whole, WHOLE_S)
    yield Row(f"snapshot after it, {place.name}", float(wrote), "", "1", wrote)
    again, _ = planner(place)
    yield from _both(f"planner from its snapshot, {place.name}", again, READY_S)
    shown = status(place)
    yield from _both(f"cos2p status, {place.name}", shown, READY_S)
    joined = worker(place)
    yield from _both(f"worker (stand-in, no torch), {place.name}", joined, READY_S)
    if small is not None:
        planner(small)
        yield _growth(f"planner, {place.name}", lambda at: planner(at)[0], small, place)
        yield _growth(f"cos2p status, {place.name}", status, small, place)
        yield _growth(f"worker, {place.name}", worker, small, place)
        end_run(small, planner(small)[0])
    end_run(place, planner(place)[0])
    obeyed = aggregator(place)
    yield from _both(f"aggregator, to the end of the log, {place.name}", obeyed, READY_S)
    if small is not None:
        yield _growth(f"aggregator, {place.name}", aggregator, small, place)


def _growth(what: str, start: Callable[[Place], Cost], small: Place, place: Place) -> Row:
    """How much longer a start takes on the long log: the median of starts taken by turns."""
    ratios = [start(place).seconds / start(small).seconds for _ in range(PAIRS)]
    ratio, text = median(ratios), f"growth of the start, ten times the versions, {what}"
    note = ", ".join(f"{r:.2f}" for r in sorted(ratios))
    return Row(text, ratio, "x", f"<= {GROWTH:g}", ratio <= GROWTH, note)


def _both(what: str, cost: Cost, limit_s: float) -> Iterator[Row]:
    fits = cost.seconds <= limit_s
    yield Row(f"{what}: ready", cost.seconds, "s", f"<= {limit_s:g}", fits)
    yield Row(f"{what}: peak", cost.mb, "MB", f"<= {READY_MB:g}", cost.mb <= READY_MB)


def make(folder: Path, versions: int, beats: int) -> Place:
    """A long log on the embedded bus, made in a process of its own."""
    arguments = [str(HERE / "recovery.py"), "--make", str(folder), "--versions", str(versions)]
    subprocess.run([sys.executable, *arguments, "--beats", str(beats)], check=True)
    return Place(f"sqlite:{folder}", "SQLite")


async def _make(folder: Path, versions: int, beats: int) -> None:
    clock = SetClock(time.time() - 2.2 * versions)
    bus = SqliteBus(folder, clock)
    made = await LongRun(bus, clock, PREFIX).write(versions)
    clock.set(time.time())
    await write_beats(bus, PREFIX, beats)
    await bus.close()
    sys.stderr.write(f"made {made.versions} versions, {made.plans} plans, {beats} heartbeats\n")


async def to_kafka(source: Place, target: Place, beats: int) -> None:
    """The same log on Kafka."""
    async with source.opened() as found, target.opened() as bus:
        await bus.create_topics(specs(PREFIX, 1))
        topics = [t for t in CATALOGUE if t not in (HEARTBEATS, SNAPSHOTS)]
        await copy_topics(found, bus, PREFIX, topics)
        await write_beats(bus, PREFIX, beats)


async def idle_day(folder: Path, beats_each: int = 43_200) -> Row:
    """The embedded bus after a day in which sixteen workers only say that they are alive."""
    from long_worker import a_day

    bus = SqliteBus(folder, SystemClock())
    await bus.create_topics(specs(PREFIX, 1))
    boxes = {topic: Outbox(bus, PREFIX, topic) for topic in (FLEET, HEARTBEATS)}
    hello_count = 0
    for moment in a_day(beats_each):
        for topic, box in boxes.items():
            due = [message for message in moment if type(message) in topic.messages]
            await box.send(*due)
            hello_count += len(due) if topic is FLEET else 0
    await bus.close()
    mb = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
    note = f"{beats_each * DEVICES:,} heartbeats, {hello_count:,} Hellos"
    return Row("disk of an idle day, 16 workers, SQLite", mb, "MB", "<= 20", mb <= 20, note)


def running(versions: int) -> Iterator[Row]:
    """A planner's memory and the cost of its snapshots over many versions."""
    arguments = [str(HERE / "long_planner.py"), str(versions)]
    done = subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout)
    ratio = found["late_mb"] / found["early_mb"]
    note = f"{found['early_mb']:.0f} MB at a tenth, {found['late_mb']:.0f} MB at {versions:,}"
    yield Row("planner's memory while it runs", ratio, "x", f"<= {FLAT:g}", ratio <= FLAT, note)
    share = found["snapshot_s"] / found["cpu_s"]
    note = f"{found['snapshots']} snapshots of {found['snapshot_bytes'] / 1e3:.0f} kB"
    met = share <= SNAPSHOT_SHARE
    yield Row("snapshots' share of the planner's CPU", 100 * share, "%", "<= 2", met, note)


def measure(versions: int, beats: int, *, kafka: bool) -> Iterator[Row]:
    """All figures, each as soon as it is there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = make(folder / "long", versions, beats)
        small = make(folder / "short", versions // 10, beats // 10)
        if kafka:
            with broker(None) as bootstrap:
                there = Place(f"kafka://{bootstrap}", "Kafka")
                asyncio.run(to_kafka(place, there, beats))
                yield from rows_of(there, None)
        yield from rows_of(place, small)
        yield asyncio.run(idle_day(folder / "idle"))
    yield from running(versions)


def main() -> int:
    """Measure and print; 1 where a budget is missed."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", type=int, default=20_000)
    parser.add_argument("--beats", type=int, default=1_000_000)
    parser.add_argument("--skip-kafka", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))  # the broker of the tests
    if given.make:
        asyncio.run(_make(given.make, given.versions, given.beats))
        return 0
    found = []
    for row in measure(given.versions, given.beats, kafka=not given.skip_kafka):
        found.append(row)
        sys.stderr.write(f"{row.what}: {row.value:.4g} {row.unit} ({row.budget})\n")
    if given.json:
        print(json.dumps([asdict(row) for row in found], indent=2))
    else:
        show(found, Console())
    return int(any(row.met is False for row in found))


if __name__ == "__main__":
    sys.exit(main())
