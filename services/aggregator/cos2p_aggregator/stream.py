"""Streams blobs into a core's effects: the same code for the live shard and for a replay.

Invariants: one chunk is held at a time; the event loop turns after each; a fault in an update's
blob is the update's matter and never raised, a fault in a checkpoint is.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from cos2p.errors import BlobError
from cos2p.log.blobs import read_blob
from cos2p.log.bus import Bus
from cos2p_aggregator.effects import Load, Merge


def never() -> bool:
    """Nobody asks to stop."""
    return False


async def load_checkpoint(bus: Bus, effect: Load, stopped: Callable[[], bool] = never) -> None:
    """Fill the model from a checkpoint; half done where `stopped` says so.

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
    bus: Bus, effect: Merge, stopped: Callable[[], bool] = never
) -> BlobError | None:
    """Take an update into the open version; the fault that cut it short, if any.

    Where `stopped` says so it ends half done: the model is then good for nothing.
    """
    update = effect.update
    fault: BlobError | None = None
    update.begin()
    try:
        # Each unit's digest is checked: the whole blob's would come after they are merged.
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
