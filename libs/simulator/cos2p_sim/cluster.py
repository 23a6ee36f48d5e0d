"""A whole run in one process: the production shells on one log, killed and restarted by a seed.

Invariants: a run is a function of its case alone. A killed process does nothing more and loses its
memory. An error that a supervisor would answer with a restart leads to a restart. Any other error
ends the simulation.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast
from zlib import crc32

import numpy as np
import structlog
from blake3 import blake3

from cos2p.clock import LoopClock
from cos2p.errors import BusError, FencedError, RunFailedError
from cos2p.log.bus import Bus
from cos2p.log.messages import EpochStarted, RunOpened
from cos2p.log.run_request import NewRun, request_run
from cos2p.log.topics import FLEET, Role
from cos2p.model.units import UnitTable
from cos2p.service.logs import Log
from cos2p.service.role import RoleContext
from cos2p_aggregator.shell import run_aggregator
from cos2p_planner.shell import run_planner
from cos2p_planner.snapshot_check import compare_snapshots
from cos2p_sim.faults import FaultCount, FaultyBus
from cos2p_sim.fleets import StandIn, draw_fleet, small_table
from cos2p_sim.learner import StandInTrainer
from cos2p_sim.role_bus import RoleBus
from cos2p_sim.scenario import Case
from cos2p_sim.watched import WatchedLog
from cos2p_worker.shell import WorkerDevice, run_worker

PREFIX = "sim"
RUN_ID = "sim"

Body = Callable[[Bus, asyncio.Event], Awaitable[None]]


@dataclass
class SimulatedProcess:
    """One process of the run, with its kills and stops.

    Attributes:
        name: the name of the process, for instance worker-3.
        body: runs one life of the process.
        kills: the virtual times at which the process is killed.
        stops: the virtual times at which the process is asked to stop.
        starts_at_s: the virtual time at which its first life begins.
        returns: whether the process is restarted after a kill.
        lives: how many lives have begun.
    """

    name: str
    body: Body
    kills: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    starts_at_s: float = 0.0
    returns: bool = True
    lives: int = 0

    @property
    def role(self) -> Role:
        """The role of the process, taken from its name."""
        return cast(Role, self.name.rpartition("-")[0])


@dataclass(frozen=True)
class Ended:
    """The result of a simulated run.

    Attributes:
        case: the case that was run.
        log: every record, and the checker's history.
        table: the model's units.
        faults: the faults that the bus injected.
        kill_count: the number of kills.
        restart_count: the number of lives begun after a kill, a stop or a lost bus.
        fenced: the planners that left because a newer one had taken over.
        seconds: the virtual time that the run took.
        snapshot_count: the number of planner snapshots that equal the fold of the log.
    """

    case: Case
    log: WatchedLog
    table: UnitTable
    faults: FaultCount
    kill_count: int
    restart_count: int
    fenced: tuple[str, ...]
    seconds: float
    snapshot_count: int

    def fingerprint(self) -> str:
        """Return a digest of every record of the run, except for the planner's random name."""
        hasher = blake3()
        for record, message in self.log.everything():
            value = record.value
            if isinstance(message, EpochStarted):
                value = str(message.epoch).encode()
            place = f"{record.topic} {record.partition} {record.offset} {record.timestamp_s!r}"
            for part in (place.encode(), record.key, value):
                hasher.update(len(part).to_bytes(8, "big") + bytes(part))
        return hasher.hexdigest(length=16)


