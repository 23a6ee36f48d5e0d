"""The worker's tasks around its core: they read, send heartbeats, wait for the stop, and work.

Owns the steps of a plan (fetch, train, upload). Each step is a separate task.

Invariants:
- Heartbeats don't wait for training.
- A newer plan's training starts only when the older plan has released its memory.
- A fault in one plan, whatever the task's code may raise, is reported and the worker continues.
- A fault of the bus or the disk ends the worker.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from typing import Any

from cos2p.errors import BlobError, StorageError
from cos2p.log.blobs import write_blob
from cos2p.log.mailbox import Letter, Mailbox, Outbox
from cos2p.log.messages import Heartbeat, Report
from cos2p.log.topics import FLEET, HEARTBEATS, UPDATES, partition_of
from cos2p.model.payload import header_of, parts
from cos2p.run_config import RunConfig
from cos2p.service.role import RoleContext
from cos2p_worker.core import Cancel, Effect, Fetch, Leave, Send, Train, Upload, WorkerCore
from cos2p_worker.fetch import Fetched, fetch_units
from cos2p_worker.trainer import (
    Trainer,
    TrainingControl,
    TrainingFailedError,
    TrainingOutOfMemoryError,
    TrainingStoppedError,
)
from cos2p_worker.unit_store import UnitStore

POLL_S = 5.0
STOP_SHARE = 0.7
"""Part of the shutdown deadline after which a plan still in work is abandoned."""


class Activity:
    """Carries out the core's effects, and reports their results to it."""

    def __init__(
        self,
        core: WorkerCore,
        trainer: Trainer,
        config: RunConfig,
        context: RoleContext,
        store: UnitStore,
        shutdown_deadline_s: float,
    ) -> None:
        self._core, self._trainer = core, trainer
        self._config, self._context = config, context
        self._clock, self._log = context.clock, context.log
        self._store, self._shutdown_deadline_s = store, shutdown_deadline_s
        self._fleet = Outbox(context.bus, context.prefix, FLEET)
        self._heartbeats = Outbox(context.bus, context.prefix, HEARTBEATS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._fetched: dict[str, Fetched] = {}
        self._watches: dict[str, TrainingControl] = {}
        self._one_at_a_time = asyncio.Lock()
        self._steps_done = 0

    async def run(self, mailbox: Mailbox, letters: Iterable[Letter]) -> None:
        """Work until the core decides to leave; `letters` were read from `mailbox` before."""
        for letter in letters:
            await self._do(self._core.handle(letter.message, self._clock.now()))
        try:
            if not self._left.done():
                self._spawn(self._listen(mailbox))
                self._spawn(self._beat())
                self._spawn(self._await_stop(self._context.stop))
            await self._left
        finally:
            for watch in self._watches.values():
                watch.stop.set()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------ what goes on all the time

    async def _listen(self, mailbox: Mailbox) -> None:
        while True:
            for letter in await mailbox.poll(POLL_S):
                await self._do(self._core.handle(letter.message, self._clock.now()))

    async def _beat(self) -> None:
        while True:
            await self._do(self._core.tick(self._clock.now(), self._steps_done))
            await self._clock.sleep(self._config.liveness.heartbeat_s)

    async def _await_stop(self, stop: asyncio.Event) -> None:
        await stop.wait()
        deadline_s = self._shutdown_deadline_s
        now = self._clock.now()
        await self._do(self._core.stop(now, deadline_s=deadline_s, steps_done=self._steps_done))
        await self._clock.sleep(STOP_SHARE * deadline_s)
        await self._do(self._core.out_of_time(self._clock.now()))

    # ------------------------------------------------------------ effects

    async def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    if isinstance(message, Report):
                        self._log_report(message)
                    alive = isinstance(message, Heartbeat)
                    await (self._heartbeats if alive else self._fleet).send(message)
                case Fetch(plan):
                    self._watches[plan.plan_id] = self._new_watch()
                    self._steps_done = 0
                    self._spawn(self._fetch(effect))
                case Train():
                    self._spawn(self._train(effect))
                case Upload():
                    self._spawn(self._upload(effect))
                case Cancel(plan_id):
                    if plan_id in self._watches:
                        self._watches[plan_id].stop.set()
                    self._log.info("plan_dropped", plan=plan_id)
                case Leave(reason):
                    self._log.info("worker_left", reason=reason)
                    if not self._left.done():
                        self._left.set_result(None)

    def _log_report(self, report: Report) -> None:
        """Log one wide line per plan: what it cost and how it ended."""
        write_log = self._log.info if report.status == "done" else self._log.warning
        facts = report.model_dump(exclude={"run_id", "worker_id", "plan_id", "blob", "scores"})
        write_log("plan_reported", plan=report.plan_id, **facts)

    # ------------------------------------------------------------ steps of a plan

    async def _fetch(self, order: Fetch) -> None:
        plan_id = order.plan.plan_id
        stop = self._watches[plan_id].stop
        try:
            fetched = await fetch_units(
                self._context.bus, self._trainer.units, order, self._store, stop
            )
        except (BlobError, StorageError) as error:
            self._release(plan_id)
            await self._do(self._core.failed(plan_id, str(error), self._clock.now()))
            if isinstance(error, StorageError):
                raise
            return
        self._fetched[plan_id] = fetched
        effects = self._core.fetched(
            plan_id, fetched.bytes_read, self._clock.now(), found_bytes=fetched.bytes_found
        )
        if not effects:
            self._release(plan_id)
        await self._do(effects)

    async def _train(self, order: Train) -> None:
        plan_id = order.plan.plan_id
        watch = self._watches[plan_id]
        # The older plan's training must release its memory first.
        async with self._one_at_a_time:
            try:
                # The plan was cancelled while it waited.
                if watch.stop.is_set():
                    return
                values = self._fetched[plan_id].values
                result = await self._trainer.train(order.plan, values, watch)
                effects = self._core.trained(plan_id, result, self._clock.now())
            except TrainingOutOfMemoryError as error:
                effects = self._core.out_of_memory(
                    plan_id, error.peak_bytes, str(error), self._clock.now()
                )
            except (TrainingFailedError, TrainingStoppedError) as error:
                effects = self._core.failed(plan_id, str(error), self._clock.now())
            except Exception as error:  # noqa: BLE001 - the task's code is its author's
                self._log.exception("training_failed", plan=plan_id)
                detail = f"{type(error).__name__}: {error}"
                effects = self._core.failed(plan_id, detail, self._clock.now())
            finally:
                self._release(plan_id)
        await self._do(effects)

    async def _upload(self, order: Upload) -> None:
        plan = order.plan
        values = [order.result.deltas[unit] for unit in plan.trained]
        blob = await write_blob(
            self._context.bus,
            UPDATES.full_name(self._context.prefix),
            partition_of(plan.worker_id, self._config.partitions),
            f"{plan.plan_id}.{plan.incarnation}",
            parts(header_of(plan.plan_id, plan.trained, values), values),
        )
        await self._do(self._core.uploaded(plan.plan_id, blob, self._clock.now()))

    def _new_watch(self) -> TrainingControl:
        stop = threading.Event()

        def on_step(steps_done: int) -> None:
            if not stop.is_set():
                self._steps_done = steps_done

        return TrainingControl(stop, on_step)

    def _release(self, plan_id: str) -> None:
        self._watches.pop(plan_id, None)
        self._fetched.pop(plan_id, None)

    # ------------------------------------------------------------ tasks

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._left.done():
            self._left.set_exception(error)
