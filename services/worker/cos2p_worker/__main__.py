"""The `cos2p-worker` command: one device's worker, or the evaluator.

Invariants: settings are checked before torch is imported, so a wrong setting fails fast. Torch gets
as many threads as this process has CPUs, and no more memory than the process's limit.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cos2p.errors import SettingsError
from cos2p.log.messages import RunOpened
from cos2p.service.lifecycle import Body, role_parser, run_role, run_service
from cos2p.service.role import RoleContext
from cos2p.settings import WorkerSettings
from cos2p_worker.device import GpuProbe, cpu_limit, memory_limit, thread_count
from cos2p_worker.shell import WorkerDevice, run_worker
from cos2p_worker.trainer import Trainer

if TYPE_CHECKING:
    from cos2p_worker.task import Task

EPILOG = """\
Settings come from the environment too (COS2P_BUS, COS2P_WORKER_ID, COS2P_TASK, ...); options come
first. The worker waits until a run is opened, and leaves when it has ended or on SIGTERM.

examples:
  cos2p-worker --bus kafka://broker:9092 --worker-id jetson-7 --shard-index 7 --shard-count 16
  cos2p-worker --bus sqlite:runs/digits --task my_task:TASK --data ~/pictures
  cos2p-worker --bus sqlite:runs/digits --evaluate --worker-id evaluator
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until the run has ended or a signal comes, and return the exit code."""
    return run_role("worker", _parser(), arguments, WorkerSettings, serve)


def serve(settings: WorkerSettings) -> int:
    """Run the worker or evaluator that the settings name, and return the exit code.

    Raises:
        Cos2pError: the machine's limits can't be met.
    """
    role = "evaluator" if settings.evaluate else "worker"
    device = _device(settings)
    body = _evaluator(settings) if settings.evaluate else _worker(settings, device)
    return run_service(role, settings, body)


def _parser() -> argparse.ArgumentParser:
    what = "Trains the submodels that fit this device, on data that stays here."
    parser = role_parser("worker", what, EPILOG)
    parser.add_argument("--worker-id", help="this device's name in the run (default worker-0)")
    parser.add_argument("--task", help="module:attribute; default: the one that the run names")
    parser.add_argument("--data", dest="data_dir", type=Path, help="folder of the task's data")
    parser.add_argument("--shard-index", type=int, help="which part of the data is this device's")
    parser.add_argument("--shard-count", type=int, help="of how many parts")
    parser.add_argument("--device-class", help="name of this kind of device, for tables")
    parser.add_argument("--memory-bytes", type=int, help="what training may use (default: found)")
    parser.add_argument("--threads", type=int, help="threads that compute (default: found)")
    parser.add_argument(
        "--scratch-dir", type=Path, help="folder for weights, kept for the next start"
    )
    parser.add_argument("--slowdown", type=float, help="emulate a device N times slower")
    parser.add_argument(
        "--evaluate", action="store_const", const=True, help="evaluate versions, never train"
    )
    return parser


def _device(settings: WorkerSettings) -> WorkerDevice:
    """Find what this machine lets the worker use, and set torch's threads."""
    cpus = cpu_limit()
    threads = settings.threads or _threads_asked() or thread_count(cpus)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    try:
        import torch
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the worker needs {error.name}: install Co-S2P's extra `worker`"
        ) from error
    torch.set_num_threads(threads)
    gpu: GpuProbe | None = torch.cuda.mem_get_info if torch.cuda.is_available() else None
    limit = memory_limit(settings.memory_bytes, gpu=gpu)
    return WorkerDevice(
        memory_bytes=limit.bytes_free,
        device_class=settings.device_class,
        cpus=min(cpus, float(threads)),
        accelerator="cuda" if gpu is not None else "cpu",
        share_labels=settings.share_labels,
        scratch_dir=settings.scratch_dir,
        store_bytes=settings.store_bytes,
        shutdown_deadline_s=settings.shutdown_deadline_s,
    )


def _threads_asked() -> int | None:
    """Return the value of OMP_NUM_THREADS: a user who sets it means all libraries."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) > 0 else None


def _task(settings: WorkerSettings, opened: RunOpened) -> "Task":
    from cos2p_worker.task import load_task

    task = load_task(settings.task or opened.task).for_run(opened.config)
    return task.at(settings.data_dir, opened.config.seed)


def _worker(settings: WorkerSettings, device: WorkerDevice) -> Body:
    def trainer(opened: RunOpened) -> Trainer:
        from cos2p_worker.torch_trainer import TorchTrainer, local_machine

        task = _task(settings, opened)
        limit = device.memory_bytes if opened.config.plans.enforce_memory else None
        machine = local_machine(limit, settings.slowdown, device.accelerator)
        index = settings.shard_offset + settings.shard_index
        data = task.shard(index, settings.shard_count)
        return TorchTrainer(task, data, opened.config, machine)

    async def body(context: RoleContext) -> None:
        await run_worker(
            context,
            worker_id=settings.worker_id,
            device=device,
            trainer_of=lambda opened: asyncio.to_thread(trainer, opened),
        )

    return body


def _evaluator(settings: WorkerSettings) -> Body:
    async def body(context: RoleContext) -> None:
        from cos2p_worker.evaluator import run_evaluator

        await run_evaluator(
            context,
            evaluator_id=settings.worker_id,
            task_of=lambda opened: _task(settings, opened),
        )

    return body


if __name__ == "__main__":
    sys.exit(main())
