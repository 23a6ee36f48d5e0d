"""Reads a topic from its end: what is new lies there, however long the log is.

Invariants: messages come newest first, each once; what was appended after the call is left out;
records of kinds that are not asked for are not decoded; a record that can't be read is passed over
(whoever reads the topic forwards buries it); memory is one window of records.
"""

from collections.abc import AsyncGenerator, Collection

from cos2p.errors import MessageError
from cos2p.log import codec
from cos2p.log.bus import Bus, Record
from cos2p.log.mailbox import Letter
from cos2p.log.messages import Message
from cos2p.log.topics import Topic

WINDOW_MIN, WINDOW_MAX = 64, 1024
"""Records in a window. Each window is twice the one before: what is sought is near the end."""
WINDOW_BYTES = 2 << 20
"""A window with more than this is not doubled, one with twice as much is halved."""


async def newest_first(
    bus: Bus,
    prefix: str,
    topic: Topic,
    kinds: Collection[type[Message]],
    *,
    run_id: str,
    before: int | None = None,
) -> AsyncGenerator[Letter, None]:
    """The messages of some kinds, newest first.

    Args:
        bus: where the topic is.
        prefix: of its name.
        topic: which; its partition 0 is read.
        kinds: messages that are wanted.
        run_id: whose.
        before: the offset to go back from; None for the log's end as it is now.

    Raises:
        What the bus raises.
    """
    name = topic.full_name(prefix)
    names = {kind.__name__.encode() for kind in kinds}
    ends = (await bus.end_offsets(name))[0]
    end, size = ends.next if before is None else min(before, ends.next), WINDOW_MIN
    while end > ends.first:
        begin = max(ends.first, end - size)
        records = await _window(bus, name, begin, end)
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
    """The offset that the next record of a topic gets."""
    return (await bus.end_offsets(topic.full_name(prefix)))[0].next


async def _window(bus: Bus, name: str, begin: int, end: int) -> list[Record]:
    found: list[Record] = []
    offset = begin
    while offset < end:
        records = await bus.read(name, 0, offset, bytes_max=WINDOW_BYTES, wait_s=1.0)
        if not records:
            break
        found += [record for record in records if record.offset < end]
        offset = records[-1].offset + 1
    return found


def _next_size(size: int, byte_count: int) -> int:
    if byte_count > 2 * WINDOW_BYTES:
        return max(1, size // 2)
    return size if byte_count > WINDOW_BYTES else min(2 * size, WINDOW_MAX)
