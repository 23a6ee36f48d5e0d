"""A reader of one topic's messages that keeps its own position.

Invariants:
Every accepted record is given once, in order.
A record that can't be read, or that a check refuses, is counted and skipped.
The first few such records of each writer go to the dead-letter topic with the reason.
The limit keeps a writer of unreadable records from filling that topic.
Records of another run are counted and skipped.
A mailbox opened without a run's id takes that of the first message it reads.
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
"""Bytes of one read. A reader that is far behind holds no more of the log than this."""
HEAD_BYTES_MAX = 32 << 10
"""Bytes of one read where only the next few records are wanted."""
DEAD_LETTERS_MAX = 10
"""Dead letters of one writer: enough to see what is wrong with it."""
WRITERS_MAX = 1000
"""Number of writers that are counted separately. The limit bounds memory, because a forger can
invent any number of names."""
ANY_RUN = "*"
"""The run id of a mailbox that gives the messages of every run."""
OTHERS = b""
"""The key under which all further writers, and those without a name, are counted."""


@dataclass(frozen=True)
class Letter:
    """A message, its place in the log, and its record's value."""

    topic: Topic
    offset: int
    timestamp_s: float
    message: Message
    value: bytes | memoryview = b""


@dataclass(frozen=True)
class Refusal:
    """A record that is skipped because it can't be read or was not accepted.

    `number` is its number among the writer's refused records, from 1.
    """

    offset: int
    reason: str
    number: int


Check = Callable[[Record, Message], None]
"""Accepts a record and its message, or raises `MessageError`."""


class Mailbox:
    """Reads partition 0 of a topic from an offset on.

    Args:
        bus: bus that holds the topic.
        prefix: prefix of the topic's name.
        topic: the topic in the catalogue.
        reader: name of the reader in dead letters.
        run_id: run whose messages are given, or `ANY_RUN`; None takes that of the first message.
        offset: offset to begin at.
        kinds: kinds of messages to give; others are not decoded. Empty for all.
        check: a further check of each record; it raises `MessageError` to refuse the record.
        dead_letters_from: offset from which refused records become dead letters. An earlier reader
            has handled those before it. None writes no dead letters, because a later reader does.
        refused: receives each refusal.
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
        dead_letters_from: int | None = 0,
        refused: Callable[[Refusal], None] = lambda refusal: None,
    ) -> None:
        self._bus, self._prefix, self._reader = bus, prefix, reader
        self._check, self._refused = check, refused
        self._topic = topic
        self._kinds = {kind.__name__.encode() for kind in kinds}
        self._dead_letters_from = dead_letters_from
        self._refused_counts: Counter[bytes] = Counter()
        self.run_id = run_id
        self.offset = offset
        self.record_count = 0
        self.unreadable_count = 0
        self.foreign_count = 0

    async def poll(self, wait_s: float = 0.0, bytes_max: int = POLL_BYTES_MAX) -> list[Letter]:
        """Read the next letters, of about `bytes_max`; wait up to `wait_s` if there are none."""
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
        """The topic's current end; also move the position past what retention has removed."""
        ends = (await self._bus.end_offsets(self._topic.full_name(self._prefix)))[0]
        self.offset = max(self.offset, ends.first)
        return ends.next

    async def stream(self) -> AsyncIterator[Letter]:
        """Give all letters up to the log's current end; memory holds those of one poll."""
        end = await self.end()
        while self.offset < end:
            before = self.offset
            for letter in await self.poll(wait_s=1.0):
                yield letter
            if self.offset == before:
                break

    async def _refuse(self, record: Record, reason: str) -> None:
        self.unreadable_count += 1
        counts, writer = self._refused_counts, bytes(record.key)
        if writer not in counts and len(counts) >= WRITERS_MAX:
            writer = OTHERS
        counts[writer] += 1
        self._refused(Refusal(record.offset, reason, counts[writer]))
        due = self._dead_letters_from is not None and record.offset >= self._dead_letters_from
        if due and counts[writer] <= DEAD_LETTERS_MAX:
            await self._write_dead_letter(record, reason)

    async def _write_dead_letter(self, record: Record, reason: str) -> None:
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
        """Append in order, wait for the acknowledgement and return the offsets."""
        for message in messages:
            if type(message) not in self._topic.messages:
                raise TypeError(f"{type(message).__name__} has no place in {self._topic.name}")
        if not messages:
            return []
        return await self._bus.append(self._name, 0, [codec.encode(m) for m in messages])
