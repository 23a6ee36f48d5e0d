"""Streams blobs into a core's effects: the same code for the live shard and for a replay.

Invariants: one chunk is held at a time. The event loop turns after each chunk. A fault in an
update's blob is handled by the update and never raised. A fault in a checkpoint is raised.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from cos2p.errors import BlobError
from cos2p.log.blobs import read_blob
from cos2p.log.bus import Bus
from cos2p_aggregator.effects import Load, Merge


async def load_checkpoint(
    bus: Bus, effect: Load, stopped: Callable[[], bool] = lambda: False
) -> None:
    """Fill the model from a checkpoint; leave it half filled where `stopped` returns True.

    Raises:
        BlobError: the checkpoint is gone or damaged.
    """
    reader = effect.reader()
    async with aclosing(read_blob(bus, effect.part.blob)) as chunks:
        async for chunk in chunks:
            effect.feed(reader, chunk)
            await asyncio.sleep(0)
            if stopped():
                return
    reader.finish()


async def merge_update(
    bus: Bus, effect: Merge, stopped: Callable[[], bool] = lambda: False
) -> BlobError | None:
    """Merge an update into the open version, and return the fault that cut it short, if any.

    Where `stopped` returns True, it ends half done and the model can't be used any more.
    """
    update = effect.update
    fault: BlobError | None = None
    try:
        # Each unit's digest is checked. A check of the whole blob would come after the units are
        # merged.
        async with aclosing(read_blob(bus, effect.blob, verify=False)) as chunks:
            async for chunk in chunks:
                update.feed(chunk)
                await asyncio.sleep(0)
                if stopped():
                    return None
                if update.complete:
                    break
    except BlobError as error:
        fault = error
    update.finish(fault)
    return fault
