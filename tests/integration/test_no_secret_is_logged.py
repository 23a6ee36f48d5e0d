"""Passwords and private keys stay where they were put: no program tells them, right or wrong."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from programs import end_of, start
from ring import Ring, config, table

from cos2p.log import messages as m
from cos2p.log.topics import DECISIONS
from cos2p.signing.keys import new_key, private_key, register_line

if TYPE_CHECKING:
    from kafka_broker import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.processes, pytest.mark.slow]

WRONG = "guessed-by-mallory"
PREFIX = "site"
COMMANDS: dict[str, tuple[str, ...]] = {
    "status": ("status", "--json"),
    "status for people": ("status",),
    "telemetry": ("status", "--telemetry"),
    "doctor": ("doctor", "--json"),
    "doctor for people": ("doctor",),
    "topics": ("topics", "list", "--json"),
    "acls": ("topics", "acls", "--prefix", PREFIX),
    "keys list": ("keys", "list", "../secrets/register", "--json"),
    "keys line": ("keys", "line", "worker-0", "--key", "../secrets/worker-0.pem", "--json"),
    "keys new": ("keys", "new", "late", "--out", "../secrets/late.pem", "--json"),
    "replay": ("replay", "--json"),
    "archive": ("archive", "--out", "run.sqlite", "--json"),
    "report": ("report", "--out", "report.html"),
    "stop": ("stop", "--json"),
}
SERVICES = ("planner", "aggregator", "worker")


class Vault:
    """What must not be told, in files of its own, and the broker that it opens.

    Args:
        cluster: the broker.
        folder: a folder for it.
    """

    def __init__(self, cluster: "KafkaCluster", folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        lines = []
        for name in ("operator", "worker-0"):
            key = new_key(folder / f"{name}.pem")
            lines.append(register_line("operator" if name == "operator" else "worker", name, key))
        (folder / "register").write_text("\n".join(lines))
        (folder / "password").write_text("admin-secret\n")

    def access(self, who: str) -> dict[str, Any]:
        """Settings of a process; admin may do everything."""
        if who == "worker":
            return {}  # asked for worker-0 then
        own = {"keys_file": "register"} if who == "planner" else {}
        if who in ("operator", "worker-0"):
            own = {"signing_key_file": f"{who}.pem"}
        level = {} if who == "operator" else {"log_level": "debug"}
        return {
            "kafka_security": "SASL_SSL",
            "kafka_username": "admin",
            "kafka_password_file": str(self.folder / "password"),
            "kafka_ca_file": str(self.cluster.tls / "ca.pem"),
            "kafka_cert_file": str(self.cluster.tls / "admin.pem"),
            **{name: str(self.folder / file) for name, file in own.items()},
            **level,
        }

    def secrets_in(self, text: bytes) -> list[str]:
        """Which secrets stand in a text, in any of their forms."""
        return [name for name, form in self._forms() if form in text]

    def _forms(self) -> Iterator[tuple[str, bytes]]:
        yield "the right password", b"admin-secret"
        yield "the wrong password", WRONG.encode()
        for file in self.folder.glob("*.pem"):
            raw = private_key(file).private_bytes(
                serialization.Encoding.Raw,
                serialization.PrivateFormat.Raw,
                serialization.NoEncryption(),
            )
            for form in (raw, raw.hex().encode(), base64.b64encode(raw)[:-4]):
                yield file.name, form
            yield file.name, file.read_bytes().splitlines()[1]
        yield "the TLS key", (self.cluster.tls / "admin.key").read_bytes().splitlines()[1]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Where the programs run and write."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def vault(kafka_secure: "KafkaCluster", tmp_path: Path) -> Vault:
    folder = tmp_path / "secrets"
    folder.mkdir()
    return Vault(kafka_secure, folder)


@pytest.fixture
def ring(vault: Vault, work: Path) -> Iterator[Ring]:
    ring = Ring(f"kafka://{vault.cluster.scram}", PREFIX, work, access=vault.access)
    yield ring
    ring.stop_all()


def test_what_is_looked_for_is_what_the_files_hold(vault: Vault) -> None:
    held = {path.name: vault.secrets_in(path.read_bytes()) for path in vault.folder.iterdir()}

    assert {
        "password": ["the right password"],
        "operator.pem": ["operator.pem"],
        "worker-0.pem": ["worker-0.pem"],
        "register": [],
    } == held


def secrets_printed_by(vault: Vault, programs: dict[str, tuple[int, str, str]]) -> dict[str, Any]:
    return {
        name: secrets
        for name, (_, out, err) in programs.items()
        if (secrets := vault.secrets_in((out + err).encode()))
    }


def secrets_in_files(vault: Vault, work: Path) -> dict[str, Any]:
    files = [path for path in work.rglob("*") if path.is_file()]
    assert files
    return {
        path.name: secrets for path in files if (secrets := vault.secrets_in(path.read_bytes()))
    }


def test_a_whole_run_and_every_command_tell_no_secret(ring: Ring, vault: Vault, work: Path) -> None:
    async def body() -> list[str]:
        await ring.request(config(versions=3), table())
        ring.start_all(worker_count=1)
        await ring.wait_for(DECISIONS, lambda x: isinstance(x, m.RoundClosed))
        seen = [
            Path(f"/proc/{process.pid}/{part}").read_bytes()
            for process in ring.processes.values()
            for part in ("environ", "cmdline")
        ]
        await ring.wait_for_end()
        await ring.bus.close()
        return [secrets for text in seen for secrets in vault.secrets_in(text)]

    assert [] == asyncio.run(body())
    environ = {
        "bus": ring.bus_url,
        "prefix": PREFIX,
        "log_level": "debug",
        **vault.access("operator"),
    }
    ended = {
        name: end_of(start("cos2p", *command, cwd=work, environ=environ))
        for name, command in COMMANDS.items()
    }

    assert {"stop"} >= {name for name, (code, *_) in ended.items() if code}, ended
    assert {} == secrets_printed_by(vault, ended)
    assert {} == secrets_in_files(vault, work)
    assert '"level": "debug"' in (work / "planner-0.err").read_text()


def test_no_program_that_is_refused_tells_the_password_or_a_key(vault: Vault, work: Path) -> None:
    def environ(who: str) -> dict[str, Any]:
        right = vault.access(who)
        del right["kafka_password_file"]
        wrong = {"bus": f"kafka://{vault.cluster.scram}", "kafka_password": WRONG}
        return {**right, **wrong, "prefix": PREFIX, "log_level": "debug"}

    processes = {
        role: start(role, cwd=work, environ=environ("worker-0" if role == "worker" else role))
        for role in SERVICES
    }
    ended = {name: end_of(process) for name, process in processes.items()}
    for name in ("status", "doctor", "topics", "replay", "archive", "stop"):
        process = start("cos2p", *COMMANDS[name], cwd=work, environ=environ("operator"))
        ended[name] = end_of(process)

    assert dict.fromkeys(ended, 3) == {name: code for name, (code, *_) in ended.items()}
    assert {} == secrets_printed_by(vault, ended)


@pytest.mark.parametrize("role", SERVICES)
def test_a_private_key_in_the_place_of_another_file_is_not_told(
    vault: Vault, work: Path, role: str
) -> None:
    """As where two variables were mixed up: what can't be read is named, not shown."""
    key = vault.folder / "worker-0.pem"
    mixed_up = {
        "planner": {"keys_file": key},
        "aggregator": {"kafka_ca_file": key},
        "worker": {"signing_key_file": vault.cluster.tls / "admin.pem"},
    }[role]
    environ = {**vault.access(role if role != "worker" else "worker-0"), **mixed_up}
    ended = end_of(start(role, cwd=work, environ={"bus": "kafka://127.0.0.1:9", **environ}))

    assert 2 == ended[0], ended
    assert {} == secrets_printed_by(vault, {role: ended})
