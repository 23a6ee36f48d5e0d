"""The chart, rendered by helm 3 and 4: what it makes, and what it refuses to make."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import helm_tools
import kubernetes_validate
import pytest
import yaml

from cos2p.monitoring.metrics import METRICS
from cos2p.settings import known_variables

K3S = Path(__file__).parents[2] / "deploy" / "k3s"
CHART = K3S / "chart"
VALUE_FILES = ("edge", "external", "jetson", "minimal")
KUBERNETES = ("1.31", "1.37")
"""The oldest and the newest release that the validator knows of those that the chart supports."""
CUSTOM_KINDS = {"ServiceMonitor", "PrometheusRule"}
"""Of the Prometheus operator: no schema of theirs is at hand."""
OPEN_KAFKA = ("--set", "kafka.external.bootstrapServers=kafka:9092")
POD_OWNERS = ("StatefulSet", "Deployment", "Job")

Document = dict[str, Any]


@pytest.fixture(scope="session")
def helms() -> dict[str, str]:
    """Where each release of helm is, by its number."""
    try:
        return {wheel.helm: str(helm_tools.helm(wheel)) for wheel in helm_tools.WHEELS}
    except helm_tools.HelmError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no helm: {error}")


@pytest.fixture(scope="session", params=[wheel.helm for wheel in helm_tools.WHEELS])
def helm(request: pytest.FixtureRequest, helms: dict[str, str]) -> str:
    """Each release of helm in turn."""
    return helms[request.param]


@cache
def run(helm: str, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([helm, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def values(name: str) -> tuple[str, str]:
    return ("-f", str(K3S / f"values-{name}.yaml"))


def rendered(helm: str, *arguments: str) -> list[Document]:
    command = ("template", "r", str(CHART), "--namespace", "site", *arguments)
    code, out, error = run(helm, *command)
    assert code == 0, error
    return [document for document in yaml.safe_load_all(out) if document]


def refusal(helm: str, *arguments: str) -> str:
    code, _, error = run(helm, "template", "r", str(CHART), *arguments)
    assert code != 0
    return error


def named(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = (d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name))
    return found


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Name and spec of every pod that the chart makes."""
    for document in documents:
        if document["kind"] in POD_OWNERS:
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]
        if document["kind"] == "Pod":
            yield document["metadata"]["name"], document["spec"]


def environment(pod: Document) -> dict[str, Any]:
    """What a container gets: values, or where they come from."""
    return {
        entry["name"]: entry.get("value", entry.get("valueFrom"))
        for entry in pod["containers"][0].get("env", [])
    }


def worker(documents: list[Document], of_class: str) -> Document:
    owner = named(documents, "StatefulSet", f"r-co-s2p-worker-{of_class}")
    pod: Document = owner["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("name", VALUE_FILES)
def test_the_chart_passes_helms_strict_lint(helm: str, name: str) -> None:
    code, out, error = run(helm, "lint", "--strict", str(CHART), *values(name))

    assert code == 0, out + error


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("name", VALUE_FILES)
def test_every_resource_is_valid_on_the_oldest_and_newest_kubernetes(
    helm: str, name: str, kubernetes: str
) -> None:
    for document in rendered(helm, "--kube-version", kubernetes, *values(name)):
        if document["kind"] not in CUSTOM_KINDS:
            kubernetes_validate.validate(document, kubernetes, strict=True)


def test_helm_3_and_4_make_the_same(helms: dict[str, str]) -> None:
    three, four = helms.values()

    for name in VALUE_FILES:
        assert _sorted(rendered(three, *values(name))) == _sorted(rendered(four, *values(name)))


def _sorted(documents: list[Document]) -> list[Document]:
    return sorted(documents, key=lambda d: (d["kind"], d["metadata"]["name"]))


@pytest.mark.parametrize("name", VALUE_FILES)
def test_every_variable_is_one_that_a_service_knows(helm: str, name: str) -> None:
    known = set(known_variables())

    for owner, pod in pods(rendered(helm, *values(name))):
        ours = {v for v in environment(pod) if v.startswith("COS2P_")}
        assert ours <= known, owner


@pytest.mark.parametrize("name", VALUE_FILES)
def test_every_pod_is_restricted_limited_and_fixed_in_version(helm: str, name: str) -> None:
    for owner, pod in pods(rendered(helm, *values(name))):
        assert pod["securityContext"]["runAsNonRoot"] is True, owner
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert pod["automountServiceAccountToken"] is False, owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), owner
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, owner
            assert security["capabilities"] == {"drop": ["ALL"]}, owner
            assert "memory" in container["resources"]["limits"], owner
            assert not re.search(r"(:latest|^[^:@]+)$", container["image"]), owner
            assert container["imagePullPolicy"] == "IfNotPresent", owner


@pytest.mark.parametrize("name", VALUE_FILES)
def test_our_own_pods_write_nothing_to_their_root(helm: str, name: str) -> None:
    for owner, pod in pods(rendered(helm, *values(name))):
        if not owner.endswith("-kafka"):
            assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"], owner


