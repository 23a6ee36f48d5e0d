"""What brokers for tests are made with: Java, Kafka's jars, certificates, ports.

Invariant: the jars are fetched once per machine and version, whole or not at all.
"""

import base64
import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

VERSION = "4.3.1"
POM = Path(__file__).with_name("kafka") / "pom.xml"
CACHE = Path.home() / ".cache" / "cos2p-test"


class KafkaError(RuntimeError):
    """A broker, or a tool that it needs, did not do as asked."""


def missing_tools() -> str:
    """What this machine lacks to start brokers; empty if nothing."""
    if shutil.which("java") is None:
        return "no java (17 or later)"
    banner = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    version = banner.stderr.split('"')[1:2]
    major = version[0].split(".")[0] if version else "0"
    if not major.isdigit() or int(major) < 17:
        return f"java {version} is older than 17"
    if shutil.which("mvn") is None and not _jar_folder().exists():
        return "no mvn"
    return ""


def jars() -> Path:
    """The folder of Kafka's jars; fetched by Maven the first time.

    Raises:
        KafkaError: Maven fails.
    """
    target = _jar_folder()
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with file_lock(CACHE / "lock"):
        if not target.exists():
            partial = target.with_suffix(f".{os.getpid()}")
            run(
                *("mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"),
                *(f"-DoutputDirectory={partial}", "-DincludeScope=runtime"),
            )
            partial.rename(target)
    return target


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """One process at a time."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _jar_folder() -> Path:
    return CACHE / f"kafka-{VERSION}"


NEW_KEY = ("openssl", "req", "-newkey", "rsa:2048", "-nodes")


def make_tls(folder: Path, users: Sequence[str], host: str = "127.0.0.1") -> None:
    """A folder of ca.pem and, for the broker and each user, NAME.pem: key and certificate."""
    if (folder / "ca.pem").exists():
        return
    folder.mkdir()
    make_ca(folder, "ca")
    for name in ("broker", *users):
        issue(folder, name, host=host)


def make_ca(folder: Path, name: str) -> None:
    """A certificate authority: NAME.key and NAME.pem."""
    run(
        *(*NEW_KEY, "-x509", "-days", "3650", "-subj", f"/CN=cos2p-test-{name}"),
        *("-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"),
    )


def issue(
    folder: Path,
    name: str,
    *,
    ca: str = "ca",
    days: int = 3650,
    file: str = "",
    host: str = "127.0.0.1",
) -> Path:
    """A certificate of a name, behind its key in one file; below 0 days it has expired.

    Args:
        folder: where the authority is and the certificate goes.
        name: what it certifies.
        ca: name of the authority.
        days: how long it holds.
        file: its name without `.pem`, where it is not that of the user.
        host: address that it holds for, beside localhost.
    """
    stem = file or name
    key, request, signed = (folder / f"{stem}.{kind}" for kind in ("key", "csr", "crt"))
    names = folder / "names"
    names.write_text(f"subjectAltName=DNS:localhost,IP:{host}\n")
    run(*NEW_KEY, "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request))
    run(
        *("openssl", "x509", "-req", "-in", str(request), "-CA", f"{folder}/{ca}.pem"),
        *("-CAkey", f"{folder}/{ca}.key", "-CAcreateserial", "-days", str(days)),
        *("-extfile", str(names), "-out", str(signed)),
    )
    whole = folder / f"{stem}.pem"
    whole.write_text(key.read_text() + signed.read_text())
    return whole


def kafka_uuid() -> str:
    return base64.urlsafe_b64encode(b"\0" + os.urandom(15))[:22].decode()


def free_ports(rows: int, columns: int, host: str = "127.0.0.1") -> list[list[int]]:
    """Held open together until all are known, so that no two are the same."""
    sockets = [socket.create_server((host, 0)) for _ in range(rows * columns)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return [ports[row * columns : (row + 1) * columns] for row in range(rows)]


def run(*command: str, retry_s: float = 0.0) -> None:
    deadline = time.monotonic() + retry_s
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise KafkaError(f"{command[0]} failed: {(done.stdout + done.stderr).strip()[-1500:]}")


async def leader_of(bootstrap: str, topic: str) -> int:
    """The number of the broker that leads partition 0 of a topic."""
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        [row] = await admin.describe_topics([topic])
    finally:
        await admin.close()
    return int(row["partitions"][0]["leader"])
