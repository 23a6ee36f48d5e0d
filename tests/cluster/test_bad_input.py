"""What an operator sees on Kubernetes when something is wrong, and where: one test a mistake."""

import json
from collections.abc import Callable
from functools import partial

import pytest
from kubernetes_node import HERE, ROOT, Site, ready, wait_for

pytestmark = pytest.mark.cluster

CHART = str(ROOT / "deploy/k3s/chart")
SMALL = ("-f", str(HERE / "cluster/values.yaml"), "--set", "evaluator.enabled=false")
BUNDLED = ("--set", "kafka.bundled.enabled=true,workers.x86.replicas=1")


@pytest.fixture(scope="module")
def site(new_site: Callable[[], Site]) -> Site:
    """A healthy small site, beside which the mistakes are made."""
    made = new_site()
    made.helm("install", "co-s2p", CHART, *SMALL, *BUNDLED)
    made.wait_for_ready(240)
    made.wait_for_versions(1)
    return made


def upgrade(site: Site, *settings: str) -> None:
    site.helm("upgrade", "co-s2p", CHART, *SMALL, *BUNDLED, *settings)


def event(site: Site, pod: str, sentence: str) -> bool:
    """Whether Kubernetes tells this of a pod (`kubectl describe pod`)."""
    events = site.get("events", "--field-selector", f"involvedObject.name={pod}")
    return any(sentence in each["message"] for each in events)


def test_a_class_without_a_node_is_pending_and_the_others_train_on(site: Site) -> None:
    pod = "co-s2p-worker-xavier-0"
    upgrade(
        site,
        *("--set", "workers.xavier.replicas=1,workers.xavier.data.shards=1"),
        *("--set", "workers.xavier.nodeSelector.board=xavier"),
    )

    wait_for("its event", partial(event, site, pod, "didn't match Pod's node affinity/selector"))
    assert "Pending" == site.get("pod", pod)["status"]["phase"]
    site.wait_for_versions(2)


def test_memory_below_the_smallest_submodel_is_refused_by_name(site: Site) -> None:
    pod = "co-s2p-worker-tiny-0"
    upgrade(
        site,
        *("--set", "workers.tiny.replicas=1,workers.tiny.data.shards=1"),
        *("--set-string", "workers.tiny.memoryBytes=100000"),
    )

    sentence = f"worker {pod}: a budget of"
    wait_for("its sentence", partial(site.has_logged, pod, sentence), 180)
    site.wait_for_versions(2)


def test_a_missing_secret_is_named_by_the_pods_event(site: Site) -> None:
    pod = "co-s2p-worker-unsigned-0"
    upgrade(
        site,
        *("--set", "workers.unsigned.replicas=1,workers.unsigned.data.shards=1"),
        *("--set", "workers.unsigned.signingSecret=no-such-secret"),
    )

    wait_for("its event", partial(event, site, pod, 'secret "no-such-secret" not found'), 180)


def test_an_image_that_the_node_lacks_is_named_by_the_pods_event(site: Site) -> None:
    pod = "co-s2p-worker-newer-0"
    upgrade(
        site,
        *("--set", "workers.newer.replicas=1,workers.newer.data.shards=1"),
        *("--set", "workers.newer.image=co-s2p-worker:9.9.9"),
    )

    wait_for("its event", partial(event, site, pod, "co-s2p-worker:9.9.9"))
    site.wait_for_versions(2)


def test_a_wrong_bootstrap_address_is_named_by_each_pod(site: Site) -> None:
    lost = Site(site.node, site.namespace, "lost")
    lost.helm(
        *("install", "lost", CHART, *SMALL),
        *("--set", "kafka.external.bootstrapServers=no-such-host:9092"),
    )
    sentence = "can't reach Kafka at no-such-host:9092: the name does not resolve"

    for pod in ("lost-co-s2p-planner-0", "lost-co-s2p-aggregator-0"):
        wait_for("its sentence", partial(lost.has_logged, pod, sentence), 180)
        assert not ready(lost.get("pod", pod))
    lost.helm("uninstall", "lost")


def test_a_second_release_on_one_prefix_is_told_whose_it_is(site: Site) -> None:
    address = "co-s2p-kafka-0.co-s2p-kafka:9092"
    other = Site(site.node, site.namespace, "other")
    anybody: dict[str, str] = {}
    policy = {"spec": {"ingress": [anybody]}}
    site.kubectl("patch", "networkpolicy", "co-s2p-kafka", "-p", json.dumps(policy))
    other.helm(
        *("install", "other", CHART, *SMALL),
        *("--set", f"kafka.external.bootstrapServers={address},run.prefix=co-s2p"),
    )
    version = site.status()["version"]

    (pod,) = wait_for("its job's pod", lambda: list(other.pods("init")))
    sentence = "belongs to run co-s2p, not to other-co-s2p"
    wait_for("the job's sentence", partial(other.has_logged, pod, sentence), 180)
    sentence = "the run at prefix 'co-s2p' is 'co-s2p', not 'other-co-s2p'"
    wait_for("the planner's", partial(other.has_logged, "other-co-s2p-planner-0", sentence), 180)
    wait_for("versions", lambda: site.status()["version"] > version)
    other.helm("uninstall", "other")
