"""A whole run in one process: the production shells on one log, killed and restarted by a seed.

Invariants: a run is a function of its case alone. A killed process does nothing more and loses its
memory. An error that a supervisor would answer with a restart leads to a restart. Any other error
ends the simulation.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import cast
from zlib import crc32

import numpy as np

from cos2p.clock import LoopClock
from cos2p.errors import BusError, FencedError, RunFailedError
from cos2p.log.run_request import NewRun, request_run
from cos2p.log.topics import FLEET, Role
from cos2p.log.unit_blobs import read_digests
from cos2p.service.logs import Log
from cos2p.service.role import RoleContext
from cos2p_aggregator.effects import Dispatch
from cos2p_aggregator.replay import ReplayResult, replay
from cos2p_planner.shell import run_planner
from cos2p_planner.snapshot_check import compare_snapshots
from cos2p_sim.checkers import InvariantError
from cos2p_sim.faults import FaultCount, FaultyBus
from cos2p_sim.fleets import draw_fleet, small_table
from cos2p_sim.ring import Body, live_together, ring_of, silent_log
from cos2p_sim.role_bus import RoleBus
from cos2p_sim.scenario import Case
from cos2p_sim.watched import WatchedLog

PREFIX = "sim"
RUN_ID = "sim"


@dataclass
class SimulatedProcess:
    """One process of the run, with its kills and stops at virtual times.

    Attributes:
        name: the name of the process, for instance worker-3.
        starts_at_s: the virtual time at which its first life begins.
        restarts: whether the process is restarted after a kill.
        start_count: how many lives have begun.
    """

    name: str
    body: Body
    kills: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    starts_at_s: float = 0.0
    restarts: bool = True
    start_count: int = 0

    @property
    def role(self) -> Role:
        """The role of the process, taken from its name."""
        return cast(Role, self.name.rpartition("-")[0])


class Cluster:
    """One case, ready to run once on a virtual loop.

    Attributes:
        log: every record, and the checker's history.
        restart_count: the number of lives begun after a kill, a stop or a lost bus.
        fenced: the planners that left because a newer one had taken over.
        seconds: the virtual time that the run took.
        snapshot_count: the number of planner snapshots that equal the fold of the log.
    """

    def __init__(self, case: Case, log: Log | None = None) -> None:
        self.case = case
        self._clock = LoopClock()
        self.log = WatchedLog(self._clock, PREFIX)
        self.faults = FaultCount()
        self.kill_count = self.restart_count = self.snapshot_count = 0
        self.fenced: list[str] = []
        self.seconds = 0.0
        self._events = log or silent_log()
        self._table = small_table(case.seed)
        self._start_s = 0.0

    async def run(self) -> ReplayResult:
        """Run to the end, check the run and replay it.

        Any error of a role that no restart fixes is raised too.

        Raises:
            InvariantError: the run breaks a rule.
            DivergedError: the replay's digests differ from the published ones.
        """
        self._start_s = self._clock.now()
        rng = np.random.default_rng([self.case.seed, 4])
        values = [rng.standard_normal(int(n), np.float32) for n in self._table.sizes]
        run = NewRun(RUN_ID, "sim:stand-in", self.case.config, self._table, values)
        await request_run(self.log, PREFIX, run)
        async with asyncio.timeout(self.case.scenario.limit_s):
            await live_together(self._supervise(p) for p in self._processes())
        self.log.end(self.case.scenario.ends)
        compared = await compare_snapshots(self.log, PREFIX, self.log.snapshots)
        self.seconds = self._clock.now() - self._start_s
        self.snapshot_count = sum(c.compared for c in compared)
        due: dict[tuple[str, int], bytes] = {}

        def dispatched(effect: Dispatch) -> None:
            due.update({(effect.plan.plan_id, u): d for u, d in effect.digests().items()})

        found = await replay(self.log, PREFIX, dispatched=dispatched)
        found.check()
        await self._check_weights(due)
        return found

    async def _check_weights(self, due: Mapping[tuple[str, int], bytes]) -> None:
        """Check that each plan was sent its units as they were at its point of the log.

        Raises:
            InvariantError: it was sent a unit of another version.
        """
        for message in self.log.checker.history.weights:
            held: dict[int, bytes] = {}
            for found in reversed(message.blobs):
                held |= await read_digests(self.log, found)
            plan = message.plan
            owned = self._table.owned_by(message.shard, message.shard_count)
            for unit in {*plan.trained, *plan.frozen}.intersection(owned):
                if held.get(unit) != due[plan.plan_id, unit]:
                    raise InvariantError(f"plan {plan.plan_id} was sent another unit {unit}")

    # ------------------------------------------------------------ processes

    def _processes(self) -> list[SimulatedProcess]:
        config, crashes = self.case.config, self.case.scenario.crashes
        records = self.case.snapshot_records
        bodies = ring_of(
            (shard for shard in range(config.merge.shards) if shard != crashes.lost_shard),
            draw_fleet(self.case, self._table, self._clock),
            planner_id="planner-0",
            snapshot_records=records,
        )
        found = [SimulatedProcess(name, body) for name, body in bodies.items()]
        rng = np.random.default_rng([self.case.seed, 5])
        for process in found:
            process.kills = [
                float(rng.uniform(0, crashes.within_s))
                for _ in range(crashes.chances)
                if rng.random() < crashes.share
            ]
            if process.role == "worker" and rng.random() < crashes.leaving_share:
                process.stops = [float(rng.uniform(0, crashes.within_s))]
            if process.role == "worker" and crashes.workers_die_at_s is not None:
                process.kills, process.restarts = [crashes.workers_die_at_s], False
            dying_share = crashes.dying_share if process.role == "worker" else 0.0
            if process.name != "worker-0" and rng.random() < dying_share:
                process.kills, process.restarts = [float(rng.uniform(0, crashes.within_s))], False
        if rng.random() < crashes.rival_share:
            starts_at_s = float(rng.uniform(1, crashes.within_s))
            rival = partial(run_planner, planner_id="planner-1", snapshot_records=records)
            found.append(SimulatedProcess("planner-1", rival, starts_at_s=starts_at_s))
        return found

    # ------------------------------------------------------------ lives of processes

    async def _supervise(self, process: SimulatedProcess) -> None:
        await self._clock.sleep(process.starts_at_s)
        while True:
            # Not `hash`, which differs between Python processes.
            name = crc32(process.name.encode())
            rng = np.random.default_rng([self.case.seed, 6, name, process.start_count])
            if not await self._run_once(process, rng):
                return
            self.restart_count += 1
            low, high = self.case.scenario.crashes.restart_s
            await self._clock.sleep(float(rng.uniform(low, high)))

    async def _run_once(self, process: SimulatedProcess, rng: np.random.Generator) -> bool:
        """Run one life of a process; True if another one must follow."""
        process.start_count += 1
        fleet = FLEET.full_name(PREFIX) if process.role == "worker" else None
        shared = RoleBus(self.log, process.role, PREFIX)
        bus = FaultyBus(shared, self._clock, self.case.scenario.faults, rng, self.faults, fleet)
        stop = asyncio.Event()
        events = self._events.bind(role=process.name)
        task = asyncio.create_task(
            process.body(RoleContext(bus, self._clock, events, PREFIX, stop))
        )
        timers = self._set_timers(process, task, bus, stop)
        try:
            await asyncio.wait({task})
        finally:
            bus.dead = True
            task.cancel()
            for timer in timers:
                timer.cancel()
        self.log.acknowledge(bus.acknowledged)
        return self._is_restarted(process, task, stop)

    def _is_restarted(
        self, process: SimulatedProcess, task: "asyncio.Task[None]", stop: asyncio.Event
    ) -> bool:
        if task.cancelled():
            return process.restarts
        error = task.exception()
        match error:
            case None:
                return stop.is_set() and process.restarts
            case RunFailedError():
                return False
            case FencedError():
                self.fenced.append(process.name)
                return False
            case BusError():
                return process.restarts
            case _:
                raise error

    def _set_timers(
        self,
        process: SimulatedProcess,
        task: "asyncio.Task[None]",
        bus: FaultyBus,
        stop: asyncio.Event,
    ) -> list[asyncio.TimerHandle]:
        loop = asyncio.get_running_loop()

        def kill() -> None:
            # The bus dies first, so that the cancelled task can't write while it unwinds.
            bus.dead = True
            self.kill_count += 1
            task.cancel()

        now_s = self._clock.now() - self._start_s
        deeds = [(at_s, kill) for at_s in process.kills]
        deeds += [(at_s, stop.set) for at_s in process.stops]
        # Times that have passed belong to an earlier life and are skipped.
        return [
            loop.call_at(self._start_s + at_s, action) for at_s, action in deeds if at_s > now_s
        ]
