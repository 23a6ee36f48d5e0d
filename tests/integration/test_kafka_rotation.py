"""Passwords and signing keys change while a run goes on: nothing is lost, nobody is kept out."""

import asyncio
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ring import PATIENCE_S, Ring, config, table

from cos2p.log import messages as m
from cos2p.log.bus import NewRecord, TopicSpec
from cos2p.log.buses.kafka import KafkaBus
from cos2p.log.mailbox import Outbox
from cos2p.log.topics import DEAD_LETTERS, DECISIONS, FLEET, MODELS
from cos2p.settings import BusSettings
from cos2p.signing.keys import SignerRole, new_key, register_line
from cos2p_cli.acls import TOOL, commands, users_of

if TYPE_CHECKING:
    from kafka_broker import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.processes, pytest.mark.slow]

PREFIX = "site"
NAME = MODELS.full_name(PREFIX)
ENDLESS = 10_000
"""Versions of a run that the test ends, however fast or slow the machine is."""
ROLES = ("operator", "planner", "aggregator", "worker")
Make = Callable[..., "KafkaCluster"]


class Site:
    """A secured broker, each role's password in a file, and the register of who signs.

    Args:
        cluster: the broker.
        folder: where the files lie.
    """

    def __init__(self, cluster: "KafkaCluster", folder: Path) -> None:
        self.cluster, self._folder = cluster, folder
        self._lines: dict[str, str] = {}
        for role in ROLES:
            self._password_file(role).write_text(f"{role}-secret\n")
        self.admit("operator", "operator")
        for name in ("worker-0", "worker-1"):
            self.admit("worker", name)

    def access(self, who: str) -> dict[str, Any]:
        """Settings of a role, or of one process of a role that has keys of its own."""
        role, _, number = who.partition("-")
        if role == "worker" and not number:
            return {}  # asked for each worker then
        return {
            "kafka_security": "SASL_SSL",
            "kafka_username": role,
            "kafka_password_file": str(self._password_file(role)),
            "kafka_ca_file": str(self.cluster.tls / "ca.pem"),
        } | self._signing(who)

    def admit(self, role: SignerRole, name: str, generation: int = 0) -> None:
        """Make a key and add its line to the register; it is what the name signs with next."""
        key_file = self._folder / f"{name}.pem"
        key_file.unlink(missing_ok=True)
        self._lines[f"{name}.{generation}"] = register_line(role, name, new_key(key_file))
        self._write_register()

    def strike(self, name: str, generation: int = 0) -> None:
        """Take a key's line out of the register."""
        del self._lines[f"{name}.{generation}"]
        self._write_register()

    def change_password(self, role: str) -> None:
        """At the broker and in the file."""
        self.cluster.set_password(role, f"{role}-newer")
        self._password_file(role).write_text(f"{role}-newer\n")

    def _signing(self, who: str) -> dict[str, str]:
        if who == "planner":
            return {"keys_file": str(self._folder / "register")}
        if who == "aggregator":
            return {}
        return {"signing_key_file": str(self._folder / f"{who}.pem")}

    def _password_file(self, role: str) -> Path:
        return self._folder / f"{role}.password"

    def _write_register(self) -> None:
        newer = self._folder / "register.newer"
        newer.write_text("\n".join(self._lines.values()))
        newer.rename(self._folder / "register")


@pytest.fixture
def site(kafka_cluster: Make, tmp_path: Path) -> Site:
    cluster = kafka_cluster(secure=True)
    for line in commands(PREFIX, users_of([])):
        cluster.acls(*shlex.split(line.removeprefix(TOOL)))
    return Site(cluster, tmp_path)


@pytest.fixture
def ring(site: Site, tmp_path: Path) -> Iterator[Ring]:
    ring = Ring(f"kafka://{site.cluster.scram}", PREFIX, tmp_path, access=site.access)
    yield ring
    ring.stop_all()


def test_a_run_outlives_new_passwords_and_a_new_signing_key(ring: Ring, site: Site) -> None:
    def restart(role: str, index: int = 0) -> None:
        ring.kill(f"{role}-{index}")
        ring.start(role, index)

    async def body() -> None:
        await ring.request(config(versions=ENDLESS), table())
        ring.start_all(worker_count=2)
        await ring.wait_for(DECISIONS, _is_version(2))
        site.admit("worker", "worker-0", generation=1)  # the old key counts until it is struck
        restart("worker", 0)
        for role in ROLES:
            await asyncio.to_thread(site.change_password, role)
        await ring.wait_for(FLEET, lambda x: _is_hello(x, "worker-0"), count=2)
        site.strike("worker-0")
        restart("planner")
        # worker-1 and the aggregator never restart: they must show what their files have now.
        await asyncio.to_thread(site.cluster.stop, 1)
        await asyncio.to_thread(site.cluster.start, 1)
        count = sum(_is_version(1)(x) for x in await ring.log(DECISIONS))
        await ring.wait_for(DECISIONS, _is_version(count + 3))
        await Outbox(ring.bus, PREFIX, FLEET).send(
            m.StopRequested(run_id="test", reason="seen enough")
        )
        ended = await ring.wait_for_end()

        assert ("stopped", True) == (ended.reason, count + 3 <= ended.version), ended.detail
        assert [0, 0] == [ring.processes[name].wait(30) for name in ("worker-1", "aggregator-0")]
        assert [] == await ring.log(DEAD_LETTERS)
        await ring.check_history()
        await ring.check_replay()
        await ring.bus.close()

    asyncio.run(body())


def _is_version(version: int) -> Callable[[m.Message], bool]:
    return lambda message: isinstance(message, m.RoundClosed) and message.version >= version


def _is_hello(message: m.Message, worker_id: str) -> bool:
    return isinstance(message, m.Hello) and message.worker_id == worker_id


def test_a_bus_that_connects_again_shows_the_password_that_its_file_has_now(site: Site) -> None:
    async def body() -> list[int]:
        settings = BusSettings(**site.access("aggregator"), kafka_timeout_s=PATIENCE_S)
        bus = KafkaBus(site.cluster.scram, settings)
        offsets = await bus.append(NAME, 0, [NewRecord(b"before")])
        await asyncio.to_thread(site.change_password, "aggregator")
        await asyncio.to_thread(site.cluster.kill, 1)
        await asyncio.to_thread(site.cluster.start, 1)
        offsets += await bus.append(NAME, 0, [NewRecord(b"after")])
        await bus.close()
        return offsets

    asyncio.run(make_topic(site))

    assert [0, 1] == asyncio.run(body())


async def make_topic(site: Site) -> None:
    bus = KafkaBus(site.cluster.bootstrap, BusSettings())
    await bus.create_topics([TopicSpec(NAME, 1, 1000)])
    await bus.close()