def test_only_jetsons_own_data_are_mounted_from_the_node(helm: str) -> None:
    for name in VALUE_FILES:
        for owner, pod in pods(rendered(helm, *values(name))):
            host = [v["name"] for v in pod.get("volumes", []) if "hostPath" in v]
            assert host == (["data"] if name == "jetson" and "-worker-" in owner else []), owner


def test_liveness_asks_the_loop_and_readiness_asks_for_progress(helm: str) -> None:
    documents = rendered(helm, *values("edge"))

    for owner in ("planner", "aggregator", "worker-x86", "worker-orin-nano"):
        pod = named(documents, "StatefulSet", f"r-co-s2p-{owner}")["spec"]["template"]["spec"]
        container = pod["containers"][0]
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert "startupProbe" in container


def test_a_pods_grace_outlasts_its_services_deadline(helm: str) -> None:
    for owner, pod in pods(rendered(helm, *values("edge"))):
        deadline = environment(pod).get("COS2P_SHUTDOWN_DEADLINE_S")
        if deadline is not None:
            assert pod["terminationGracePeriodSeconds"] > float(deadline), owner


def test_each_class_has_a_stateful_set_with_identity_from_the_pods_name(helm: str) -> None:
    documents = rendered(helm, *values("edge"))

    x86 = environment(worker(documents, "x86"))
    assert x86["COS2P_WORKER_ID"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert x86["COS2P_DEVICE_CLASS"] == "x86"
    nano = environment(worker(documents, "orin-nano"))
    assert (nano["COS2P_SHARD_OFFSET"], nano["COS2P_SHARD_COUNT"]) == ("4", "8")
    assert named(documents, "StatefulSet", "r-co-s2p-worker-orin-nano")["spec"]["replicas"] == 2


def test_a_class_keeps_the_defaults_that_it_does_not_set(helm: str) -> None:
    documents = rendered(helm, *values("edge"))

    nano = worker(documents, "orin-nano")["containers"][0]["resources"]["limits"]
    x86 = worker(documents, "x86")["containers"][0]["resources"]["limits"]
    assert (nano, x86) == ({"memory": "3Gi"}, {"memory": "2Gi"})


def test_a_jetson_has_its_runtime_image_node_and_gpu(helm: str) -> None:
    documents = rendered(helm, *values("jetson"))

    agx, nano = worker(documents, "agx-orin"), worker(documents, "orin-nano")
    assert agx["runtimeClassName"] == nano["runtimeClassName"] == "nvidia"
    assert agx["containers"][0]["image"] == "co-s2p-worker-jetson:0.1.0"
    assert agx["nodeSelector"] == {"co-s2p/device-class": "agx-orin"}
    assert agx["containers"][0]["resources"]["limits"] == {"memory": "24Gi", "nvidia.com/gpu": 1}
    assert "nvidia.com/gpu" not in nano["containers"][0]["resources"]["limits"]
    assert {"key": "kubernetes.io/arch", "operator": "Equal", "value": "arm64"}.items() <= (
        nano["tolerations"][0].items()
    )


def test_each_aggregator_shard_takes_its_number_from_its_ordinal(helm: str) -> None:
    documents = rendered(helm, *values("external"))

    aggregator = named(documents, "StatefulSet", "r-co-s2p-aggregator")
    assert aggregator["spec"]["replicas"] == 2
    ordinal = {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}
    assert environment(aggregator["spec"]["template"]["spec"])["COS2P_SHARD"] == ordinal


def test_passwords_come_as_files_of_the_named_secrets_by_role(helm: str) -> None:
    documents = rendered(helm, *values("external"))

    for owner, secret in (("planner", "kafka-planner"), ("worker-x86", "kafka-worker")):
        pod = named(documents, "StatefulSet", f"r-co-s2p-{owner}")["spec"]["template"]["spec"]
        variables = environment(pod)
        assert variables["COS2P_KAFKA_USERNAME"]["secretKeyRef"]["name"] == secret
        assert variables["COS2P_KAFKA_PASSWORD_FILE"] == "/etc/co-s2p/kafka/password"
        assert "COS2P_KAFKA_PASSWORD" not in variables
        assert secret in [v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v]


def test_the_chart_makes_no_secret(helm: str) -> None:
    for name in VALUE_FILES:
        assert "Secret" not in {d["kind"] for d in rendered(helm, *values(name))}


def test_signed_sites_give_each_role_its_key_and_the_planner_the_register(helm: str) -> None:
    documents = rendered(helm, *values("external"))

    planner = named(documents, "StatefulSet", "r-co-s2p-planner")["spec"]["template"]["spec"]
    assert environment(planner)["COS2P_KEYS_FILE"] == "/etc/co-s2p/keys/register"
    x86 = environment(worker(documents, "x86"))
    assert x86["COS2P_SIGNING_KEY_FILE"] == "/etc/co-s2p/keys/own.pem"
    mounts = worker(documents, "x86")["containers"][0]["volumeMounts"]
    (mount,) = [m for m in mounts if "keys" in m["mountPath"]]
    assert mount["subPathExpr"] == "$(COS2P_WORKER_ID).pem"


def test_nothing_reaches_a_pod_but_what_is_listed(helm: str) -> None:
    documents = rendered(helm, *values("edge"))

    own = named(documents, "NetworkPolicy", "r-co-s2p")["spec"]
    assert set(own["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in own
    ports = [p["port"] for rule in own["egress"] for p in rule["ports"]]
    assert ports == [53, 53, 9092]
    kafka = named(documents, "NetworkPolicy", "r-co-s2p-kafka")["spec"]
    assert kafka["ingress"][0]["from"][0]["podSelector"]["matchLabels"] == {
        "app.kubernetes.io/instance": "r",
        "app.kubernetes.io/name": "co-s2p",
    }


def test_monitoring_is_off_until_it_is_asked_for(helm: str) -> None:
    off = {d["kind"] for d in rendered(helm, *values("edge"))}
    on = {d["kind"] for d in rendered(helm, *values("external"))}

    assert not CUSTOM_KINDS & off
    assert CUSTOM_KINDS <= on


def test_alerts_and_dashboard_ask_for_metrics_that_exist(helm: str) -> None:
    documents = rendered(helm, *values("external"))
    rules = named(documents, "PrometheusRule", "r-co-s2p")["spec"]["groups"][0]["rules"]
    board = json.loads(named(documents, "ConfigMap", "r-co-s2p-dashboard")["data"]["co-s2p.json"])
    asked = [rule["expr"] for rule in rules]
    asked += [target["expr"] for panel in board["panels"] for target in panel["targets"]]

    shown = {metric.shown for metric in METRICS}
    named_there = set(re.findall(r"\bcos2p_[a-z_]+", " ".join(asked)))
    assert named_there - {f"{name}_bucket" for name in shown} <= shown


def test_the_job_that_asks_for_the_run_changes_its_name_with_what_it_asks(helm: str) -> None:
    def job(*more: str) -> str:
        documents = rendered(helm, *values("edge"), *more)
        return next(str(d["metadata"]["name"]) for d in documents if d["kind"] == "Job")

    assert job() == job("--set", "planner.podAnnotations.a=b")
    assert job() != job("--set", "run.id=second")


REFUSED: dict[str, tuple[Callable[[], tuple[str, ...]], str]] = {
    "no Kafka": (tuple, "set kafka.external.bootstrapServers to HOST:PORT"),
    "two Kafkas": (
        lambda: (*OPEN_KAFKA, "--set", "kafka.bundled.enabled=true"),
        "not both",
    ),
    "auth without a Secret": (
        lambda: (*OPEN_KAFKA, "--set", "kafka.external.security=SASL_SSL"),
        "name the Secret with username and password in kafka.external.existingSecret.",
    ),
    "signing without the operator's key": (
        lambda: (*OPEN_KAFKA, "--set", "signing.registerSecret=register"),
        "signing.operatorSecret",
    ),
    "a signed site with a class that can't sign": (
        lambda: (
            *OPEN_KAFKA,
            *("--set", "signing.registerSecret=r,signing.operatorSecret=o"),
            *("--set", "signing.evaluatorSecret=e,workers.x86.replicas=1"),
        ),
        "workers.x86.signingSecret",
    ),
    "more pods than parts of the data": (
        lambda: (*OPEN_KAFKA, "--set", "workers.x86.replicas=3,workers.x86.data.shards=2"),
        "data.shards of 3 or more, not 2",
    ),
    "an unknown key": (lambda: (*OPEN_KAFKA, "--set", "planer.resources=1"), "planer"),
    "an unknown key of a class": (
        lambda: (*OPEN_KAFKA, "--set", "workers.x86.replica=1"),
        "replica",
    ),
    "a class that can't be a name": (
        lambda: (*OPEN_KAFKA, "--set", "workers.Orin_Nano.replicas=1"),
        "Orin_Nano",
    ),
    "replicas in words": (
        lambda: (*OPEN_KAFKA, "--set-string", "workers.x86.replicas=many"),
        "replicas",
    ),
    "an address without a port": (
        lambda: ("--set", "kafka.external.bootstrapServers=kafka"),
        "bootstrapServers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_work_is_refused_in_words(helm: str, case: str) -> None:
    arguments, message = REFUSED[case]

    assert message in refusal(helm, *arguments())


def test_every_value_has_a_place_in_the_schema(helm: str) -> None:
    """Or a key that values.yaml sets could never be changed."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())

    assert set(defaults) | {"global"} == set(schema["properties"])
    assert set(defaults["workerDefaults"]) == (
        set(schema["properties"]["workerDefaults"]["properties"])
    )
