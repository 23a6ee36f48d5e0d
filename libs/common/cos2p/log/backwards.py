"""Reads a topic backwards from its end, so that new records are found at once in a long log.

Invariants:
Messages come newest first, each once.
Records appended after the call are left out.
Records of other kinds than those requested are not decoded.
A record that can't be read is skipped.
The reader that reads the topic forwards writes it to the dead-letter topic.
Memory holds one window of records.
"""

from collections.abc import AsyncGenerator, Collection

from cos2p.errors import MessageError
from cos2p.log import codec
from cos2p.log.bus import Bus, records_between
from cos2p.log.mailbox import Letter
from cos2p.log.messages import Message
from cos2p.log.topics import Topic

WINDOW_MIN, WINDOW_MAX = 64, 1024
"""Limits of a window's size in records. Each window is twice the one before, because the wanted
records are usually near the end."""
WINDOW_BYTES = 2 << 20
"""A window with more bytes than this is not doubled; one with more than twice this is halved."""


async def newest_first(
    bus: Bus,
    prefix: str,
    topic: Topic,
    kinds: Collection[type[Message]],
    *,
    run_id: str,
    before: int | None = None,
) -> AsyncGenerator[Letter, None]:
    """Give a run's messages of some kinds in partition 0, newest first.

    `before` is the offset to read back from; None stands for the log's current end. The bus's
    errors pass.
    """
    name = topic.full_name(prefix)
    names = {kind.__name__.encode() for kind in kinds}
    ends = (await bus.end_offsets(name))[0]
    end, size = ends.next if before is None else min(before, ends.next), WINDOW_MIN
    while end > ends.first:
        begin = max(ends.first, end - size)
        records = [r async for r in records_between(bus, name, begin, end, bytes_max=WINDOW_BYTES)]
        for record in reversed(records):
            if bytes(record.headers.get(codec.NAME_HEADER, b"")) not in names:
                continue
            try:
                message = codec.decode(record)
            except MessageError:
                continue
            if message.run_id == run_id:
                yield Letter(topic, record.offset, record.timestamp_s, message)
        size = _next_size(size, sum(len(record.value) for record in records))
        end = begin


async def end_of(bus: Bus, prefix: str, topic: Topic) -> int:
    """The offset that the next record of a topic will have."""
    return (await bus.end_offsets(topic.full_name(prefix)))[0].next


def _next_size(size: int, byte_count: int) -> int:
    if byte_count > 2 * WINDOW_BYTES:
        return max(1, size // 2)
    return size if byte_count > WINDOW_BYTES else min(2 * size, WINDOW_MAX)
