"""A site with a secured Kafka of its own: passwords over TLS, rights by role, signed records.

The tests share one release and run in their order.
"""

import json
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kubernetes_node import HERE, NODE_ADDRESS, ROOT, Site, container, ready, wait_for

from cos2p.log.rights import ROLES
from cos2p.signing.keys import SignerRole, new_key, register_line
from cos2p_cli.acls import TOOL, commands, users_of

if TYPE_CHECKING:
    from kafka_broker import KafkaCluster

pytestmark = pytest.mark.cluster

CHART = str(ROOT / "deploy/k3s/chart")
PREFIX = "co-s2p"
RUN = 'policy = "co-s2p"\n[rounds]\nversions = 40\n[merge]\nshards = 2\n'
X86 = "co-s2p-worker-x86"


@pytest.fixture(scope="module")
def kafka(kafka_of_site: Callable[..., "KafkaCluster"]) -> "KafkaCluster":
    """With the rights that `cos2p topics acls` prints, and no other."""
    cluster = kafka_of_site(secure=True, host=NODE_ADDRESS)
    for line in commands(PREFIX, users_of([])):
        cluster.acls(*shlex.split(line.removeprefix(TOOL)))
    return cluster


@pytest.fixture(scope="module")
def site(
    new_site: Callable[[], Site],
    kafka: "KafkaCluster",
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    made = new_site()
    folder = tmp_path_factory.mktemp("secrets")
    make_secrets(made, kafka, folder)
    run = folder / "run.toml"
    run.write_text(RUN)
    made.helm(
        *("install", "co-s2p", CHART, "-f", str(ROOT / "deploy/k3s/values-external.yaml")),
        *("-f", str(HERE / "cluster/values.yaml"), "--set-file", f"run.config={run}"),
        *("--set", f"kafka.external.bootstrapServers={kafka.scram}"),
        *("--set", "metrics.serviceMonitor.enabled=false,metrics.rules.enabled=false"),
        *("--set", "workers.x86.replicas=2,workers.x86.data.shards=4"),
    )
    return made


def make_secrets(site: Site, kafka: "KafkaCluster", folder: Path) -> None:
    """All that the values name: users by role, the authority, keys and their register."""
    secret(site, "kafka-ca", file=[("ca.crt", kafka.tls / "ca.pem")])
    for role in ROLES:
        secret(site, f"kafka-{role}", text=[("username", role), ("password", f"{role}-secret")])
    lines = []
    signers: dict[str, SignerRole] = {f"{X86}-0": "worker", f"{X86}-1": "worker"}
    signers |= {"evaluator": "evaluator", "operator": "operator"}
    for name, kind in signers.items():
        lines.append(register_line(kind, name, new_key(folder / f"{name}.pem")))
    (folder / "register").write_text("\n".join(lines) + "\n")
    secret(site, "co-s2p-register", file=[("register", folder / "register")])
    secret(site, "co-s2p-operator-key", file=[("operator.pem", folder / "operator.pem")])
    secret(site, "co-s2p-evaluator-key", file=[("evaluator.pem", folder / "evaluator.pem")])
    pods = [f"{X86}-{n}.pem" for n in (0, 1)]
    secret(site, "co-s2p-x86-keys", file=[(name, folder / name) for name in pods])


def secret(
    site: Site,
    name: str,
    *,
    text: Sequence[tuple[str, str]] = (),
    file: Sequence[tuple[str, Path]] = (),
) -> None:
    literal = [f"--from-literal={key}={value}" for key, value in text]
    files = [f"--from-file={key}={path}" for key, path in file]
    site.kubectl("create", "secret", "generic", name, *literal, *files)


def test_a_signed_run_trains_with_no_other_right_than_those_printed(site: Site) -> None:
    site.wait_for_ready(240)

    wait_for("the run's end", lambda: site.status()["phase"] == "finished", 300)
    shown = site.status()
    assert "target" == shown["end"]["reason"], shown["end"]
    assert {f"{X86}-0", f"{X86}-1"} == {row["worker_id"] for row in shown["workers"]}
    assert all(row["outcomes"]["accepted"] for row in shown["workers"])
    assert shown["accuracy"], "the evaluator has not been heard"


def test_helm_test_asks_the_doctor(site: Site) -> None:
    assert "Succeeded" in site.helm("test", "co-s2p")


def test_a_pod_sees_no_key_but_its_own(site: Site) -> None:
    seen = site.kubectl("exec", f"{X86}-0", "--", "find", "/etc/co-s2p/keys", "-type", "f")

    assert ["/etc/co-s2p/keys/own.pem"] == seen.split()


def test_a_pod_without_a_key_says_so_and_harms_nobody(site: Site) -> None:
    site.kubectl("scale", "statefulset", X86, "--replicas=3")

    def logged() -> bool:
        return "/etc/co-s2p/keys/own.pem" in site.log(f"{X86}-2")

    wait_for("its sentence", logged)
    assert ready(site.get("pod", f"{X86}-0"))
    site.kubectl("scale", "statefulset", X86, "--replicas=2")
    wait_for("it to go", lambda: f"{X86}-2" not in site.pods())


def test_a_changed_password_needs_no_restart(site: Site, kafka: "KafkaCluster") -> None:
    starts = {name: container(pod)[1] for name, pod in site.pods().items()}
    patch = {"stringData": {"password": "another-secret"}}
    site.kubectl("patch", "secret", "kafka-operator", "--patch", json.dumps(patch))
    kafka.set_password("operator", "another-secret")

    assert "Succeeded" in site.helm("test", "co-s2p")
    assert starts.items() <= {n: container(p)[1] for n, p in site.pods().items()}.items()


def test_no_secret_is_in_a_log_or_a_release(site: Site) -> None:
    logged = "".join(site.log(name, "--all-containers") for name in site.pods())
    logged += site.helm("get", "all", "co-s2p")

    assert not any(f"{who}-secret" in logged for who in (*ROLES, "another"))
    assert "PRIVATE KEY" not in logged


def test_a_wrong_password_is_named_by_the_pod_that_has_it(site: Site) -> None:
    patch = {"stringData": {"password": "wrong"}}
    site.kubectl("patch", "secret", "kafka-worker", "--patch", json.dumps(patch))
    site.kubectl("delete", "pod", f"{X86}-0")

    wait_for("its sentence", partial(site.has_logged, f"{X86}-0", "wrong user or password"))
