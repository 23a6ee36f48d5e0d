"""The production roles of a run on one log in memory, in one process.

The simulator and the experiments' cells run this ring. They differ in the bus that a role gets, in
what surrounds a role's life, and in how the devices train.

Invariant: the roles exchange data only over the run's log.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import structlog
from blake3 import blake3

from cos2p.clock import Clock
from cos2p.log import codec
from cos2p.log.bus import Record
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.messages import EpochStarted
from cos2p.log.topics import CATALOGUE, DECISIONS, Topic
from cos2p.service.logs import Log
from cos2p.service.role import RoleContext
from cos2p_aggregator.shell import run_aggregator
from cos2p_planner.shell import run_planner
from cos2p_planner.snapshotting import RECORDS_MIN

Body = Callable[[RoleContext], Coroutine[Any, Any, None]]
"""Runs one life of a role."""


def ring_of(
    shards: Iterable[int],
    workers: Mapping[str, Body],
    *,
    planner_id: str,
    snapshot_records: int = RECORDS_MIN,
    evaluator: Body | None = None,
) -> dict[str, Body]:
    """Return the roles of a ring by name, in the order in which they start.

    The names are `planner_id`, "evaluator", "aggregator-N" by shard, and the workers' ids.
    """
    planner = partial(run_planner, planner_id=planner_id, snapshot_records=snapshot_records)
    bodies: dict[str, Body] = {planner_id: planner}
    if evaluator is not None:
        bodies["evaluator"] = evaluator
    bodies |= {f"aggregator-{shard}": partial(run_aggregator, shard=shard) for shard in shards}
    return {**bodies, **workers}


async def live_together(lives: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run the roles' lives to their ends. The first error ends all lives and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for life in lives:
                group.create_task(life)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


class RingLog(MemoryBus):
    """The log that all roles of a ring share."""

    def __init__(self, clock: Clock, prefix: str) -> None:
        super().__init__(clock)
        self.prefix = prefix

    def everything(self, *topics: Topic) -> Iterator[Record]:
        """Yield all records that these topics still hold."""
        for topic in topics:
            name = topic.full_name(self.prefix)
            for partition in range(self._specs[name].partitions):
                yield from self._log(name, partition)

    def fingerprint(self) -> str:
        """Return a digest of every record that is left, except for the planner's random name."""
        hasher = blake3()
        decisions = DECISIONS.full_name(self.prefix)
        for record in self.everything(*CATALOGUE):
            value = record.value
            if record.topic == decisions:
                message = codec.decode(record)
                if isinstance(message, EpochStarted):
                    value = str(message.epoch).encode()
            place = f"{record.topic} {record.partition} {record.offset} {record.timestamp_s!r}"
            for part in (place.encode(), record.key, value):
                hasher.update(len(part).to_bytes(8, "big") + bytes(part))
        return hasher.hexdigest(length=16)


def silent_log() -> Log:
    """Return a logger that writes nothing."""
    quiet = structlog.make_filtering_bound_logger(50)
    return cast(Log, structlog.wrap_logger(structlog.PrintLogger(), wrapper_class=quiet))
