"""Files and runs that are not what a setting says: each program ends with 2 and one line on it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import end_of, start
from ring import Ring, config, table

from cos2p.errors import ExitCode

pytestmark = pytest.mark.processes

KAFKA = {
    "bus": "kafka://127.0.0.1:9",
    "kafka_security": "SASL_SSL",
    "kafka_username": "worker",
    "kafka_timeout_s": 1,
}


def wrote(path: Path, content: bytes | None) -> Path:
    """The path, with this content; without any there is no such file."""
    if content is not None:
        path.write_bytes(content)
    return path


Settings = Callable[[Path], dict[str, Any]]


def password(content: bytes | None) -> Settings:
    return lambda folder: {**KAFKA, "kafka_password_file": wrote(folder / "password", content)}


def signing(content: bytes | None) -> Settings:
    return lambda folder: {"signing_key_file": wrote(folder / "me.pem", content)}


def register(content: bytes | None) -> Settings:
    return lambda folder: {"keys_file": wrote(folder / "register", content)}


CASES: dict[str, tuple[str, Settings, str]] = {
    "no password file": (
        "planner",
        password(None),
        "COS2P_KAFKA_PASSWORD_FILE={}/password can't be read: No such file or directory",
    ),
    "an empty password file": (
        "aggregator",
        password(b"\n"),
        "COS2P_KAFKA_PASSWORD_FILE={}/password is empty",
    ),
    "a folder for a password file": (
        "worker",
        lambda folder: {**KAFKA, "kafka_password_file": folder},
        "COS2P_KAFKA_PASSWORD_FILE={} can't be read: Is a directory",
    ),
    "no signing key": (
        "worker",
        signing(None),
        "can't read the signing key {}/me.pem: No such file or directory",
    ),
    "a signing key that is none": (
        "worker",
        signing(b"-----BEGIN PRIVATE KEY-----\nMC4CAQ"),
        "{}/me.pem holds no unencrypted private key in PEM form",
    ),
    "no register": (
        "planner",
        register(None),
        "can't read the register of keys {}/register: No such file or directory",
    ),
    "a register with a wrong line": (
        "planner",
        register(b"# the site's\nworker orin-1 AAAA\n"),
        "{}/register, line 2: no public key of 32 bytes in base64",
    ),
    "a register that is no text": (
        "planner",
        register(b"\xff\xfe"),
        "the register of keys {}/register is not text in UTF-8",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_file_ends_a_service_with_one_line_on_it(tmp_path: Path, case: str) -> None:
    role, settings, message = CASES[case]
    environ = {"bus": "sqlite:run", "log_level": "error", **settings(tmp_path)}

    code, out, err = end_of(start(role, cwd=tmp_path, environ=environ))

    assert (ExitCode.USAGE, "") == (code, out)
    assert f"{role}: {message.format(tmp_path)}\n" == err


def asked(folder: Path, name: str) -> tuple[int, dict[str, Any], str]:
    """`cos2p init --if-absent` for a run of this name."""
    arguments = ("init", "--task", "digits", "--run-id", name, "--if-absent", "--json")
    code, out, err = end_of(
        start("cos2p", *arguments, cwd=folder, environ={"bus": "sqlite:run", "prefix": "site"})
    )
    return code, json.loads(out), err


def test_two_releases_with_one_prefix_are_told_apart_by_name(tmp_path: Path) -> None:
    async def body() -> None:
        ring = Ring(f"sqlite:{tmp_path}/run", "site", tmp_path)
        await ring.request(config(), table())  # named test, and of fewer partitions
        await ring.bus.close()

    asyncio.run(body())

    code, found, err = asked(tmp_path, "other")
    assert ExitCode.USAGE == code
    text = "the prefix 'site' belongs to run test, not to other: choose another prefix"
    assert (f"cos2p: {text}\n", text) == (err, found["error"])

    code, found, err = asked(tmp_path, "test")
    assert (0, "test", False) == (code, found["run_id"], found["made"])
