"""Where a shard continues, found at the log's ends: neither topic is read from end to end.

`models` is read backwards to the shard's newest whole version, and one version further. Of
`decisions` three parts are read: the first records up to the run's start, the few that the version
depends on, and all that follow it. So a start costs what the state costs, plus what was decided
since the checkpoint.
"""

from collections.abc import AsyncIterator, Sequence

from cos2p.errors import MessageError
from cos2p.log import codec
from cos2p.log.backwards import newest_first
from cos2p.log.bus import Bus, Record
from cos2p.log.mailbox import HEAD_BYTES_MAX, Letter
from cos2p.log.messages import Dispatched, RunFinished, RunOpened, VersionPublished
from cos2p.log.topics import DECISIONS, MODELS
from cos2p_aggregator.published_records import PublishedRecords, StartPoint

PUBLISHED_KINDS = (Dispatched, RunFinished, RunOpened, VersionPublished)


async def read_published(bus: Bus, prefix: str, run_id: str, shard: int) -> PublishedRecords:
    """Read what a shard has published since its newest whole version; the bus's errors pass."""
    ledger = PublishedRecords(shard)
    async for letter in newest_first(bus, prefix, MODELS, PUBLISHED_KINDS, run_id=run_id):
        ledger.take(letter.message)
        if ledger.complete:
            break
    ledger.settle()
    return ledger


async def named_decisions(
    bus: Bus, prefix: str, head: Sequence[Letter], point: StartPoint | None
) -> AsyncIterator[Letter]:
    """Yield the decisions before a start point that it depends on (see `AggregatorCore`).

    They include the log's head up to the run's start, which the caller has read.

    Raises:
        MessageError: one of them is not in the log, or can't be read.
    """
    if point is None:
        return
    for letter in head:
        yield letter
    if not point.version:
        return  # version 0 depends on the run's start alone
    name = DECISIONS.full_name(prefix)
    cached: dict[int, Record] = {}
    for offset in (*point.open_plans, point.decisions_offset - 1):
        if offset not in cached:
            records = await bus.read(name, 0, offset, bytes_max=HEAD_BYTES_MAX, wait_s=1.0)
            cached = {record.offset: record for record in records}
        if offset not in cached:
            raise MessageError(
                f"version {point.version} rests on the decision at offset {offset} of {name}, "
                "which is not in the log: `cos2p replay` names what can still be rebuilt"
            )
        record = cached[offset]
        yield Letter(DECISIONS, offset, record.timestamp_s, codec.decode(record))
