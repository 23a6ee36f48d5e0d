"""What differs between the fleet that is there and the one that was asked for."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cos2p.errors import SettingsError
from cos2p_cli.containers import specs
from cos2p_cli.containers.changes import compare, fleet
from cos2p_cli.containers.classes import parse_fleet
from cos2p_cli.containers.engine import ExistingContainer
from cos2p_cli.containers.specs import ContainerSpec, Site

IDS = {"core:1": "c", "worker:1": "w"}


def running(wanted: Sequence[ContainerSpec]) -> list[ExistingContainer]:
    return [ExistingContainer(s.name, s.labels, IDS[s.image], "running") for s in wanted]


def asked(site: Site, text: str, found: Sequence[ExistingContainer] = ()) -> list[ContainerSpec]:
    return fleet(site, parse_fleet(text) if text else (), found, cpus_max=8)


def verbs(wanted: Sequence[ContainerSpec], found: Sequence[ExistingContainer]) -> dict[str, str]:
    return {c.name: c.verb for c in compare(wanted, found, IDS)}


def test_what_is_as_wanted_is_left_alone(site: Site) -> None:
    wanted = [specs.planner(site), *asked(site, "orin=1")]

    assert {"s-planner": "kept", "s-worker-orin-0": "kept"} == verbs(wanted, running(wanted))


def test_what_has_stopped_is_started(site: Site) -> None:
    (there,) = running([specs.planner(site)])

    stopped = replace(there, status="exited")

    assert {"s-planner": "started"} == verbs([specs.planner(site)], [stopped])


def test_another_description_or_another_image_replaces(site: Site) -> None:
    there = running([specs.planner(site)])
    moved = specs.planner(replace(site, run_id="run-2"))

    assert {"s-planner": "replaced"} == verbs([moved], there)
    assert {"s-planner": "replaced"} == verbs(
        [specs.planner(site)], [replace(there[0], image_id="old")]
    )


def test_scaling_down_removes_the_highest_and_up_brings_it_back(site: Site) -> None:
    two = asked(site, "orin=2")
    one = asked(site, "orin=1", running(two))

    assert {"s-worker-orin-0": "kept", "s-worker-orin-1": "removed"} == verbs(one, running(two))
    assert {"s-worker-orin-0": "kept", "s-worker-orin-1": "created"} == verbs(
        asked(site, "orin=2", running(one)), running(one)
    )


def test_classes_that_are_not_named_stay_as_they_are(site: Site) -> None:
    there = running(asked(site, "orin=1,tiny=1:700m:1"))

    wanted = asked(site, "orin=2", there)

    assert ["s-worker-orin-0", "s-worker-orin-1", "s-worker-tiny-0"] == [s.name for s in wanted]
    assert 700 << 20 == wanted[-1].memory_bytes
    assert "kept" == verbs(wanted, there)["s-worker-tiny-0"]


def test_a_free_class_is_scaled_by_its_name_once_it_is_there(site: Site) -> None:
    there = running(asked(site, "tiny=1:700m:1"))

    assert [700 << 20] * 2 == [s.memory_bytes for s in asked(site, "tiny=2", there)]


def test_other_limits_replace_the_workers_of_a_class(site: Site) -> None:
    there = running(asked(site, "tiny=1:700m:1"))

    assert {"s-worker-tiny-0": "replaced"} == verbs(asked(site, "tiny=1:600m:1", there), there)


def test_no_two_workers_have_one_part_and_whoever_stays_keeps_its_own(site: Site) -> None:
    there = running(asked(site, "orin=1,nano=2"))
    left = [f for f in there if f.name != "s-worker-nano-0"]

    wanted = asked(site, "orin=2,nano=2", left)

    parts = {s.name: s.facts[specs.PART] for s in wanted}
    before = {f.name: f.labels[specs.PART] for f in left}
    assert {"0", "1", "2", "3"} == set(parts.values())
    assert before == {name: parts[name] for name in before}


def test_more_workers_than_parts_of_the_data_are_refused_with_what_to_do(site: Site) -> None:
    with pytest.raises(SettingsError, match="--parts 5"):
        asked(site, "orin=5")
