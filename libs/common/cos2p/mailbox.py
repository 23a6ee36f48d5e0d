"""A reader of one topic's messages that holds its own position.

Invariants: every record is handed on once, in order; one that can't be read, or that a check
refuses, goes to the dead-letter topic with the reason, is counted, and stops nothing; records of
another run are counted and skipped. A mailbox opened without a run's id takes that of the first
message it reads.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cos2p import codec
from cos2p.bus import Bus, Record
from cos2p.errors import MessageError
from cos2p.messages import DeadLetter, Message
from cos2p.topics import DEAD_LETTERS, Topic


@dataclass(frozen=True)
class Letter:
    """A message and where it was read."""

    offset: int
    timestamp_s: float
    message: Message


Check = Callable[[Record, Message], None]
"""Accepts a record and its message, or raises `MessageError`."""


class Mailbox:
    """Reads partition 0 of a topic from an offset on.

    Args:
        bus: where it is.
        prefix: of its name.
        topic: which.
        reader: for the dead letters.
        run_id: whose messages are handed on.
        offset: where to begin.
        check: what else each record must pass.
        refused: told the reason of each dead letter.
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
        check: Check = lambda record, message: None,
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._bus, self._prefix, self._reader = bus, prefix, reader
        self._check, self._refused = check, refused
        self._topic = topic
        self.run_id = run_id
        self.offset = offset
        self.unreadable_count = 0
        self.foreign_count = 0

    async def poll(self, wait_s: float = 0.0) -> list[Letter]:
        """The next letters; waits up to `wait_s` where there are none."""
        name = self._topic.full_name(self._prefix)
        letters: list[Letter] = []
        for record in await self._bus.read(name, 0, self.offset, wait_s=wait_s):
            self.offset = record.offset + 1
            try:
                message = codec.decode(record)
                self._check(record, message)
            except MessageError as error:
                await self._bury(record, str(error))
                continue
            if self.run_id is None:
                self.run_id = message.run_id
            if message.run_id != self.run_id or type(message) not in self._topic.messages:
                self.foreign_count += 1
                continue
            letters.append(Letter(record.offset, record.timestamp_s, message))
        return letters

    async def drain(self) -> list[Letter]:
        """All letters up to the end of the log as it is now."""
        name = self._topic.full_name(self._prefix)
        end = (await self._bus.end_offsets(name))[0].next
        letters: list[Letter] = []
        while self.offset < end:
            before = self.offset
            letters += await self.poll(wait_s=1.0)
            if self.offset == before:
                break
        return letters

    async def _bury(self, record: Record, reason: str) -> None:
        self.unreadable_count += 1
        self._refused(reason)
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
