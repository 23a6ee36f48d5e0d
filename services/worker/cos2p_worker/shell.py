"""The worker on a bus: reads `models`, writes `fleet` and `updates`, and trains off the loop.

Owns how a worker joins its run.

Invariants: nothing is sent before three facts hold. The run is known, its model is this worker's,
and the device can hold the smallest submodel. The worker leaves a run that is already over without
a message. A plan names its worker's incarnation, so none for this one is dispatched before its
Hello. Records on `models` before it do not concern this worker, and are not read.
"""

import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cos2p.errors import SettingsError
from cos2p.log.backwards import end_of
from cos2p.log.mailbox import Mailbox
from cos2p.log.messages import PROTOCOL, DeviceProfile, Hello, RunOpened
from cos2p.log.topics import MODELS, SUBMODELS
from cos2p.model.cost import CostModel
from cos2p.service.role import RoleContext
from cos2p_worker.activity import Activity
from cos2p_worker.core import WorkerCore
from cos2p_worker.joining import await_run, find_finish, require_model
from cos2p_worker.scratch import own_folder, remove_abandoned, scratch_folder
from cos2p_worker.trainer import Trainer
from cos2p_worker.unit_store import UnitStore

STORE_MODELS = 2
"""Without a limit, a worker's store holds as many bytes as this many whole models."""


@dataclass(frozen=True)
class WorkerDevice:
    """What the worker knows of its machine before it has trained anything."""

    memory_bytes: int
    device_class: str = "default"
    cpus: float = 1.0
    accelerator: Literal["cpu", "cuda"] = "cpu"
    bytes_per_s: float = 1e8
    share_labels: bool = True
    scratch_dir: Path | None = None
    store_bytes: int | None = None
    shutdown_deadline_s: float = 10.0


TrainerOf = Callable[[RunOpened], Awaitable[Trainer]]
"""Makes the trainer, with its data, once the run is known; may raise SettingsError."""


async def run_worker(
    context: RoleContext, *, worker_id: str, device: WorkerDevice, trainer_of: TrainerOf
) -> None:
    """Work for the context's run until it is finished or the worker is asked to stop.

    Raises:
        RunExistsError: another run than the context's has this prefix.
        SettingsError: the task's model is not the run's, or the run uses another protocol.
        BudgetError: the device can't hold the smallest submodel; the text names the memory it
            needs.
        StorageError: the scratch folder can't hold a plan's weights.
        BusError: the bus is lost.
    """
    bus, clock, prefix = context.bus, context.clock, context.prefix
    context = replace(context, log=context.log.bind(worker=worker_id))
    mailbox = Mailbox(bus, prefix, MODELS, reader=worker_id)
    found = await await_run(context, mailbox)
    if found is None:
        return
    opened, _ = found
    config = opened.config
    context = replace(context, log=context.log.bind(run=opened.run_id))
    if opened.protocol != PROTOCOL:
        raise SettingsError(
            f"run {opened.run_id} uses protocol {opened.protocol}, this worker {PROTOCOL}: "
            "their images are of different versions"
        )
    trainer = await trainer_of(opened)
    require_model(opened, trainer.units.digest, "this worker")
    if config.plans.enforce_memory:
        who = f"worker {worker_id}"
        CostModel.of(trainer.units, config).require(device.memory_bytes, who)
    hello = Hello(
        run_id=opened.run_id,
        worker_id=worker_id,
        incarnation=int(clock.now() * 1000),
        profile=await _profile(device, trainer),
        sample_count=trainer.sample_count,
        label_counts=trainer.label_counts if device.share_labels else None,
        units_digest=opened.units_digest,
        protocol=PROTOCOL,
    )
    submodels = SUBMODELS.full_name(prefix)
    core = WorkerCore(hello, config, trainer.units, now=clock.now(), submodels=submodels)
    mailbox.offset = await end_of(bus, prefix, MODELS)
    finish = await find_finish(bus, prefix, opened.run_id, mailbox.offset)
    with _folder(device.scratch_dir, hello, context) as folder:
        store_bytes = device.store_bytes or STORE_MODELS * 4 * trainer.units.parameter_count
        store, deadline_s = UnitStore(folder, store_bytes), device.shutdown_deadline_s
        activity = Activity(core, trainer, config, context, store, deadline_s)
        await activity.run(mailbox, [finish] if finish else [])


async def _profile(device: WorkerDevice, trainer: Trainer) -> DeviceProfile:
    return DeviceProfile(
        device_class=device.device_class,
        accelerator=device.accelerator,
        memory_bytes=device.memory_bytes,
        flops_per_s=await trainer.measure_flops_per_s(),
        bytes_per_s=device.bytes_per_s,
        cpus=device.cpus,
    )


def _folder(given: Path | None, hello: Hello, context: RoleContext) -> AbstractContextManager[Path]:
    """Return the worker's folder for weights, after removing those of killed workers."""
    parent = given or Path(tempfile.gettempdir())
    if count := remove_abandoned(parent):
        context.log.info("scratch_removed", folders=count, reason="their workers were killed")
    if given is None:
        return scratch_folder(parent)
    run = f"{hello.run_id} {hello.units_digest.hex()}"
    return own_folder(given, hello.worker_id, run, context.stop.is_set)
