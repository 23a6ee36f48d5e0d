"""The context of a role: its bus, clock and log, and the event that stops it.

Invariant: a role uses no other bus, clock or log than these.
So one process can hold many roles.
"""

import asyncio
from dataclasses import dataclass, field

from cos2p.clock import Clock
from cos2p.log.bus import Bus
from cos2p.monitoring.watch import Watch
from cos2p.service.logs import Log


@dataclass(frozen=True)
class RoleContext:
    """The context of one role.

    `log` is for operators. `run_id` is the run to serve; None takes the run that the role finds.
    """

    bus: Bus
    clock: Clock
    log: Log
    prefix: str
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    run_id: str | None = None
    watch: Watch = field(default_factory=Watch)
