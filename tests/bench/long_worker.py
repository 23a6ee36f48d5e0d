"""A worker for the long log, without torch; and what sixteen of them write in an idle day."""

import asyncio
import sys
from collections.abc import Iterator

from long_log import DEVICES, RUN, config, table

from cos2p.log import messages as m
from cos2p.log.mailbox import Mailbox
from cos2p.log.topics import FLEET
from cos2p.service.lifecycle import run_service
from cos2p.service.role import RoleContext
from cos2p.settings import WorkerSettings, load_settings
from cos2p_sim.learner import Behaviour, stand_in
from cos2p_worker.core import Send, WorkerCore
from cos2p_worker.shell import WorkerDevice, run_worker

MEMORY_BYTES = 100_000_000


def main() -> int:
    """Join the run, say so on standard error, and work."""
    settings = load_settings(WorkerSettings, worker_id="worker-new")

    async def body(context: RoleContext) -> None:
        fleet = Mailbox(context.bus, context.prefix, FLEET, reader="bench", dead_letters_from=None)
        fleet.offset = await fleet.end()
        work = asyncio.ensure_future(
            run_worker(
                context,
                worker_id="worker-new",
                device=WorkerDevice(MEMORY_BYTES),
                trainer_of=stand_in(table(), Behaviour(1e9, MEMORY_BYTES), context.clock),
            )
        )
        while not work.done() and not await fleet.poll(1.0):
            pass
        context.log.info("said_hello")
        await work

    return run_service("worker", settings, body)


def a_day(beats: int) -> Iterator[list[m.Message]]:
    """What sixteen idle workers append at each heartbeat."""
    settings = config(10)
    cores = []
    for i in range(DEVICES):
        hello = m.Hello(
            run_id=RUN,
            worker_id=f"worker-{i}",
            incarnation=1,
            profile=m.DeviceProfile(memory_bytes=MEMORY_BYTES, flops_per_s=1e9),
            sample_count=1000,
            label_counts=(100,) * 10,
            units_digest=table().digest,
        )
        cores.append(WorkerCore(hello, settings, table(), now=0.0))
    for beat in range(beats):
        now = beat * settings.liveness.heartbeat_s
        effects = [effect for core in cores for effect in core.tick(now)]
        yield [effect.message for effect in effects if isinstance(effect, Send)]


if __name__ == "__main__":
    sys.exit(main())
