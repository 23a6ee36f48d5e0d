"""How a worker or an evaluator finds its run at both ends of `models`: opened here, finished there.

Invariant: what lies between the two is not read, so joining costs the same on the run's first day
and on its last.
"""

import asyncio
from dataclasses import dataclass

from cos2p.log.backwards import newest_first
from cos2p.log.bus import Bus
from cos2p.log.mailbox import HEAD_BYTES_MAX, Letter, Mailbox
from cos2p.log.messages import RunFinished, RunOpened, VersionPublished
from cos2p.log.topics import MODELS
from cos2p.service.logs import Log

WAIT_NEWS_S = 10.0
"""How often who waits for a run says so."""


@dataclass(frozen=True)
class Opening:
    """A run's opening, and when the bus took it."""

    message: RunOpened
    at_s: float


async def await_run(mailbox: Mailbox, log: Log, stop: asyncio.Event) -> Opening | None:
    """The run's opening, the first record of `models` or soon after; None if asked to stop before.

    The mailbox is read in small bites and left somewhere behind the opening.
    """
    stopped = asyncio.create_task(stop.wait())
    poll = asyncio.create_task(mailbox.poll(WAIT_NEWS_S, HEAD_BYTES_MAX))
    try:
        while not stop.is_set():
            await asyncio.wait({poll, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not poll.done():
                return None
            letters = poll.result()
            for letter in letters:
                if isinstance(letter.message, RunOpened):
                    return Opening(letter.message, letter.timestamp_s)
            if not letters:
                log.info("run_awaited", hint="the aggregator opens it; `cos2p run` starts one")
            poll = asyncio.create_task(mailbox.poll(WAIT_NEWS_S, HEAD_BYTES_MAX))
        return None
    finally:
        stopped.cancel()
        poll.cancel()


async def find_finish(bus: Bus, prefix: str, run_id: str, before: int) -> Letter | None:
    """RunFinished, if it lies on `models` before an offset.

    Shard 0 writes it, after its last version: where a version of shard 0 comes later, it isn't
    there. Other shards may still write after it.
    """
    kinds = (RunFinished, VersionPublished)
    async for letter in newest_first(bus, prefix, MODELS, kinds, run_id=run_id, before=before):
        if isinstance(letter.message, RunFinished):
            return letter
        if isinstance(letter.message, VersionPublished) and not letter.message.shard:
            return None
    return None
