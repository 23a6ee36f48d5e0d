"""The rights of each role, as an operator gets them."""

import io
from contextlib import redirect_stdout

import pytest
import yaml

from cos2p.errors import SettingsError
from cos2p.log.rights import rights
from cos2p_cli.acls import AclOptions, commands, documents, show, users_of

YAML = AclOptions(users=("worker=orin-1", "worker=nano-1"), cluster="kafka")


def test_a_worker_may_say_what_it_did_and_read_what_it_shall_do() -> None:
    found = {r.topic: r.operations for r in rights("t", ["worker"])}

    assert found == {
        "t-fleet": ("Write",),
        "t-heartbeats": ("Write",),
        "t-models": ("Read",),
        "t-submodels": ("Read",),
        "t-updates": ("Write",),
        "t-dead-letters": ("Write",),
    }


def test_only_the_operator_makes_topics() -> None:
    assert {"operator"} == {r.role for r in rights("t") if "Create" in r.operations}


def test_each_user_of_a_role_has_the_lines_of_the_role() -> None:
    lines = list(commands("t", users_of(["worker=orin-1", "worker=nano-1"])))

    orin = [x for x in lines if "User:orin-1" in x]
    assert orin
    assert [x.replace("orin-1", "nano-1") for x in orin] == [x for x in lines if "nano-1" in x]
    assert not [x for x in lines if "User:worker" in x]


def test_a_name_that_a_shell_would_split_is_quoted() -> None:
    (line, *_) = commands("t", {"worker": ["CN=orin 1,O=site"]})

    assert "'User:CN=orin 1,O=site'" in line


@pytest.mark.parametrize("text", ["driver=me", "worker", "worker="])
def test_a_user_of_no_role_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="ROLE=USER"):
        users_of([text])


def test_strimzi_gets_every_topic_and_every_user() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        show("t", YAML, as_json=False)

    found = list(yaml.safe_load_all(out.getvalue()))
    users = {d["metadata"]["name"]: d for d in found if d["kind"] == "KafkaUser"}
    assert 9 == sum(d["kind"] == "KafkaTopic" for d in found)
    assert {"planner", "aggregator", "evaluator", "operator", "orin-1", "nano-1"} == set(users)
    assert users["orin-1"]["spec"]["authorization"]["acls"][0] == {
        "resource": {"type": "topic", "name": "t-fleet", "patternType": "literal"},
        "operations": ["Write", "Describe"],
    }


def test_a_way_to_authenticate_that_strimzi_lacks_is_refused() -> None:
    with pytest.raises(SettingsError, match="scram-sha-512 or tls"):
        list(documents("t", {}, AclOptions(cluster="kafka", authentication="basic")))
