"""The one loop that reads a run's small topics, alone or together in their canonical order.

Invariants: nothing is written to the bus; records that can't be read, or are of another run, are
counted and skipped; memory holds one batch of each topic; where retention has taken the head of a
topic, reading starts at its first record. Canonical order: before a decision come all `fleet`
records that it has handled (`fleet_offset`), and what the aggregator made comes as soon as the
decisions that it obeys are given (`decisions_offset`); at the end the rest of `fleet`, then of
`models`. Ends are read from effect to cause, so that what a record refers to is there.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from cos2p import codec
from cos2p import messages as m
from cos2p.bus import Bus, Record
from cos2p.errors import MessageError, OffsetExpiredError
from cos2p.messages import Message
from cos2p.topics import DECISIONS, FLEET, MODELS, Topic

BATCH_BYTES = 1 << 20
ANY_RUN = "*"
"""Where a cursor gives the messages of every run."""


@dataclass(frozen=True)
class Letter:
    """A message, and where it was read."""

    topic: Topic
    offset: int
    timestamp_s: float
    message: Message
    value: bytes | memoryview


@dataclass
class Tally:
    """What was read of a topic, and what of it was skipped."""

    record_count: int = 0
    byte_count: int = 0
    unreadable_count: int = 0
    foreign_count: int = 0


class Cursor:
    """Partition 0 of a topic, read in order.

    Args:
        bus: where it is.
        prefix: of its name.
        topic: which.
        run_id: whose messages are given (or `ANY_RUN`); None takes that of the first.
        offset: where to begin.
    """

    def __init__(
        self, bus: Bus, prefix: str, topic: Topic, run_id: str | None = None, offset: int = 0
    ) -> None:
        self._bus, self._topic = bus, topic
        self._name = topic.full_name(prefix)
        self._read_offset = offset
        self._batch: list[Letter] = []
        self._next = 0
        self.run_id = run_id
        self.tally = Tally()

    @property
    def offset(self) -> int:
        """The next record to give."""
        left = self._next < len(self._batch)
        return self._batch[self._next].offset if left else self._read_offset

    async def end(self) -> int:
        """Where the log ends now; what retention has taken is passed over.

        Raises:
            TopicMissingError, BusUnreachableError.
        """
        ends = (await self._bus.end_offsets(self._name))[0]
        self._read_offset = max(self._read_offset, ends.first)
        return ends.next

    async def peek(self, end: int, wait_s: float = 0.0) -> Letter | None:
        """The next letter before `end`; None where there is none."""
        while self._next >= len(self._batch):
            if self._read_offset >= end or not await self._fill(wait_s):
                return None
        letter = self._batch[self._next]
        return letter if letter.offset < end else None

    def pop(self) -> None:
        """The letter last peeked at was given."""
        self._next += 1

    async def wait(self, wait_s: float) -> None:
        """Wait until there is a record to read, or for this long."""
        if self._next >= len(self._batch):
            await self._fill(wait_s)

    async def _fill(self, wait_s: float) -> bool:
        try:
            records = await self._bus.read(
                self._name, 0, self._read_offset, bytes_max=BATCH_BYTES, wait_s=wait_s
            )
        except OffsetExpiredError:  # retention came first
            before = self._read_offset
            await self.end()
            return self._read_offset > before
        self._batch, self._next = [], 0
        for record in records:
            self._read_offset = record.offset + 1
            letter = self._letter(record)
            if letter is not None:
                self._batch.append(letter)
        return bool(records)

    def _letter(self, record: Record) -> Letter | None:
        tally = self.tally
        tally.record_count += 1
        tally.byte_count += len(record.value)
        try:
            message = codec.decode(record)
        except MessageError:
            tally.unreadable_count += 1
            return None
        self.run_id = self.run_id or message.run_id
        foreign = self.run_id not in (ANY_RUN, message.run_id)
        if foreign or type(message) not in self._topic.messages:
            tally.foreign_count += 1
            return None
        return Letter(self._topic, record.offset, record.timestamp_s, message, record.value)


async def letters(
    bus: Bus, prefix: str, topic: Topic, run_id: str | None = None, *, offset: int = 0
) -> AsyncIterator[Letter]:
    """A topic's messages of one run (the first, if none is named) up to its end now.

    Raises:
        TopicMissingError, BusUnreachableError.
    """
    cursor = Cursor(bus, prefix, topic, run_id, offset)
    end = await cursor.end()
    while (letter := await cursor.peek(end, 1.0)) is not None:
        cursor.pop()
        yield letter


async def run_of(bus: Bus, prefix: str) -> str:
    """The run of this prefix: named by its decisions, else by the first request; else empty.

    Raises:
        TopicMissingError, BusUnreachableError.
    """
    async for decided in letters(bus, prefix, DECISIONS):
        return decided.message.run_id
    async for said in letters(bus, prefix, FLEET, ANY_RUN):
        if isinstance(said.message, m.RunRequested):
            return said.message.run_id
    return ""


class RunLog:
    """One run's `fleet`, `decisions` and `models` in canonical order; can be asked again for more.

    Args:
        bus: where they are.
        prefix: of their names.
        run_id: whose messages are given.
        offsets: where to begin, by the topic's name.
    """

    def __init__(
        self, bus: Bus, prefix: str, run_id: str, offsets: Mapping[str, int] | None = None
    ) -> None:
        starts = offsets or {}
        self._fleet, self._decisions, self._models = (
            Cursor(bus, prefix, topic, run_id, starts.get(topic.name, 0))
            for topic in (FLEET, DECISIONS, MODELS)
        )

    @property
    def tally(self) -> Tally:
        """What was read of the three topics."""
        parts = [c.tally for c in (self._fleet, self._decisions, self._models)]
        return Tally(
            sum(p.record_count for p in parts),
            sum(p.byte_count for p in parts),
            sum(p.unreadable_count for p in parts),
            sum(p.foreign_count for p in parts),
        )

    async def letters(self) -> AsyncIterator[Letter]:
        """What has come since the last call, up to the ends of the topics now.

        Raises:
            TopicMissingError, BusUnreachableError.
        """
        fleet, decisions, models = self._fleet, self._decisions, self._models
        models_end, decisions_end = await models.end(), await decisions.end()
        fleet_end = await fleet.end()
        while True:
            made = await models.peek(models_end, 1.0)
            if made is not None and _obeys(made) <= decisions.offset:
                models.pop()
                yield made
                continue
            decided = await decisions.peek(decisions_end, 1.0)
            said = await fleet.peek(fleet_end, 1.0)
            if said is not None and (decided is None or said.offset < _handled(decided)):
                fleet.pop()
                yield said
            elif decided is not None:
                decisions.pop()
                yield decided
            elif made is not None:
                models.pop()
                yield made
            else:
                return

    async def wait(self, wait_s: float) -> None:
        """Wait for a word from the fleet, this long at most."""
        await self._fleet.wait(wait_s)


def _obeys(made: Letter) -> int:
    assert isinstance(made.message, m.Made)
    return made.message.decisions_offset


def _handled(decided: Letter) -> int:
    assert isinstance(decided.message, m.Decision)
    return decided.message.fleet_offset
