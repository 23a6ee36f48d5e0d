"""Reads a run's three small topics into a `RunView`, without ever writing to the bus.

Invariants: topics are read from effect to cause (models, decisions, fleet) and applied from cause
to effect, so that what a message refers to is in the view before it; records that can't be read are
counted and skipped (the roles themselves put them into the dead letters).
"""

from dataclasses import dataclass, field

from cos2p import codec
from cos2p.bus import Bus
from cos2p.errors import MessageError
from cos2p.messages import Message
from cos2p.topics import DECISIONS, FLEET, HEARTBEATS, MODELS, Topic
from cos2p_cli.refused_devices import RefusedDevices
from cos2p_cli.run_view import RunView


@dataclass
class _Position:
    topic: Topic
    offset: int = 0
    batch: list[tuple[float, Message]] = field(default_factory=list)


class RunReader:
    """Follows one run.

    Args:
        bus: where its log is.
        prefix: of the topics' names.
        rows_max: telemetry is kept of so many of the newest versions; None keeps all.
        judging: tell which devices are refused, too: that costs as much again as the rest.
    """

    def __init__(
        self, bus: Bus, prefix: str, *, rows_max: int | None = None, judging: bool = False
    ) -> None:
        self._bus, self._prefix = bus, prefix
        self._positions = [_Position(t) for t in (MODELS, DECISIONS, HEARTBEATS, FLEET)]
        self.view = RunView(rows_max=rows_max)
        self._refused = RefusedDevices() if judging else None
        self.unreadable_count = 0
        self.foreign_count = 0

    async def poll(self, wait_s: float = 0.0) -> int:
        """Take what has come since the last poll; how many messages that were.

        Waits up to `wait_s` for a word from the fleet where there is nothing new.

        Raises:
            TopicMissingError, BusUnreachableError, OffsetExpiredError: as the bus does.
        """
        for position in self._positions:
            await self._catch_up(position)
        if wait_s > 0 and not any(p.batch for p in self._positions):
            await self._take(self._positions[-1], wait_s)
        count = 0
        for position in reversed(self._positions):
            for at_s, message in position.batch:
                self.view.apply(message, at_s)
            count += len(position.batch)
        if self._refused is not None:
            self._judge(self._refused)
        for position in self._positions:
            position.batch.clear()
        return count

    def _judge(self, refused: RefusedDevices) -> None:
        made, decisions, _, said = (p.batch for p in self._positions)
        refused.take(decisions, said, made)
        self.view.refuse(refused.reasons)
        self.view.unjudged = refused.unjudged

    async def _catch_up(self, position: _Position) -> None:
        ends = await self._bus.end_offsets(position.topic.full_name(self._prefix))
        position.offset = max(position.offset, ends[0].first)
        while position.offset < ends[0].next:
            if not await self._take(position, 0.0):
                break

    async def _take(self, position: _Position, wait_s: float) -> int:
        name = position.topic.full_name(self._prefix)
        records = await self._bus.read(name, 0, position.offset, wait_s=wait_s)
        for record in records:
            position.offset = record.offset + 1
            try:
                message = codec.decode(record)
            except MessageError:
                self.unreadable_count += 1
                continue
            if self.view.run_id in ("", message.run_id):
                self.view.run_id = message.run_id
                position.batch.append((record.timestamp_s, message))
            else:
                self.foreign_count += 1
        return len(records)
