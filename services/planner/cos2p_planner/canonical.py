"""A run's records in their canonical order, out of three topics.

Invariants: before a decision come the fleet records below its `fleet_offset`; before a record of
`models` come the decisions below its `decisions_offset`; decisions that the epoch fence refuses are
left out, and so is how far they had read. A fold in this order comes to the same state whoever
makes it. Memory holds a batch of each topic.
"""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from cos2p.fence import EpochFence
from cos2p.mailbox import Letter, Mailbox
from cos2p.messages import Decision, Made
from cos2p.topics import DECISIONS, FLEET, MODELS, Topic

TopicLetter = tuple[Topic, Letter]


class Tape:
    """A mailbox read letter by letter, up to an end that moves on when it is extended.

    Args:
        mailbox: where from; nothing else polls it meanwhile.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self._letters: deque[Letter] = deque()
        self._end = 0

    async def extend(self) -> None:
        """Read up to the end of the topic as it is now."""
        self._end = await self.mailbox.end()

    def stop_at(self, end: int) -> None:
        """Read up to this offset."""
        self._end = end

    async def head(self) -> Letter | None:
        """The next letter, left where it is; None at the end."""
        while not self._letters and self.mailbox.offset < self._end:
            before = self.mailbox.offset
            self._letters += await self.mailbox.poll(wait_s=1.0)
            if self.mailbox.offset == before:
                break
        head = self._letters[0] if self._letters else None
        return head if head is not None and head.offset < self._end else None

    def take(self) -> Letter:
        """The letter that `head` has shown."""
        return self._letters.popleft()


@dataclass
class Tapes:
    """The three topics of a run, and the fence of its decisions."""

    fleet: Tape
    decisions: Tape
    models: Tape
    fence: EpochFence

    async def extend(self) -> None:
        """Read up to the ends of the topics as they are now.

        The ends are asked from effect to cause, so that what a record refers to is there.
        """
        await self.models.extend()
        await self.decisions.extend()
        await self.fleet.extend()

    async def decided(self) -> AsyncIterator[TopicLetter]:
        """All decisions up to the end and what comes before them; then the rest of `models`.

        Fleet records that no decision follows are left on their tape.
        """
        while (letter := await self.decisions.head()) is not None:
            async for made in self._made(letter.offset):
                yield MODELS, made
            decision = letter.message
            if isinstance(decision, Decision) and self.fence.admits(decision):
                async for said in self.said(decision.fleet_offset):
                    yield FLEET, said
                yield DECISIONS, letter
            self.decisions.take()
        async for made in self._made(None):
            yield MODELS, made

    async def said(self, end: int | None = None) -> AsyncIterator[Letter]:
        """Fleet records below an offset; None: all."""
        while (letter := await self.fleet.head()) is not None:
            if end is not None and letter.offset >= end:
                return
            yield self.fleet.take()

    async def _made(self, end: int | None) -> AsyncIterator[Letter]:
        """Records of `models` that obey decisions below an offset; None: all."""
        while (letter := await self.models.head()) is not None:
            made = letter.message
            if end is not None and isinstance(made, Made) and made.decisions_offset > end:
                return
            yield self.models.take()