class Cluster:
    """One case, ready to run on a virtual loop (see `run_case`)."""

    def __init__(self, case: Case, log: Log | None = None) -> None:
        self._case = case
        self._clock = LoopClock()
        self._faults = FaultCount()
        self._log = log or silent_log()
        self._kill_count = self._restart_count = 0
        self._fenced: list[str] = []
        self._table = small_table(case.seed)
        self._bus = WatchedLog(self._clock, PREFIX)
        self._start_s = 0.0

    async def run(self) -> Ended:
        """Run to the end and check the run.

        Any error of a role that no restart fixes is raised too.

        Raises:
            InvariantError: the run breaks a rule.
        """
        self._start_s = self._clock.now()
        chance = np.random.default_rng([self._case.seed, 4])
        values = [chance.standard_normal(int(n), np.float32) for n in self._table.sizes]
        run = NewRun(RUN_ID, "sim:stand-in", self._case.config, self._table, values)
        await request_run(self._bus, PREFIX, run)
        tasks = [asyncio.create_task(self._supervise(p)) for p in self._processes()]
        try:
            async with asyncio.timeout(self._case.scenario.limit_s):
                await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._bus.end(self._case.scenario.ends)
        compared = await compare_snapshots(self._bus, PREFIX, self._bus.snapshots)
        return Ended(
            self._case,
            self._bus,
            self._table,
            self._faults,
            self._kill_count,
            self._restart_count,
            tuple(self._fenced),
            self._clock.now() - self._start_s,
            sum(c.compared for c in compared),
        )

    # ------------------------------------------------------------ processes

    def _processes(self) -> list[SimulatedProcess]:
        config, fates = self._case.config, self._case.scenario.crashes
        found = [SimulatedProcess("planner-0", self._planner("planner-0"))]
        for shard in range(config.merge.shards):
            if shard != fates.lost_shard:
                found.append(SimulatedProcess(f"aggregator-{shard}", self._aggregator(shard)))
        for device in draw_fleet(self._case, self._table):
            found.append(SimulatedProcess(device.worker_id, self._worker(device)))
        chance = np.random.default_rng([self._case.seed, 5])
        for process in found:
            process.kills = [
                float(chance.uniform(0, fates.within_s))
                for _ in range(fates.chances)
                if chance.random() < fates.share
            ]
            if process.name.startswith("worker") and chance.random() < fates.leaving_share:
                process.stops = [float(chance.uniform(0, fates.within_s))]
            if process.name.startswith("worker") and fates.workers_die_at_s is not None:
                process.kills, process.returns = [fates.workers_die_at_s], False
            if process.name != "worker-0" and chance.random() < self._dying_share(process):
                process.kills, process.returns = [float(chance.uniform(0, fates.within_s))], False
        if chance.random() < fates.rival_share:
            starts_at_s = float(chance.uniform(1, fates.within_s))
            found.append(
                SimulatedProcess("planner-1", self._planner("planner-1"), starts_at_s=starts_at_s)
            )
        return found

    def _dying_share(self, process: SimulatedProcess) -> float:
        worker = process.name.startswith("worker")
        return self._case.scenario.crashes.dying_share if worker else 0.0

    def _context(self, name: str, bus: Bus, stop: asyncio.Event) -> RoleContext:
        return RoleContext(bus, self._clock, self._log.bind(role=name), PREFIX, stop)

    def _planner(self, name: str) -> Body:
        def life(bus: Bus, stop: asyncio.Event) -> Awaitable[None]:
            return run_planner(
                self._context(name, bus, stop),
                planner_id=name,
                snapshot_records=self._case.snapshot_records,
            )

        return life

    def _aggregator(self, shard: int) -> Body:
        def life(bus: Bus, stop: asyncio.Event) -> Awaitable[None]:
            return run_aggregator(self._context(f"aggregator-{shard}", bus, stop), shard=shard)

        return life

    def _worker(self, device: StandIn) -> Body:
        async def trainer(opened: RunOpened) -> StandInTrainer:
            return StandInTrainer(self._table, opened.config, device.temper, self._clock)

        def life(bus: Bus, stop: asyncio.Event) -> Awaitable[None]:
            return run_worker(
                self._context(device.worker_id, bus, stop),
                worker_id=device.worker_id,
                device=WorkerDevice(device.claimed_bytes, device.device_class),
                trainer_of=trainer,
            )

        return life

    # ------------------------------------------------------------ lives of processes

    async def _supervise(self, process: SimulatedProcess) -> None:
        await self._clock.sleep(process.starts_at_s)
        while True:
            chance = self._chance(process)
            again = await self._live(process, chance)
            if not again:
                return
            self._restart_count += 1
            low, high = self._case.scenario.crashes.restart_s
            await self._clock.sleep(float(chance.uniform(low, high)))

    def _chance(self, process: SimulatedProcess) -> np.random.Generator:
        # Not `hash`, which differs between Python processes.
        name = crc32(process.name.encode())
        return np.random.default_rng([self._case.seed, 6, name, process.lives])

    async def _live(self, process: SimulatedProcess, chance: np.random.Generator) -> bool:
        """Run one life of a process; True if another one must follow."""
        process.lives += 1
        fleet = FLEET.full_name(PREFIX) if process.name.startswith("worker") else None
        shared = RoleBus(self._bus, process.role, PREFIX)
        bus = FaultyBus(
            shared, self._clock, self._case.scenario.faults, chance, self._faults, fleet
        )
        stop = asyncio.Event()
        task = asyncio.ensure_future(process.body(bus, stop))
        timers = self._set_timers(process, task, bus, stop)
        try:
            await asyncio.wait({task})
        finally:
            bus.dead = True
            task.cancel()
            for timer in timers:
                timer.cancel()
        self._bus.acknowledge(bus.acknowledged)
        return self._goes_on(process, task, stop)

    def _goes_on(
        self, process: SimulatedProcess, task: "asyncio.Future[None]", stop: asyncio.Event
    ) -> bool:
        if task.cancelled():
            return process.returns
        error = task.exception()
        match error:
            case None:
                return stop.is_set() and process.returns
            case RunFailedError():
                return False
            case FencedError():
                self._fenced.append(process.name)
                return False
            case BusError():
                return process.returns
            case _:
                raise error

    def _set_timers(
        self,
        process: SimulatedProcess,
        task: "asyncio.Future[None]",
        bus: FaultyBus,
        stop: asyncio.Event,
    ) -> list[asyncio.TimerHandle]:
        loop = asyncio.get_running_loop()

        def kill() -> None:
            # The bus dies first, so that the cancelled task can't write while it unwinds.
            bus.dead = True
            self._kill_count += 1
            task.cancel()

        now_s = self._clock.now() - self._start_s
        timers = []
        # Times that have passed belong to an earlier life and are skipped.
        for at_s, deed in [
            *((t, kill) for t in process.kills),
            *((t, stop.set) for t in process.stops),
        ]:
            if at_s > now_s:
                timers.append(loop.call_at(self._start_s + at_s, deed))
        return timers


def silent_log() -> Log:
    """Return a logger that writes nothing."""
    quiet = structlog.make_filtering_bound_logger(50)
    return cast(Log, structlog.wrap_logger(structlog.PrintLogger(), wrapper_class=quiet))
