"""A reader of one topic's messages that holds its own position.

Invariants: every record is handed on once, in order; one that can't be read, or that a check
refuses, is counted and stops nothing; of one writer's the first few go to the dead-letter topic
with the reason, so that a writer who is never understood can't fill it; records of another run are
counted and skipped. A mailbox opened without a run's id takes that of the first message it reads.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass

from cos2p.errors import MessageError
from cos2p.log import codec
from cos2p.log.bus import Bus, Record
from cos2p.log.messages import DeadLetter, Message
from cos2p.log.topics import DEAD_LETTERS, Topic

POLL_BYTES_MAX = 1 << 20
"""Read at once: a reader that is far behind holds so much of the log, and no more."""
HEAD_BYTES_MAX = 32 << 10
"""Read at once where only the next few records are wanted."""
BURIED_MAX = 10
"""Dead letters of one writer: enough to see what is wrong with it."""
WRITERS_MAX = 1000
"""Writers who are counted each on their own: a forger can invent names for ever."""
ANY_RUN = "*"
"""The run of a mailbox that hands on the messages of every run."""
OTHERS = b""
"""All writers beyond them, and those who give no name."""


@dataclass(frozen=True)
class Letter:
    """A message, where it was read, and its record's value."""

    topic: Topic
    offset: int
    timestamp_s: float
    message: Message
    value: bytes | memoryview = b""


@dataclass(frozen=True)
class Refusal:
    """A record that is not handed on because it can't be read or was not accepted.

    Attributes:
        offset: where it was read.
        reason: why not.
        number: which it is among its writer's, from 1.
    """

    offset: int
    reason: str
    number: int


Check = Callable[[Record, Message], None]
"""Accepts a record and its message, or raises `MessageError`."""


class Mailbox:
    """Reads partition 0 of a topic from an offset on.

    Args:
        bus: where it is.
        prefix: of its name.
        topic: which.
        reader: for the dead letters.
        run_id: whose messages are handed on, or `ANY_RUN`.
        offset: where to begin.
        kinds: the messages that are wanted; others are not even decoded. Empty: all.
        check: what else each record must pass.
        bury_from: refused records before this offset were buried by an earlier reader; None where
            a later one will.
        refused: told of each refused record.
    """

    def __init__(
        self,
        bus: Bus,
        prefix: str,
        topic: Topic,
        *,
        reader: str,
        run_id: str | None = None,
        offset: int = 0,
        kinds: Collection[type[Message]] = (),
        check: Check = lambda record, message: None,
        bury_from: int | None = 0,
        refused: Callable[[Refusal], None] = lambda refusal: None,
    ) -> None:
        self._bus, self._prefix, self._reader = bus, prefix, reader
        self._check, self._refused = check, refused
        self._topic = topic
        self._kinds = {kind.__name__.encode() for kind in kinds}
        self._bury_from = bury_from
        self._refused_counts: Counter[bytes] = Counter()
        self.run_id = run_id
        self.offset = offset
        self.record_count = 0
        self.unreadable_count = 0
        self.foreign_count = 0

    async def poll(self, wait_s: float = 0.0, bytes_max: int = POLL_BYTES_MAX) -> list[Letter]:
        """The next letters, of about `bytes_max`; waits up to `wait_s` where there are none."""
        name = self._topic.full_name(self._prefix)
        letters: list[Letter] = []
        found = await self._bus.read(name, 0, self.offset, bytes_max=bytes_max, wait_s=wait_s)
        for record in found:
            self.offset = record.offset + 1
            self.record_count += 1
            if self._kinds and bytes(record.headers.get(codec.NAME_HEADER, b"")) not in self._kinds:
                continue
            try:
                message = codec.decode(record)
                self._check(record, message)
            except MessageError as error:
                await self._refuse(record, str(error))
                continue
            if self.run_id is None:
                self.run_id = message.run_id
            foreign = self.run_id not in (ANY_RUN, message.run_id)
            if foreign or type(message) not in self._topic.messages:
                self.foreign_count += 1
                continue
            at_s, value = record.timestamp_s, record.value
            letters.append(Letter(self._topic, record.offset, at_s, message, value))
        return letters

    async def end(self) -> int:
        """The offset after the last record now; what retention has taken is passed over."""
        ends = (await self._bus.end_offsets(self._topic.full_name(self._prefix)))[0]
        self.offset = max(self.offset, ends.first)
        return ends.next

    async def stream(self) -> AsyncIterator[Letter]:
        """All letters up to the end of the log as it is now; one poll's are held at a time."""
        end = await self.end()
        while self.offset < end:
            before = self.offset
            for letter in await self.poll(wait_s=1.0):
                yield letter
            if self.offset == before:
                break

    async def drain(self) -> list[Letter]:
        """All letters up to the end of the log as it is now: for a short log only."""
        return [letter async for letter in self.stream()]

    async def _refuse(self, record: Record, reason: str) -> None:
        self.unreadable_count += 1
        counts, writer = self._refused_counts, bytes(record.key)
        if writer not in counts and len(counts) >= WRITERS_MAX:
            writer = OTHERS
        counts[writer] += 1
        self._refused(Refusal(record.offset, reason, counts[writer]))
        due = self._bury_from is not None and record.offset >= self._bury_from
        if due and counts[writer] <= BURIED_MAX:
            await self._bury(record, reason)

    async def _bury(self, record: Record, reason: str) -> None:
        letter = DeadLetter(
            run_id=self.run_id or "unknown",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=reason[:2000],
            reader=self._reader,
            value_head=bytes(record.value[:4096]),
        )
        await self._bus.append(DEAD_LETTERS.full_name(self._prefix), 0, [codec.encode(letter)])


class Outbox:
    """Appends messages to a topic."""

    def __init__(self, bus: Bus, prefix: str, topic: Topic) -> None:
        self._bus, self._topic = bus, topic
        self._name = topic.full_name(prefix)

    async def send(self, *messages: Message) -> list[int]:
        """Append in order; returns when acknowledged, with the offsets."""
        for message in messages:
            if type(message) not in self._topic.messages:
                raise TypeError(f"{type(message).__name__} has no place in {self._topic.name}")
        if not messages:
            return []
        return await self._bus.append(self._name, 0, [codec.encode(m) for m in messages])
