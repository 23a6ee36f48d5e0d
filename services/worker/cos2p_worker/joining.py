"""How a worker or an evaluator finds its run at both ends of `models`: its opening and its finish.

Invariant: what lies between the two ends is not read. So joining costs the same on the run's first
day and on its last.
"""

import asyncio

from cos2p.errors import SettingsError
from cos2p.log.backwards import newest_first
from cos2p.log.bus import Bus
from cos2p.log.mailbox import HEAD_BYTES_MAX, Letter, Mailbox
from cos2p.log.messages import RunFinished, RunOpened, VersionPublished
from cos2p.log.run_request import require_run
from cos2p.log.topics import MODELS
from cos2p.service.role import RoleContext

WAIT_NEWS_S = 10.0
"""Seconds between two log lines of a process that waits for a run."""


async def await_run(context: RoleContext, mailbox: Mailbox) -> tuple[RunOpened, float] | None:
    """Wait for the run's opening, the first record of `models` or soon after it.

    Return it with the time at which the bus took it, or None if asked to stop before. The mailbox
    is read in small portions and left somewhere after the opening.

    Raises:
        RunExistsError: another run than the context's has this prefix.
    """
    stop = context.stop
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
                    require_run(context.run_id, letter.message.run_id, context.prefix)
                    return letter.message, letter.timestamp_s
            if not letters:
                hint = "the aggregator opens it; `cos2p run` starts one"
                context.log.info("run_awaited", hint=hint)
            poll = asyncio.create_task(mailbox.poll(WAIT_NEWS_S, HEAD_BYTES_MAX))
        return None
    finally:
        stopped.cancel()
        poll.cancel()


def require_model(opened: RunOpened, units_digest: bytes, owner: str) -> None:
    """Check that the task of a worker or evaluator has the run's model.

    Raises:
        SettingsError: it has another.
    """
    if units_digest != opened.units_digest:
        raise SettingsError(
            f"the model of {owner}'s task is not that of run {opened.run_id}, "
            f"which was started with {opened.task}: use the same task in the same version"
        )


async def find_finish(bus: Bus, prefix: str, run_id: str, before: int) -> Letter | None:
    """Return RunFinished, if it lies on `models` before an offset.

    Shard 0 writes it after its last version. Where a version of shard 0 comes later, it isn't
    there. Other shards may still write after it.
    """
    kinds = (RunFinished, VersionPublished)
    async for letter in newest_first(bus, prefix, MODELS, kinds, run_id=run_id, before=before):
        if isinstance(letter.message, RunFinished):
            return letter
        if isinstance(letter.message, VersionPublished) and not letter.message.shard:
            return None
    return None
