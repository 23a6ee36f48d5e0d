"""The loop that reads a run's small topics, alone or together in their canonical order.

Canonical order:
A decision comes after all `fleet` records that it has handled (`fleet_offset`).
The `fleet_offset` of a decision that the epoch fence refuses is ignored.
A record of the aggregator comes as soon as the decisions that it obeys are given
(`decisions_offset`).
The rest of `fleet` comes last.

Invariants:
Nothing is written to the bus, and its errors pass (TopicMissingError, BusUnreachableError).
Records that can't be read, or that belong to another run, are counted and skipped.
Memory holds one batch of each topic.
If retention has removed the head of a topic, reading starts at its first record.
Ends of topics are read from effect to cause.
So the records that a record refers to are within the ends.
"""

from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass

from cos2p.errors import OffsetExpiredError
from cos2p.log import messages as m
from cos2p.log.bus import Bus
from cos2p.log.fence import EpochFence
from cos2p.log.mailbox import ANY_RUN, Letter, Mailbox
from cos2p.log.messages import Message
from cos2p.log.topics import DECISIONS, FLEET, MODELS, Topic

READER = "history"


@dataclass(frozen=True)
class Tally:
    """How many records of some topics were read, and how many of them were skipped."""

    record_count: int = 0
    unreadable_count: int = 0
    foreign_count: int = 0


class Tape:
    """A mailbox that is read letter by letter, up to an end that can be moved.

    Nothing else may poll the mailbox meanwhile.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self._letters: deque[Letter] = deque()
        self._end = 0

    @classmethod
    def of(
        cls,
        bus: Bus,
        prefix: str,
        topic: Topic,
        run_id: str | None = None,
        *,
        offset: int = 0,
        kinds: Collection[type[Message]] = (),
    ) -> "Tape":
        """Make a tape of a topic, for a reader that checks nothing and writes no dead letters."""
        mailbox = Mailbox(
            bus,
            prefix,
            topic,
            reader=READER,
            run_id=run_id,
            offset=offset,
            kinds=kinds,
            dead_letters_from=None,
        )
        return cls(mailbox)

    @property
    def offset(self) -> int:
        """The offset of the next record to give."""
        return self._letters[0].offset if self._letters else self.mailbox.offset

    async def extend(self) -> int:
        """Move the tape's end to the topic's current end, and return it."""
        self._end = await self.mailbox.end()
        return self._end

    def stop_at(self, end: int) -> None:
        """Set the tape's end to this offset."""
        self._end = end

    async def head(self) -> Letter | None:
        """The next letter, which stays on the tape; None at the end."""
        while not self._letters and self.mailbox.offset < self._end:
            if not await self._fill(wait_s=1.0):
                break
        return self._letters[0] if self._letters and self._letters[0].offset < self._end else None

    def take(self) -> Letter:
        """Take the letter that `head` has returned off the tape."""
        return self._letters.popleft()

    def rest(self) -> list[Letter]:
        """Take the letters after the end that were read with those before it.

        The mailbox's position is past them, so a reader of the mailbox needs them from here.
        """
        rest = list(self._letters)
        self._letters.clear()
        return rest

    async def wait(self, wait_s: float) -> None:
        """Wait up to this long until there is a record to read."""
        if not self._letters:
            await self._fill(wait_s)

    async def _fill(self, wait_s: float) -> bool:
        before = self.mailbox.offset
        try:
            self._letters += await self.mailbox.poll(wait_s)
        except OffsetExpiredError:  # retention removed the record
            await self.mailbox.end()  # moves the mailbox to the first record that is kept
        return self.mailbox.offset > before


async def letters(
    bus: Bus,
    prefix: str,
    topic: Topic,
    run_id: str | None = None,
    *,
    offset: int = 0,
    kinds: Collection[type[Message]] = (),
) -> AsyncIterator[Letter]:
    """Read a topic's messages of one run up to the topic's current end; see `Mailbox`."""
    tape = Tape.of(bus, prefix, topic, run_id, offset=offset, kinds=kinds)
    await tape.extend()
    while await tape.head() is not None:
        yield tape.take()


