"""A small site on Kubernetes with the bundled Kafka, trained while things happen to it.

The tests share one release and run in their order: one story of a run.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from check_demo import ACCURACY_MIN
from kubernetes_node import (
    HERE,
    ROOT,
    CommandError,
    Site,
    call,
    container,
    lasting,
    ready,
    wait_for,
)

pytestmark = pytest.mark.cluster

CHART = str(ROOT / "deploy/k3s/chart")
VALUES = (
    *("-f", str(ROOT / "deploy/k3s/values-edge.yaml")),
    *("-f", str(HERE / "cluster/values.yaml"), "-f", str(HERE / "cluster/values-edge.yaml")),
)
COS2P = str(Path(sys.executable).with_name("cos2p"))
NANO = "co-s2p-worker-orin-nano"
by_class = pytest.mark.parametrize("owner", ["co-s2p-worker-x86", NANO], ids=["x86", "orin-nano"])


@pytest.fixture(scope="module")
def site(new_site: Callable[[], Site]) -> Site:
    made = new_site()
    made.helm("install", "co-s2p", CHART, *VALUES)
    return made


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archive") / "run.sqlite"


def scale(site: Site, owner: str, replicas: int) -> None:
    site.kubectl("scale", "statefulset", owner, f"--replicas={replicas}")


def accepted(site: Site, pod: str) -> int:
    """How many of a device's plans came to something."""
    outcomes: dict[str, int] = site.worker(pod).get("outcomes", {})
    return outcomes.get("accepted", 0)


def has_left(site: Site, pod: str) -> bool:
    return bool("left" == site.worker(pod)["state"])


def reaches(site: Site, pod: str, address: str) -> bool:
    """Whether a pod can connect to HOST:PORT."""
    host, port = address.rsplit(":", 1)
    probe = f"""
import socket
try:
    socket.create_connection(({host!r}, {port}), 3)
    print("open")
except (ConnectionRefusedError, TimeoutError):
    print("closed")
"""
    answer = site.kubectl("exec", pod, "--", "python3", "-c", probe).strip()
    assert answer in ("open", "closed")
    return answer == "open"


def again(site: Site, name: str, starts: int) -> bool:
    """Whether a pod is ready, and has been started since."""
    pod = site.get("pod", name)
    return ready(pod) and container(pod)[1] > starts


