"""The one loop that reads a run's small topics, alone or together in their canonical order.

Invariants: nothing is written to the bus; records that can't be read, or are of another run, are
counted and skipped; memory holds one batch of each topic; where retention has taken the head of a
topic, reading starts at its first record. Canonical order: before a decision come all `fleet`
records that it has handled (`fleet_offset`), and what the aggregator made comes as soon as the
decisions that it obeys are given (`decisions_offset`); the rest of `fleet` comes last. How far a
decision had read that the epoch fence refuses does not matter. Ends are read from effect to cause,
so that what a record refers to is there.
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
    """What was read of some topics, and what of it was skipped."""

    record_count: int = 0
    unreadable_count: int = 0
    foreign_count: int = 0


class Tape:
    """A mailbox read letter by letter, up to an end that is moved on from time to time.

    Args:
        mailbox: where from; nothing else polls it meanwhile.
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
        """A tape of a topic, for a reader that checks and buries nothing."""
        mailbox = Mailbox(
            bus,
            prefix,
            topic,
            reader=READER,
            run_id=run_id,
            offset=offset,
            kinds=kinds,
            bury_from=None,
        )
        return cls(mailbox)

    @property
    def offset(self) -> int:
        """The next record to give."""
        return self._letters[0].offset if self._letters else self.mailbox.offset

    async def extend(self) -> int:
        """Read up to the end of the topic as it is now, which is returned.

        Raises:
            TopicMissingError, BusUnreachableError.
        """
        self._end = await self.mailbox.end()
        return self._end

    def stop_at(self, end: int) -> None:
        """Read up to this offset."""
        self._end = end

    async def head(self) -> Letter | None:
        """The next letter, left where it is; None at the end."""
        while not self._letters and self.mailbox.offset < self._end:
            if not await self._fill(wait_s=1.0):
                break
        head = self._letters[0] if self._letters else None
        return head if head is not None and head.offset < self._end else None

    def take(self) -> Letter:
        """The letter that `head` has shown."""
        return self._letters.popleft()

    def rest(self) -> list[Letter]:
        """Letters behind the end that came with those before it: the mailbox is past them."""
        rest = list(self._letters)
        self._letters.clear()
        return rest

    async def wait(self, wait_s: float) -> None:
        """Wait until there is a record to read, or for this long."""
        if not self._letters:
            await self._fill(wait_s)

    async def _fill(self, wait_s: float) -> bool:
        before = self.mailbox.offset
        try:
            self._letters += await self.mailbox.poll(wait_s)
        except OffsetExpiredError:  # retention came first
            await self.mailbox.end()
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
    """A topic's messages of one run (the first, if none is named) up to its end now.

    Args:
        bus: where it is.
        prefix: of its name.
        topic: which.
        run_id: whose messages, or `ANY_RUN`.
        offset: where to begin.
        kinds: the messages that are wanted; empty: all.

    Raises:
        TopicMissingError, BusUnreachableError.
    """
    tape = Tape.of(bus, prefix, topic, run_id, offset=offset, kinds=kinds)
    await tape.extend()
    while await tape.head() is not None:
        yield tape.take()


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
    """One run's `fleet`, `decisions` and `models` in canonical order; can be extended.

    Args:
        fleet: what devices and operators write.
        decisions: the planner's.
        models: the aggregator's.
        epoch: in force where `decisions` begins; 0 at the log's start.
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
        """A reader's: from these offsets on, by the topic's name."""
        starts = offsets or {}
        fleet, decisions, models = (
            Tape.of(bus, prefix, topic, run_id, offset=starts.get(topic.name, 0))
            for topic in (FLEET, DECISIONS, MODELS)
        )
        return cls(fleet, decisions, models, epoch)

    @property
    def epoch(self) -> int:
        """The newest that was opened."""
        return self._fence.epoch

    @property
    def tally(self) -> Tally:
        """What was read of the three topics."""
        boxes = [tape.mailbox for tape in (self.fleet, self.decisions, self.models)]
        return Tally(
            sum(box.record_count for box in boxes),
            sum(box.unreadable_count for box in boxes),
            sum(box.foreign_count for box in boxes),
        )

    async def extend(self) -> None:
        """Read up to the ends of the topics as they are now.

        Raises:
            TopicMissingError, BusUnreachableError.
        """
        for tape in (self.models, self.decisions, self.fleet):
            await tape.extend()

    async def letters(self) -> AsyncIterator[Letter]:
        """What has come since the last call, up to the ends of the topics now.

        Raises:
            TopicMissingError, BusUnreachableError.
        """
        await self.extend()
        async for letter in self.decided():
            yield letter
        async for letter in self.said():
            yield letter

    async def decided(self) -> AsyncIterator[Letter]:
        """All decisions up to the end and what comes before them; then the rest of `models`.

        Fleet records that no decision follows are left on their tape. Decisions that the fence
        refuses are given, too: the fold has to know how far the topic was read.
        """
        while (letter := await self.decisions.head()) is not None:
            async for made in self._made(letter.offset):
                yield made
            decision = letter.message
            if isinstance(decision, m.Decision) and self._fence.admits(decision):
                async for said in self.said(decision.fleet_offset):
                    yield said
            yield self.decisions.take()
        async for made in self._made(None):
            yield made

    async def said(self, end: int | None = None) -> AsyncIterator[Letter]:
        """Fleet records below an offset; None: all."""
        while (letter := await self.fleet.head()) is not None:
            if end is not None and letter.offset >= end:
                return
            yield self.fleet.take()

    async def wait(self, wait_s: float) -> None:
        """Wait for a record of the fleet, this long at most."""
        await self.fleet.wait(wait_s)

    async def _made(self, end: int | None) -> AsyncIterator[Letter]:
        """Records of `models` that obey decisions below an offset; None: all."""
        while (letter := await self.models.head()) is not None:
            made = letter.message
            if end is not None and isinstance(made, m.Made) and made.decisions_offset > end:
                return
            yield self.models.take()
