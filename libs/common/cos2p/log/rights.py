"""Which role may do what to which topic: the catalogue as rights on Kafka.

Invariants: a role may do what the catalogue has it do, and nothing else; nobody needs a right on a
consumer group (there is none), on a transaction, or on the cluster; only the operator makes topics.
Kafka's Read and Write on a topic bring Describe with them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from cos2p.log.topics import CATALOGUE, Role

Operation = Literal["Read", "Write", "Create"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Right:
    """What a role may do to one topic.

    Attributes:
        role: who.
        topic: its full name.
        operations: as Kafka names them, in one order.
    """

    role: Role
    topic: str
    operations: tuple[Operation, ...]


def rights(prefix: str, roles: Iterable[Role] = ROLES) -> list[Right]:
    """All rights of these roles, by role, then in the catalogue's order.

    Args:
        prefix: of the topics' names.
        roles: whose.
    """
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
