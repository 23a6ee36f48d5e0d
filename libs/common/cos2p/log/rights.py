"""The rights of each role on each topic: the catalogue as access rights on Kafka.

Invariants:
A role has exactly the rights that the catalogue requires.
No role needs a right on a consumer group (there is none), a transaction, or the cluster.
Only the operator makes topics.
Kafka's Read and Write on a topic include Describe.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from cos2p.log.topics import CATALOGUE, Role

Operation = Literal["Read", "Write", "Create"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Right:
    """The rights of one role on one topic (its full name); operations have a fixed order."""

    role: Role
    topic: str
    operations: tuple[Operation, ...]


def rights(prefix: str, roles: Iterable[Role] = ROLES) -> list[Right]:
    """All rights of these roles, by role, then in the catalogue's order."""
    found = []
    for role in roles:
        for topic in CATALOGUE:
            can: tuple[tuple[Operation, bool], ...] = (
                ("Read", role in topic.readers),
                ("Write", role in topic.writers),
                ("Create", role == "operator"),
            )
            if operations := tuple(name for name, may in can if may):
                found.append(Right(role, topic.full_name(prefix), operations))
    return found
