"""Apache Kafka itself for tests and try-outs: brokers on loopback, from Maven Central's jars.

    python tests/kafka_broker.py up DIR [--brokers 3] [--secure]   prints the address
    python tests/kafka_broker.py down DIR                          stops what `up` started

Needs Java 17 or later; Maven too, the first time (43 MB of jars, kept in ~/.cache/cos2p-test).
Data, ports and logs lie in DIR: a second `up` starts the same brokers again. Invariants: every
port is ephemeral and on 127.0.0.1 unless another address is asked for; a broker that does not
start fails with the end of its log.

`--secure` adds two listeners beside the plain one (which is for set-up only) and an authorizer
that denies what no ACL allows: SASL_SSL with SCRAM-SHA-512 (users as in `USERS`, password
NAME-secret) and SSL with client certificates (CN = user). DIR/tls holds ca.pem and NAME.pem.
"""

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from kafka_tools import KafkaError, free_ports, jars, kafka_uuid, make_tls, missing_tools, run

HEAP = "512m"
BROKER = "kafka.Kafka"
USERS = ("admin", "planner", "aggregator", "worker", "evaluator", "operator")
START_S = 90.0
STOP_S = 15.0
LOG4J = """status=warn
rootLogger.level=warn
rootLogger.appenderRefs=c
rootLogger.appenderRef.c.ref=C
appender.c.type=Console
appender.c.name=C
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=%d %p %m%n
"""


@dataclass(frozen=True)
class Plan:
    """What stays the same between starts of a cluster.

    Attributes:
        cluster_id: as Kafka writes a uuid.
        directory_ids: one per broker, likewise.
        ports: one row per broker: plain, controller, SCRAM, mTLS.
        secure: whether the last two are opened and ACLs hold.
        host: address of all listeners.
    """

    cluster_id: str
    directory_ids: list[str]
    ports: list[list[int]]
    secure: bool
    host: str = "127.0.0.1"