def run_pod(site: Site, name: str, spec: object) -> None:
    """Start a pod, and wait until it runs."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    site.kubectl("apply", "-f", "-", given=json.dumps(pod))
    site.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")


def test_every_pod_of_a_restricted_namespace_becomes_ready(site: Site) -> None:
    def ready_count() -> int:
        return sum(ready(pod) for pod in site.pods().values() if lasting(pod))

    wait_for("eight ready pods", lambda: ready_count() == 8, 240)


def test_helm_test_asks_the_doctor(site: Site) -> None:
    site.wait_for_versions(1)
    assert "Succeeded" in site.helm("test", "co-s2p")


@by_class
def test_scaled_up_devices_say_hello_and_train(site: Site, owner: str) -> None:
    scale(site, owner, 4)

    for ordinal in (2, 3):
        wait_for("an update of a new pod", partial(accepted, site, f"{owner}-{ordinal}"), 180)


@by_class
def test_scaled_down_devices_leave_in_the_log_and_the_run_goes_on(site: Site, owner: str) -> None:
    scale(site, owner, 1)

    for ordinal in (1, 2, 3):
        wait_for("a goodbye", partial(has_left, site, f"{owner}-{ordinal}"))
    site.wait_for_versions(3)


@by_class
def test_a_device_that_comes_back_has_its_identity(site: Site, owner: str) -> None:
    before = site.worker(f"{owner}-1")
    scale(site, owner, 2)

    wait_for("an update", lambda: accepted(site, f"{owner}-1") > before["outcomes"]["accepted"])
    after = site.worker(f"{owner}-1")
    assert before["starts"] < after["starts"]
    assert before["sample_count"] == after["sample_count"]


def test_any_pod_may_be_killed(site: Site) -> None:
    site.wait_for_ready()
    for name, pod in site.pods().items():
        if lasting(pod):
            identity, starts = container(pod)
            site.node.kill(identity)
            wait_for(f"{name} again", partial(again, site, name, starts), 240)
            site.wait_for_versions(2, 240)


def test_the_broker_may_move(site: Site) -> None:
    site.kubectl("delete", "pod", "co-s2p-kafka-0")
    site.wait_for_ready(240)
    site.wait_for_versions(3, 240)


def test_a_drain_takes_no_more_pods_of_a_class_than_its_budget_allows(site: Site) -> None:
    site.wait_for_ready()
    (node,) = site.get("nodes")
    name = node["metadata"]["name"]
    selector = "co-s2p/device-class=orin-nano"
    drain = ("drain", name, "--delete-emptydir-data", f"--pod-selector={selector}")
    try:
        with pytest.raises(CommandError, match="violate the pod's disruption budget"):
            site.node.kubectl(*drain, "--timeout=40s", limit_s=90)
        left = [pod for pod in site.pods("worker").values() if ready(pod)]
        assert 1 == len([p for p in left if p["metadata"]["name"].startswith(NANO)])
    finally:
        site.node.kubectl("uncordon", name)
    site.wait_for_ready()
    site.wait_for_versions(2)


def test_upgrade_and_rollback_in_mid_run(site: Site) -> None:
    parts = ("planner", "aggregator", "workerDefaults")
    changed = [w for p in parts for w in ("--set", f"{p}.podAnnotations.note=changed")]
    run = site.status()["run_id"]
    for command in (
        ("upgrade", "co-s2p", CHART, *VALUES, *changed, "--wait", "--timeout", "5m"),
        ("rollback", "co-s2p", "--wait", "--timeout", "5m"),
    ):
        site.helm(*command)
        site.wait_for_versions(2, 240)
    assert run == site.status()["run_id"]


def test_a_foreign_pod_reaches_neither_kafka_nor_a_service(site: Site) -> None:
    planner = site.get("pod", "co-s2p-planner-0")
    places = [
        f"co-s2p-kafka-0.co-s2p-kafka.{site.namespace}.svc.cluster.local:9092",
        f"{planner['status']['podIP']}:9464",
    ]
    image = planner["spec"]["containers"][0]["image"]
    security = planner["spec"]["containers"][0]["securityContext"]
    spec = {
        "securityContext": planner["spec"]["securityContext"],
        "containers": [
            {
                "name": "peek",
                "image": image,
                "command": ["sleep", "3600"],
                "securityContext": security,
            }
        ],
    }
    run_pod(site, "foreign", spec)

    assert not any(reaches(site, "foreign", place) for place in places)
    assert reaches(site, "co-s2p-planner-0", places[0])


def test_it_learns_what_the_demo_learns(site: Site) -> None:
    def newest() -> float:
        curve = site.status()["accuracy"]
        return float(curve[-1]["accuracy"]) if curve else 0.0

    wait_for("the demo's accuracy", lambda: newest() >= ACCURACY_MIN, 420)
    print(f"\naccuracy {newest():.3f} at version {site.status()['version']}")


def test_services_are_idle_after_the_runs_end(site: Site) -> None:
    starts = {name: container(pod)[1] for name, pod in site.pods().items()}
    site.cos2p("stop", "--reason", "good enough")
    wait_for("the end", lambda: site.status()["phase"] == "finished")

    site.wait_for_ready()
    assert starts == {name: container(pod)[1] for name, pod in site.pods().items()}


def test_its_archive_replays_elsewhere_to_the_same_digests(site: Site, archive: Path) -> None:
    site.cos2p("archive", "--out", "/tmp/run.sqlite", limit_s=300)
    fetch = [str(site.node.built / "bin/kubectl"), "-n", site.namespace, "exec"]
    fetch += ["co-s2p-planner-0", "--", "cat", "/tmp/run.sqlite"]
    with archive.open("wb") as out:
        subprocess.run(fetch, env=site.node.environ, stdout=out, check=True)

    replayed = call(COS2P, "replay", "--bus", f"sqlite:{archive}", "--prefix", "co-s2p", "--json")
    assert json.loads(replayed)["compared_count"] == site.status()["version"] + 1


def test_uninstalling_leaves_nothing_but_volumes(site: Site) -> None:
    site.helm("uninstall", "co-s2p", "--wait")
    kinds = "all,configmaps,secrets,serviceaccounts,networkpolicies,poddisruptionbudgets,pvc"

    def left() -> set[str]:
        rows = site.kubectl("get", kinds, "-o", "name").split()
        return {row for row in rows if "co-s2p" in row}

    wait_for("pods to leave", lambda: not any("pod/" in row for row in left()), 120)
    assert {"persistentvolumeclaim/data-co-s2p-kafka-0"} == left()


def test_an_archive_is_restored_as_a_new_run_that_knows_what_the_old_one_learned(
    site: Site, archive: Path
) -> None:
    new = Site(site.node, site.namespace, "new")
    new.helm("install", "new", CHART, *VALUES, "--set", "init.enabled=false")
    evaluator = "deploy/new-co-s2p-evaluator"
    new.kubectl("wait", "--for=condition=Available", evaluator, "--timeout=180s")
    give = [str(site.node.built / "bin/kubectl"), "-n", site.namespace, "exec", "-i", evaluator]
    with archive.open("rb") as given:
        words = [*give, "--", "sh", "-c", "cat > /tmp/run.sqlite"]
        subprocess.run(words, env=site.node.environ, stdin=given, check=True)
    asked = ("init", "--from", "/tmp/run.sqlite", "--from-prefix", "co-s2p", "--task", "digits")
    new.kubectl("exec", evaluator, "--", "cos2p", *asked, "--run-id", "new-co-s2p")
    new.helm("upgrade", "new", CHART, *VALUES)

    first = wait_for("a verdict", lambda: new.status()["accuracy"], 240)[0]
    assert first["version"] < 20
    assert first["accuracy"] >= ACCURACY_MIN
    new.helm("uninstall", "new")
