"""A bus that limits one role to the rights that the catalogue of topics grants it.

A role that uses any other right breaks a rule. The rights that `cos2p topics acls` prints are
therefore enough for a run. A role that begins to use another topic fails in the simulator, not
first at an operator's authorizer.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

from cos2p.log.bus import Bus, NewRecord, Offsets, Record, TopicSpec
from cos2p.log.buses.passing import PassingBus
from cos2p.log.rights import Operation, rights
from cos2p.log.topics import Role
from cos2p_sim.checkers import InvariantError


class RoleBus(PassingBus):
    """See `cos2p.log.bus.Bus`; `log` is the bus that all processes share."""

    def __init__(self, log: Bus, role: Role, prefix: str) -> None:
        super().__init__(log)
        self._role = role
        self._rights = {r.topic: r.operations for r in rights(prefix, [role])}

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See `Bus.create_topics`."""
        for spec in specs:
            self._check("Create", spec.name)
        await super().create_topics(specs)

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """See `Bus.append`."""
        self._check("Write", topic)
        return await super().append(topic, partition, records)

    async def read(self, topic: str, partition: int, offset: int, **how: Any) -> list[Record]:
        """See `Bus.read`."""
        self._check("Read", topic)
        return await super().read(topic, partition, offset, **how)

    async def end_offsets(self, topic: str) -> dict[int, Offsets]:
        """See `Bus.end_offsets`: a role that may read or write a topic may ask for its end."""
        if topic not in self._rights:
            self._refuse("Describe", topic)
        return await super().end_offsets(topic)

    def _check(self, operation: Operation, topic: str) -> None:
        if operation not in self._rights.get(topic, ()):
            self._refuse(operation, topic)

    def _refuse(self, operation: str, topic: str) -> NoReturn:
        raise InvariantError(
            f"{self._role} needs {operation} on {topic}: the catalogue does not list it"
        )
