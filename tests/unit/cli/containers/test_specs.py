"""Descriptions of containers: as the chart's pods, and as closed."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cos2p.settings import known_variables
from cos2p_cli.containers import specs
from cos2p_cli.containers.classes import Limits
from cos2p_cli.containers.specs import ContainerSpec, Mount, Site

ROOT = Path(__file__).parents[4]
LIMITS = Limits(600 << 20, 0.5)


def every(site: Site) -> list[ContainerSpec]:
    return [
        specs.kafka(site),
        specs.init(site, "digits", ""),
        specs.planner(site),
        specs.aggregator(site, 0),
        specs.evaluator(site),
        specs.worker(site, "tiny", 0, LIMITS, 3, cpus_max=4),
    ]


def test_a_worker_has_the_names_and_variables_of_the_charts_pods(site: Site) -> None:
    spec = specs.worker(site, "tiny", 1, LIMITS, 3, cpus_max=4)

    assert "s-worker-tiny-1" == spec.name == spec.environment["COS2P_WORKER_ID"]
    assert "tiny" == spec.environment["COS2P_DEVICE_CLASS"]
    assert ("3", "4") == (
        spec.environment["COS2P_SHARD_INDEX"],
        spec.environment["COS2P_SHARD_COUNT"],
    )
    assert ("kafka://s-kafka:9092", "run-1") == (
        spec.environment["COS2P_BUS"],
        spec.environment["COS2P_PREFIX"],
    )
    assert (600 << 20, 0.5) == (spec.memory_bytes, spec.cpus)


def test_every_variable_is_one_that_the_services_know(site: Site) -> None:
    names = {n for spec in every(site) for n in spec.environment if n.startswith("COS2P_")}

    assert set() == names - set(known_variables())


def test_no_more_processors_are_asked_for_than_the_machine_has(site: Site) -> None:
    assert 2 == specs.worker(site, "x86", 0, Limits(1 << 30, 4.0), 0, cpus_max=2).cpus


def test_all_but_kafka_run_as_the_images_user_on_a_root_that_cannot_be_written(site: Site) -> None:
    _, *ours = every(site)

    assert {("10001:10001", True)} == {(s.user, s.read_only) for s in ours}


def test_only_kafka_has_a_port_on_this_machine(site: Site) -> None:
    assert {"s-kafka": {9094: 50_000}} == {s.name: dict(s.ports) for s in every(site) if s.ports}


def test_scratch_lies_on_a_volume_and_not_in_the_devices_memory(site: Site) -> None:
    spec = specs.worker(site, "tiny", 0, LIMITS, 0, cpus_max=4)

    assert Mount("", "/var/tmp") in spec.mounts
    assert spec.environment["COS2P_SCRATCH_DIR"].startswith("/var/tmp/")
    assert ["/tmp"] == list(spec.tmpfs)


def test_data_is_mounted_for_whoever_loads_the_task_and_never_to_be_written(site: Site) -> None:
    with_data = replace(site, data_dir=Path("/srv/photos"))

    reading = {s.role for s in every(with_data) if Mount("/srv/photos", "/data", True) in s.mounts}

    assert {"init", "evaluator", "worker"} == reading


def test_the_run_file_travels_as_it_is(site: Site) -> None:
    text = 'policy = "heterofl"  # $HOME, "quotes"\n'

    assert text == specs.init(site, "digits", text).environment["RUN_FILE"]


def test_equal_descriptions_have_one_digest_and_any_change_another(site: Site) -> None:
    spec = specs.planner(site)

    assert spec.digest == specs.planner(site).digest
    assert spec.digest != replace(spec, memory_bytes=1).digest
    assert spec.digest != replace(spec, environment={}).digest


def test_containers_are_found_again_by_label(site: Site) -> None:
    assert {("s", s.role, s.digest) for s in every(site)} == {
        (s.labels["co-s2p.name"], s.labels["co-s2p.role"], s.labels["co-s2p.spec"])
        for s in every(site)
    }


@pytest.mark.parametrize("key", ["image", "clusterId"])
def test_kafka_is_the_charts(key: str) -> None:
    values = yaml.safe_load((ROOT / "deploy/k3s/chart/values.yaml").read_text())
    ours = {"image": specs.KAFKA_IMAGE, "clusterId": specs.CLUSTER_ID}

    assert values["kafka"]["bundled"][key] == ours[key]


def test_kafka_has_the_charts_settings_and_one_more_listener(site: Site) -> None:
    text = (ROOT / "deploy/k3s/chart/templates/kafka.yaml").read_text()
    plain = {k: v for k, v in specs.kafka(site).environment.items() if "LISTENER" not in k}

    assert set() == {k for k in plain if f"name: {k}," not in text}
    assert "HOST://127.0.0.1:50000" in specs.kafka(site).environment["KAFKA_ADVERTISED_LISTENERS"]