async def run_of(bus: Bus, prefix: str) -> str:
    """The run at this prefix: named by its decisions, else by the first request, else empty."""
    async for decided in letters(bus, prefix, DECISIONS):
        return decided.message.run_id
    async for fleet_letter in letters(bus, prefix, FLEET, ANY_RUN):
        if isinstance(fleet_letter.message, m.RunRequested):
            return fleet_letter.message.run_id
    return ""


class RunLog:
    """One run's `fleet`, `decisions` and `models` in canonical order; can be extended.

    `epoch` is the epoch in force where `decisions` begins; 0 at the log's start.
    """

    def __init__(self, fleet: Tape, decisions: Tape, models: Tape, epoch: int = 0) -> None:
        self.fleet, self.decisions, self.models = fleet, decisions, models
        self._fence = EpochFence(epoch)

    @classmethod
    def of(
        cls,
        bus: Bus,
        prefix: str,
        run_id: str | None,
        offsets: Mapping[str, int] | None = None,
        epoch: int = 0,
    ) -> "RunLog":
        """Make the log of a run for a reader.

        It begins at the given offsets, by the topic's name, and at 0 where none is given.
        """
        starts = offsets or {}
        fleet, decisions, models = (
            Tape.of(bus, prefix, topic, run_id, offset=starts.get(topic.name, 0))
            for topic in (FLEET, DECISIONS, MODELS)
        )
        return cls(fleet, decisions, models, epoch)

    @property
    def epoch(self) -> int:
        """The newest epoch that was opened."""
        return self._fence.epoch

    @property
    def tally(self) -> Tally:
        """How many records of the three topics were read and skipped."""
        boxes = [tape.mailbox for tape in (self.fleet, self.decisions, self.models)]
        return Tally(
            sum(box.record_count for box in boxes),
            sum(box.unreadable_count for box in boxes),
            sum(box.foreign_count for box in boxes),
        )

    async def extend(self) -> None:
        """Move the ends of the tapes to the topics' current ends."""
        # From effect to cause: what a record refers to lies within the ends that are read later.
        for tape in (self.models, self.decisions, self.fleet):
            await tape.extend()

    async def letters(self) -> AsyncIterator[Letter]:
        """Extend the log, and give the letters since the last call."""
        await self.extend()
        async for letter in self.decided():
            yield letter
        async for letter in self.fleet_letters():
            yield letter

    async def decided(self) -> AsyncIterator[Letter]:
        """Give all decisions up to the end and what precedes them; then the rest of `models`.

        Fleet records that no decision follows are left on their tape. Decisions that the fence
        refuses are given, too: the fold needs to know how far the topic was read.
        """
        while (letter := await self.decisions.head()) is not None:
            async for made in self._made(letter.offset):
                yield made
            decision = letter.message
            if isinstance(decision, m.Decision) and self._fence.admits(decision):
                async for fleet_letter in self.fleet_letters(decision.fleet_offset):
                    yield fleet_letter
            yield self.decisions.take()
        async for made in self._made(None):
            yield made

    async def fleet_letters(self, end: int | None = None) -> AsyncIterator[Letter]:
        """Give the fleet records below an offset; None for all."""
        while (letter := await self.fleet.head()) is not None:
            if end is not None and letter.offset >= end:
                return
            yield self.fleet.take()

    async def _made(self, end: int | None) -> AsyncIterator[Letter]:
        """Give the records of `models` that obey decisions below an offset; None for all."""
        while (letter := await self.models.head()) is not None:
            made = letter.message
            if (
                end is not None
                and isinstance(made, m.AggregatorMessage)
                and made.decisions_offset > end
            ):
                return
            yield self.models.take()
