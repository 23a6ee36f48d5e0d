"""Starts a run: makes the topics, writes version 0, and asks the planner for the run.

Invariants:
One topic prefix holds one run, and an existing run is never overwritten.
The request is written last, so that its readers find everything that it names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import RunExistsError, TopicMismatchError
from cos2p.log.blobs import write_blob
from cos2p.log.bus import Bus
from cos2p.log.mailbox import Outbox
from cos2p.log.messages import RunRequested
from cos2p.log.topics import CHECKPOINTS, DECISIONS, FLEET, specs
from cos2p.model.payload import header_of, parts
from cos2p.model.unit_wire import UnitColumns
from cos2p.model.units import UnitTable
from cos2p.run_config import RunConfig

VERSION_0 = "v0"
"""`owner` of the payload that holds version 0."""


@dataclass(frozen=True)
class NewRun:
    """The data that a run starts from.

    `task` is the module:attribute that workers load. `values` is version 0: one flat float32 array
    per unit, in table order.
    """

    run_id: str
    task: str
    config: RunConfig
    table: UnitTable
    values: Sequence[NDArray[np.float32]]


async def request_run(bus: Bus, prefix: str, run: NewRun) -> RunRequested:
    """Create the topics, write version 0, and write the request for the run.

    Raises:
        RunExistsError: this prefix already holds a run.
        Cos2pError: whatever the bus raises.
    """
    try:
        await bus.create_topics(specs(prefix, run.config.partitions))
    except TopicMismatchError:
        await _require_no_run(bus, prefix)  # an existing run is the better explanation
        raise
    await _require_no_run(bus, prefix)
    units = range(len(run.table))
    header = header_of(VERSION_0, units, run.values)
    checkpoint = await write_blob(
        bus, CHECKPOINTS.full_name(prefix), 0, f"{run.run_id}.v0", parts(header, run.values)
    )
    request = RunRequested(
        run_id=run.run_id,
        config=run.config,
        task=run.task,
        units=UnitColumns.of(run.table),
        checkpoint=checkpoint,
    )
    await Outbox(bus, prefix, FLEET).send(request)
    return request


def require_run(expected: str | None, found: str, prefix: str) -> None:
    """Refuse a run that is not the expected one, as when two sites use one prefix.

    Raises:
        RunExistsError: `found` is not `expected`, and `expected` is not None.
    """
    if expected not in (None, found):
        raise RunExistsError(
            f"the run at prefix {prefix!r} is {found!r}, not {expected!r} (COS2P_RUN_ID): "
            "take another prefix for a run of your own"
        )


async def _require_no_run(bus: Bus, prefix: str) -> None:
    for topic in (DECISIONS, FLEET):
        ends = await bus.end_offsets(topic.full_name(prefix))
        if any(end.next for end in ends.values()):
            raise RunExistsError(
                f"there is a run at {prefix!r} already: take another --prefix (or --dir), "
                "or look at it with `cos2p status`"
            )
