"""A worker process without torch: the production shell with the simulator's stand-in training.

Its model is `ring.table()`; settings come from the environment as for any worker.
"""

import sys

from ring import table

from cos2p.service.lifecycle import run_service
from cos2p.service.role import RoleContext
from cos2p.settings import WorkerSettings, load_settings
from cos2p_sim.learner import Behaviour, stand_in
from cos2p_worker.shell import WorkerDevice, run_worker

FLOPS_PER_S = 1e9
MEMORY_BYTES = 60_000
"""About six tenths of the stand-in model with AdamW."""


def main() -> int:
    """Work until the run is over."""
    settings = load_settings(WorkerSettings)
    behaviour = Behaviour(FLOPS_PER_S / settings.slowdown, settings.memory_bytes or MEMORY_BYTES)

    async def body(context: RoleContext) -> None:
        await run_worker(
            context,
            worker_id=settings.worker_id,
            device=WorkerDevice(
                device_class=settings.device_class,
                memory_bytes=behaviour.memory_bytes,
                scratch_dir=settings.scratch_dir,
            ),
            trainer_of=stand_in(table(), behaviour, context.clock),
        )

    return run_service("worker", settings, body)


if __name__ == "__main__":
    sys.exit(main())