class KafkaCluster:
    """One or three brokers, each broker and controller at once; numbers count from 1.

    Attributes:
        folder: where everything lies.
    """

    def __init__(self, folder: Path, extra: Mapping[str, str] | None = None) -> None:
        self.folder = folder.resolve()
        self._extra = {name.replace("_", "."): value for name, value in (extra or {}).items()}
        self._plan: Plan | None = None

    @property
    def plan(self) -> Plan:
        """What `up` decided, in this process or in an earlier one."""
        if self._plan is None:
            self._plan = Plan(**json.loads((self.folder / "plan.json").read_text()))
        return self._plan

    @property
    def bootstrap(self) -> str:
        """HOST:PORT,... of the plain listeners."""
        return self._addresses(0)

    @property
    def scram(self) -> str:
        """HOST:PORT,... of the listeners that ask for a password."""
        return self._addresses(2)

    @property
    def mtls(self) -> str:
        """HOST:PORT,... of the listeners that ask for a certificate."""
        return self._addresses(3)

    @property
    def tls(self) -> Path:
        """Folder of ca.pem and NAME.pem (key and certificate)."""
        return self.folder / "tls"

    def up(
        self, brokers: int = 1, *, secure: bool = False, host: str = "127.0.0.1"
    ) -> "KafkaCluster":
        """Start all brokers and wait until each has joined.

        Args:
            brokers: one or three.
            secure: passwords, certificates and ACLs.
            host: an address of this machine, where pods must reach it.

        Raises:
            KafkaError: Java, Maven or a broker fails; the text says which and shows its end.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "plan.json").exists():
            self._decide(brokers, secure, host)
        if self.plan.secure:
            make_tls(self.tls, USERS, self.plan.host)
        numbers = range(1, len(self.plan.ports) + 1)
        for number in numbers:
            self._launch(number)
        for number in numbers:
            self._await_port(number)
        self._await_members()
        return self

    def start(self, number: int) -> None:
        """Start a broker again, with the data it had."""
        self._launch(number)
        self._await_port(number)

    def kill(self, number: int) -> None:
        """kill -9."""
        self._end(number, signal.SIGKILL)

    def stop(self, number: int) -> None:
        """Let a broker shut down in order."""
        self._end(number, signal.SIGTERM)

    def stop_all(self) -> None:
        """Stop whatever runs; the data stays."""
        numbers = range(1, len(self.plan.ports) + 1)
        for number in numbers:
            self._signal(number, signal.SIGTERM)
        for number in numbers:
            self._end(number, signal.SIGTERM)

    def allow(self, user: str, operations: tuple[str, ...], topic: str) -> None:
        """Add an ACL, by Kafka's own tool: aiokafka has no call for it."""
        arguments = [argument for name in operations for argument in ("--operation", name)]
        self.acls("--add", "--allow-principal", f"User:{user}", "--topic", topic, *arguments)

    def acls(self, *arguments: str) -> None:
        """What kafka-acls.sh does with these arguments."""
        run(
            *self._java("org.apache.kafka.tools.AclCommand", "--bootstrap-server", self.bootstrap),
            *arguments,
        )

    def set_password(self, user: str, password: str) -> None:
        """Change a user's password; open connections stay open."""
        run(
            *self._java("kafka.admin.ConfigCommand", "--bootstrap-server", self.bootstrap),
            *("--alter", "--entity-type", "users", "--entity-name", user),
            *("--add-config", f"SCRAM-SHA-512=[password={password}]"),
        )

    def _addresses(self, column: int) -> str:
        return ",".join(f"{self.plan.host}:{row[column]}" for row in self.plan.ports)

    def _decide(self, brokers: int, secure: bool, host: str) -> None:
        plan = Plan(
            cluster_id=kafka_uuid(),
            directory_ids=[kafka_uuid() for _ in range(brokers)],
            ports=free_ports(brokers, 4, host),
            secure=secure,
            host=host,
        )
        (self.folder / "log4j2.properties").write_text(LOG4J)
        (self.folder / "plan.json").write_text(json.dumps(asdict(plan)))

    def _java(self, main: str, *arguments: str) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={self.folder}/log4j2.properties"
        # A tool is gone before a compiler pays; a broker may be measured.
        quick = [] if main == BROKER else ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        options = [f"-Xmx{HEAP}", log4j, *quick, "-cp", f"{jars()}/*"]
        return ["java", *options, main, *arguments]

    def _launch(self, number: int) -> None:
        properties = self.folder / f"server-{number}.properties"
        properties.write_text("".join(f"{k}={v}\n" for k, v in self._properties(number).items()))
        if not (self.folder / f"data-{number}" / "meta.properties").exists():
            self._format(properties)
        log = str(self.folder / f"broker-{number}.log")
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        command = self._java(BROKER, str(properties))
        # Not Popen: the broker may outlive this object, and even this process.
        pid = os.posix_spawnp(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, log, append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        (self.folder / f"pid-{number}").write_text(str(pid))

    def _format(self, properties: Path) -> None:
        plan = self.plan
        scram = [
            argument
            for user in USERS
            for argument in ("--add-scram", f"SCRAM-SHA-512=[name={user},password={user}-secret]")
        ]
        controllers = ",".join(
            f"{number}@{plan.host}:{row[1]}:{directory}"
            for number, (row, directory) in enumerate(
                zip(plan.ports, plan.directory_ids, strict=True), 1
            )
        )
        alone = len(plan.ports) == 1
        run(
            *self._java("kafka.tools.StorageTool", "format", "-t", plan.cluster_id),
            *("-c", str(properties)),
            *(["--standalone"] if alone else ["--initial-controllers", controllers]),
            *(scram if plan.secure else []),
        )

    def _properties(self, number: int) -> dict[str, object]:
        rows, host = self.plan.ports, self.plan.host
        plain, controller, scram, mtls = rows[number - 1]
        copies = min(3, len(rows))
        listeners = {"PLAINTEXT": plain}
        if self.plan.secure:
            listeners |= {"SCRAM": scram, "MTLS": mtls}
        open_for_clients = ",".join(f"{n}://{host}:{p}" for n, p in listeners.items())
        always: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": number,
            "controller.quorum.bootstrap.servers": self._addresses(1),
            "listeners": f"{open_for_clients},CONTROLLER://{host}:{controller}",
            "advertised.listeners": open_for_clients,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
            + (",SCRAM:SASL_SSL,MTLS:SSL" if self.plan.secure else ""),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self.folder / f"data-{number}",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": min(2, copies),
            "default.replication.factor": copies,
            "min.insync.replicas": min(2, copies),
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
        }
        return always | (self._secure_properties() if self.plan.secure else {}) | self._extra

    def _secure_properties(self) -> dict[str, object]:
        return {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:admin;User:ANONYMOUS",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.scram.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.tls / "broker.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.tls / "ca.pem",
            "listener.name.mtls.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/",
        }

    def _await_port(self, number: int) -> None:
        deadline = time.monotonic() + START_S
        log = self.folder / f"broker-{number}.log"
        while time.monotonic() < deadline:
            if self._gone(number):
                raise KafkaError(f"broker {number} ended: {log.read_text()[-1500:]}")
            try:
                place = (self.plan.host, self.plan.ports[number - 1][0])
                socket.create_connection(place, 1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise KafkaError(
            f"broker {number} did not listen in {START_S:g} s: {log.read_text()[-1500:]}"
        )

    def _await_members(self) -> None:
        """Replicas can be placed only on brokers that the controller counts in."""
        if len(self.plan.ports) == 1:
            return
        run(
            *self._java(
                "org.apache.kafka.tools.TopicCommand", "--bootstrap-server", self.bootstrap
            ),
            *("--create", "--topic", "cos2p-test-members", "--if-not-exists"),
            *("--replication-factor", str(len(self.plan.ports))),
            retry_s=START_S,
        )

    def _pid(self, number: int) -> int | None:
        path = self.folder / f"pid-{number}"
        return int(path.read_text()) if path.exists() else None

    def _gone(self, number: int) -> bool:
        pid = self._pid(number)
        if pid is None:
            return True
        try:
            return os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            pass  # another process started it
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return not self._signal(number, 0)

    def _signal(self, number: int, what: int) -> bool:
        """Whether there was anyone to hear it."""
        pid = self._pid(number)
        try:
            if pid is not None:
                os.kill(pid, what)
        except ProcessLookupError:
            return False
        return pid is not None

    def _end(self, number: int, what: int) -> None:
        """Signal and wait; a broker that lost its quorum ignores SIGTERM and is killed."""
        deadline = time.monotonic() + STOP_S
        self._signal(number, what)
        while not self._gone(number):
            if time.monotonic() > deadline:
                self._signal(number, signal.SIGKILL)
            time.sleep(0.05)
        (self.folder / f"pid-{number}").unlink(missing_ok=True)


def main() -> None:
    """Start or stop a cluster from a shell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start brokers; prints HOST:PORT")
    up.add_argument("dir", type=Path)
    up.add_argument("--brokers", type=int, default=1, choices=(1, 3))
    up.add_argument("--secure", action="store_true")
    commands.add_parser("down", help="stop them").add_argument("dir", type=Path)
    chosen = parser.parse_args()
    cluster = KafkaCluster(chosen.dir)
    try:
        if chosen.command == "down":
            cluster.stop_all()
            return
        if lacking := missing_tools():
            raise KafkaError(f"can't start Kafka here: {lacking}")
        cluster.up(chosen.brokers, secure=chosen.secure)
    except (KafkaError, FileNotFoundError) as error:
        sys.exit(str(error))
    sys.stdout.write(cluster.bootstrap + "\n")
    if cluster.plan.secure:
        sys.stdout.write(f"scram {cluster.scram}\nmtls {cluster.mtls}\n")


if __name__ == "__main__":
    main()
