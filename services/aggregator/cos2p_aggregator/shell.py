"""The aggregator's shell: reads the decisions, carries out the core's effects on the bus.

Invariants: a crash at any point loses nothing. The state is rebuilt from the newest checkpoint and
the log, and what `models` holds is not published again. A blob is acknowledged before a record
refers to it. The event loop turns at least once per chunk.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator

from cos2p.errors import TopicMissingError
from cos2p.log.blobs import write_blob, write_chunks
from cos2p.log.fence import EpochFence
from cos2p.log.mailbox import HEAD_BYTES_MAX, Letter, Mailbox, Outbox
from cos2p.log.messages import BlobRef, Decision, Dispatched, RunStarted, UnitBlob
from cos2p.log.run_request import require_run
from cos2p.log.topics import (
    CHECKPOINTS,
    DECISIONS,
    MODELS,
    SUBMODELS,
    UPDATES,
    Topic,
    partition_of,
)
from cos2p.log.unit_blobs import UnitsToWrite
from cos2p.model.payload import Buffer
from cos2p.model.unit_wire import pack_units
from cos2p.service.role import RoleContext
from cos2p_aggregator.core import AggregatorCore
from cos2p_aggregator.effects import Dispatch, Effect, Finish, Load, Merge, OpenRun, Publish
from cos2p_aggregator.published_records import StartPoint, start_point
from cos2p_aggregator.start import named_decisions, read_published
from cos2p_aggregator.stream import load_checkpoint, merge_update
from cos2p_aggregator.unit_places import UnitPlaces

POLL_S = 0.5
"""The longest time that a stop may go unnoticed while nothing is decided."""
WAIT_LOG_S = 10.0


async def run_aggregator(context: RoleContext, *, shard: int) -> None:
    """Wait for a run and obey its decisions until it ends, or until soon after a stop is asked for.

    Raises:
        RunExistsError: another run than the context's has this prefix.
        DivergedError: a version made again differs from the one published.
        BlobError: a checkpoint is damaged or gone.
        MessageError: the decision log contradicts itself.
        SettingsError: the run has no such shard.
        BusError, StorageError: what the bus raises.
    """
    shell = _Shell(context, shard)
    started = await shell.wait_for_run()
    if started is None:
        return
    require_run(context.run_id, started.run_id, context.prefix)
    with contextlib.suppress(_StopAskedError):
        await shell.carry_out(started)


class _StopAskedError(Exception):
    """A stop interrupts the blob being written; the next process writes it again."""


class _Shell:
    def __init__(self, context: RoleContext, shard: int) -> None:
        self._bus, self._clock, self._log = context.bus, context.clock, context.log
        self._stop, self._prefix, self._shard = context.stop, context.prefix, shard
        self._reader = f"aggregator-{shard}"
        self._models = Outbox(context.bus, context.prefix, MODELS)
        self._head: list[Letter] = []
        # Blobs of an earlier process may lie half written under the same name, so this one's names
        # differ.
        self._start_id = f"{int(context.clock.now() * 1000):x}"
        self._places = UnitPlaces()
        self._partitions = 1
        self._run_id = ""
        self._shard_count = 1

    async def wait_for_run(self) -> RunStarted | None:
        """Wait for the run's start, and keep the decisions up to it; None when asked to stop."""
        logged_at = self._clock.now()
        fence = EpochFence()
        head = Mailbox(
            self._bus, self._prefix, DECISIONS, reader=self._reader, dead_letters_from=None
        )
        while not self._stop.is_set():
            letters: list[Letter] = []
            try:
                letters = await head.poll(POLL_S, HEAD_BYTES_MAX)
            except TopicMissingError:
                await self._clock.sleep(POLL_S)
            for letter in letters:
                decision = letter.message
                self._head.append(letter)
                admitted = isinstance(decision, Decision) and fence.admits(decision)
                if admitted and isinstance(decision, RunStarted):
                    return decision
            if self._clock.now() - logged_at >= WAIT_LOG_S:
                logged_at = self._clock.now()
                self._log.info("waited_for_run", prefix=self._prefix, topic="decisions")
        return None

    async def carry_out(self, started: RunStarted) -> None:
        """Rebuild the state, then follow the log to the run's end."""
        self._run_id, merge = started.run_id, started.config.merge
        self._partitions, self._shard_count = started.config.partitions, merge.shards
        ledger = await read_published(self._bus, self._prefix, started.run_id, self._shard)
        whole = ledger.newest_checkpoint
        start = None if whole is None else start_point((whole,), started.units.table())
        self._log.info("run_found", run=started.run_id, version=start.version if start else 0)
        updates = UPDATES.full_name(self._prefix)
        core = AggregatorCore(self._shard, updates, ledger=ledger, start=start)
        async with contextlib.aclosing(self._decisions(start)) as letters:
            async for letter in letters:
                if not isinstance(letter.message, Decision):
                    continue
                for effect in core.feed(letter.offset, letter.message):
                    await self._carry_out(effect)
                    if self._stop.is_set():
                        return
                if core.ended:
                    return

    async def _decisions(self, start: StartPoint | None) -> AsyncGenerator[Letter, None]:
        """Yield what the core needs of the log before the start, then all records after it."""
        async for letter in named_decisions(self._bus, self._prefix, self._head, start):
            yield letter
        offset = 0 if start is None else start.decisions_offset
        mailbox = Mailbox(
            self._bus,
            self._prefix,
            DECISIONS,
            reader=self._reader,
            run_id=self._run_id,
            offset=offset,
            dead_letters_from=offset,
        )
        while not self._stop.is_set():
            for letter in await mailbox.poll(wait_s=POLL_S):
                yield letter

    # ------------------------------------------------------------ effects

    async def _carry_out(self, effect: Effect) -> None:
        match effect:
            case OpenRun():
                await self._models.send(effect.message)
            case Load():
                await load_checkpoint(self._bus, effect, self._stop.is_set)
            case Dispatch():
                await self._dispatch(effect)
            case Merge():
                await self._merge(effect)
            case Publish():
                await self._publish(effect)
            case Finish():
                if effect.message is not None:
                    await self._models.send(effect.message)
                self._log.info("run_carried_out", run=self._run_id)
            case _:
                await asyncio.sleep(0)

    async def _dispatch(self, effect: Dispatch) -> None:
        plan, digests = effect.plan, effect.digests()
        fresh = self._places.missing(digests, self._clock.now())
        if fresh:
            await self._write_units(effect, {unit: digests[unit] for unit in fresh})
        await self._models.send(
            Dispatched(
                run_id=self._run_id,
                decisions_offset=effect.decisions_offset,
                plan=plan,
                shard=self._shard,
                shard_count=self._shard_count,
                blobs=self._places.blobs(effect.units),
            )
        )
        self._log.debug("plan_dispatched", plan=plan.plan_id, units=len(digests), new=len(fresh))

    async def _write_units(self, effect: Dispatch, digests: dict[int, bytes]) -> None:
        store = effect.store
        units = UnitsToWrite(store.table, {unit: store.raw(unit) for unit in digests}, digests)
        blob = await write_chunks(
            self._bus,
            SUBMODELS.full_name(self._prefix),
            partition_of(effect.plan.plan_id, self._partitions),
            f"{effect.plan.plan_id}.s{self._shard}.{self._start_id}",
            self._until_stop(units.chunks()),
            digest=units.digest,
        )
        written = UnitBlob(blob=blob, units=pack_units(digests))
        self._places.note(written, digests, self._clock.now())

    async def _merge(self, effect: Merge) -> None:
        fault = await merge_update(self._bus, effect, self._stop.is_set)
        left_out = effect.update.left_out
        for left in left_out[:1]:
            self._log.warning(
                "units_left_out",
                plan=left.plan_id,
                worker=left.worker_id,
                reason=left.reason,
                units=len(left_out),
                cause=str(fault) if fault else None,
            )

    async def _publish(self, effect: Publish) -> None:
        message = effect.message
        if (whole := effect.checkpoint) is not None:
            blob = await self._write(CHECKPOINTS, 0, whole.owner, whole.payload())
            message = message.model_copy(update={"checkpoint": blob})
        await self._models.send(message)
        self._log.info(
            "version_published",
            version=message.version,
            updates=message.merged_count,
            left_out=len(message.left_out),
            step_norm=round(message.step_norm, 6),
            whole=message.checkpoint is not None,
        )

    async def _write(
        self, topic: Topic, partition: int, name: str, payload: Iterator[Buffer]
    ) -> BlobRef:
        where, blob_id = topic.full_name(self._prefix), f"{name}.{self._start_id}"
        return await write_blob(self._bus, where, partition, blob_id, self._until_stop(payload))

    def _until_stop(self, payload: Iterator[Buffer]) -> Iterator[Buffer]:
        """Yield the payload until a stop: writing a checkpoint takes longer than a stop may."""
        for part in payload:
            if self._stop.is_set():
                raise _StopAskedError
            yield part
