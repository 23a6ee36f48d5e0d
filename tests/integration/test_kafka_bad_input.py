"""Settings that a secured Kafka refuses, given to real programs: one line, with host and cause."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kafka_tools import issue, make_ca
from programs import end_of, start

from cos2p.errors import ExitCode

if TYPE_CHECKING:
    from kafka_broker import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.processes, pytest.mark.xdist_group("kafka-bad-input")]

PASSWORD = "guessed-by-mallory"
PATIENCE_S = 2
"""Of a program with a broker that may yet come; wrong settings are told at once."""


@pytest.fixture(scope="module")
def cluster(kafka_secure: "KafkaCluster") -> "KafkaCluster":
    """With certificates that no broker should trust."""
    make_ca(kafka_secure.tls, "foreign")
    issue(kafka_secure.tls, "worker", days=-1, file="expired")
    issue(kafka_secure.tls, "worker", ca="foreign", file="stranger")
    return kafka_secure


def password(cluster: "KafkaCluster", **other: Any) -> dict[str, Any]:
    return {
        "bus": f"kafka://{cluster.scram}",
        "kafka_security": "SASL_SSL",
        "kafka_username": "worker",
        "kafka_password": "worker-secret",
        "kafka_ca_file": cluster.tls / "ca.pem",
    } | other


def certificate(cluster: "KafkaCluster", **other: Any) -> dict[str, Any]:
    return {
        "bus": f"kafka://{cluster.mtls}",
        "kafka_security": "SSL",
        "kafka_ca_file": cluster.tls / "ca.pem",
    } | other


def port_of(addresses: str) -> str:
    return addresses.rpartition(":")[2]


Case = Callable[["KafkaCluster"], dict[str, Any]]
CASES: dict[str, tuple[Case, str]] = {
    "wrong password": (
        lambda c: password(c, kafka_password=PASSWORD),
        "wrong user or password (user 'worker')",
    ),
    "unknown user": (
        lambda c: password(c, kafka_username="mallory", kafka_password=PASSWORD),
        "wrong user or password (user 'mallory')",
    ),
    "a broker's certificate of another CA": (
        lambda c: password(c, kafka_ca_file=c.tls / "foreign.pem"),
        "certificate not trusted",
    ),
    "a certificate for another host name": (
        lambda c: password(c, bus=f"kafka://0.0.0.0:{port_of(c.scram)}"),
        "certificate is not valid for '0.0.0.0'",
    ),
    "our certificate has expired": (
        lambda c: certificate(c, kafka_cert_file=c.tls / "expired.pem"),
        "the broker does not accept our client certificate",
    ),
    "our certificate is of a foreign CA": (
        lambda c: certificate(c, kafka_cert_file=c.tls / "stranger.pem"),
        "the broker does not accept our client certificate",
    ),
    "no client certificate": (certificate, "a client certificate is required"),
    "plain words to a TLS port": (
        lambda c: {"bus": f"kafka://{c.scram}"},
        "the broker uses TLS, this client does not",
    ),
    "TLS to a plain port": (
        lambda c: password(c, bus=f"kafka://{c.bootstrap}"),
        "this client uses TLS, the broker does not",
    ),
    "a port without a broker": (lambda c: {"bus": "kafka://127.0.0.1:9"}, "connection refused"),
    "a host that is not there": (
        lambda c: {"bus": "kafka://no-such-host.invalid:9092"},
        "the name does not resolve",
    ),
}


def check_line(line: str, environ: dict[str, Any], message: str) -> None:
    """One line names host and cause, and nothing that a person should not see."""
    assert message in line
    assert str(environ["bus"]).removeprefix("kafka://") in line
    assert "KeyError" not in line
    assert PASSWORD not in line
    assert "\n" not in line.rstrip("\n")


def check_programs(environ: dict[str, Any], message: str, cwd: Path) -> None:
    """Planner and doctor, at once, end with the bus's code and say why."""
    environ = environ | {"kafka_timeout_s": PATIENCE_S, "log_level": "error"}
    planner = start("planner", cwd=cwd, environ=environ)
    own = {name: value for name, value in environ.items() if name != "log_level"}
    doctor = start("cos2p", "doctor", "--json", cwd=cwd, environ=own)

    code, out, line = end_of(planner)
    assert (ExitCode.BUS, "") == (code, out)
    check_line(line, environ, message)

    code, out, err = end_of(doctor)
    assert (ExitCode.BUS, "") == (code, err)
    (check,) = (check for check in json.loads(out)["checks"] if check["name"] == "bus")
    check_line(check["text"], environ, message)
    assert PASSWORD not in out


@pytest.mark.parametrize("case", CASES)
def test_planner_and_doctor_name_host_and_cause_and_end(
    cluster: "KafkaCluster", tmp_path: Path, case: str
) -> None:
    settings, message = CASES[case]

    check_programs(settings(cluster), message, tmp_path)


@pytest.mark.slow
def test_an_expired_certificate_of_the_broker_is_named(
    kafka_cluster: Callable[..., "KafkaCluster"], tmp_path: Path
) -> None:
    cluster = kafka_cluster(secure=True)
    cluster.stop(1)
    issue(cluster.tls, "broker", days=-1)
    cluster.start(1)

    check_programs(password(cluster), "certificate not trusted: certificate has expired", tmp_path)
