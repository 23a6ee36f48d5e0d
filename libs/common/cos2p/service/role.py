"""What a role works with: its bus, its clock, its log, and the event that asks it to stop.

Invariant: a role uses no other bus, clock or log than these, so one process can hold many roles.
"""

import asyncio
from dataclasses import dataclass, field

from cos2p.clock import Clock
from cos2p.log.bus import Bus
from cos2p.monitoring.watch import Watch
from cos2p.service.logs import Log


@dataclass(frozen=True)
class RoleContext:
    """The surroundings of one role.

    Attributes:
        bus: holds the run's topics.
        clock: the bus's own.
        log: for operators.
        prefix: of the topics' names.
        stop: set it to ask the role to leave.
        run_id: the run that the role is for; None takes the one that it finds.
        watch: receives what the role reports.
    """

    bus: Bus
    clock: Clock
    log: Log
    prefix: str
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    run_id: str | None = None
    watch: Watch = field(default_factory=Watch)
