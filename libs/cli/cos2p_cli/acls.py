"""`cos2p topics acls`: the rights that a secured Kafka must grant, as commands or Strimzi's YAML.

Invariants: it opens no connection. It prints exactly the rights of `cos2p.log.rights`, so each role
can do its work and no more. Several users of one role get the same rights.
"""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from cos2p.errors import SettingsError
from cos2p.log.buses.kafka_topics import topic_settings
from cos2p.log.rights import ROLES, Right, rights
from cos2p.log.topics import Role, specs
from cos2p_cli.options import print_json

AUTHENTICATIONS = ("scram-sha-512", "tls")
STRIMZI = "kafka.strimzi.io/v1beta2"
TOOL = 'kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$ADMIN_CONFIG"'


@dataclass(frozen=True)
class AclOptions:
    """The options of `cos2p topics acls`, as its help explains them.

    `cluster` is the name of Strimzi's Kafka resource; None prints commands.
    """

    users: tuple[str, ...] = ()
    cluster: str | None = None
    authentication: str = "scram-sha-512"
    partitions: int = 4
    replicas: int = 3


def show(prefix: str, chosen: AclOptions, *, as_json: bool) -> None:
    """Print the rights.

    Raises:
        SettingsError: a role or a way to authenticate is unknown.
    """
    users = users_of(chosen.users)
    if as_json:
        rows = [
            {"user": name, **asdict(right)}
            for role, names in users.items()
            for name in names
            for right in rights(prefix, [role])
        ]
        print_json({"rights": rows})
    elif chosen.cluster is None:
        sys.stdout.writelines(f"{line}\n" for line in commands(prefix, users))
    else:
        yaml.safe_dump_all(documents(prefix, users, chosen), sys.stdout, sort_keys=False)


def users_of(named: Sequence[str]) -> dict[Role, list[str]]:
    """Return the users of each role from texts ROLE=USER; a role may occur several times.

    A role that is not named has one user of its own name.

    Raises:
        SettingsError: a role is unknown, or a text has no user.
    """
    found: dict[Role, list[str]] = {}
    for text in named:
        role, _, user = text.partition("=")
        if role not in ROLES or not user:
            raise SettingsError(
                f"--user takes ROLE=USER with a role of {', '.join(ROLES)}, not {text!r}"
            )
        found.setdefault(role, []).append(user)
    return {role: found.get(role, [role]) for role in ROLES}


def commands(prefix: str, users: Mapping[Role, Sequence[str]]) -> Iterator[str]:
    """Yield lines for a shell, one per user and set of operations."""
    for role, names in users.items():
        grouped: dict[tuple[str, ...], list[Right]] = {}
        for right in rights(prefix, [role]):
            grouped.setdefault(right.operations, []).append(right)
        for name in names:
            for operations, of_them in grouped.items():
                arguments = ["--add", "--allow-principal", f"User:{name}"]
                arguments += [word for each in operations for word in ("--operation", each)]
                arguments += [word for each in of_them for word in ("--topic", each.topic)]
                yield f"{TOOL} {shlex.join(arguments)}"


def documents(
    prefix: str, users: Mapping[Role, Sequence[str]], chosen: AclOptions
) -> Iterator[dict[str, Any]]:
    """Yield KafkaTopic and KafkaUser resources.

    Raises:
        SettingsError: the way to authenticate is unknown.
    """
    if chosen.authentication not in AUTHENTICATIONS:
        raise SettingsError(
            f"--authentication takes {' or '.join(AUTHENTICATIONS)}, not {chosen.authentication!r}"
        )
    labels = {"strimzi.io/cluster": chosen.cluster}
    for spec in specs(prefix, chosen.partitions):
        yield {
            "apiVersion": STRIMZI,
            "kind": "KafkaTopic",
            "metadata": {"name": spec.name, "labels": labels},
            "spec": {
                "partitions": spec.partitions,
                "replicas": chosen.replicas,
                "config": topic_settings(spec),
            },
        }
    for role, names in users.items():
        acls = [
            {
                "resource": {"type": "topic", "name": right.topic, "patternType": "literal"},
                "operations": [*right.operations, "Describe"],
            }
            for right in rights(prefix, [role])
        ]
        for name in names:
            yield {
                "apiVersion": STRIMZI,
                "kind": "KafkaUser",
                "metadata": {"name": name, "labels": labels},
                "spec": {
                    "authentication": {"type": chosen.authentication},
                    "authorization": {"type": "simple", "acls": acls},
                },
            }
