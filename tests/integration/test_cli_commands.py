"""The commands on a real run, in processes that can load neither torch nor what draws plots."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ring import Ring, config, table

from cos2p.log.topics import CATALOGUE

HEAVY = ("torch", "matplotlib", "sklearn", "scipy", "jinja2", "safetensors")
BARE = (
    f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r})); "
    "from cos2p_cli.main import main; main()"
)
COMMANDS = (
    ["demo"],
    ["policies"],
    ["init"],
    ["run"],
    ["status"],
    ["replay"],
    ["archive"],
    ["export"],
    ["report"],
    ["topics", "list"],
    ["topics", "create"],
    ["topics", "acls"],
    ["keys", "new"],
    ["keys", "line"],
    ["keys", "list"],
    ["stop"],
    ["admit"],
    ["doctor"],
)

pytestmark = pytest.mark.processes


def cos2p(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BARE, *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


def document(done: subprocess.CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    assert code == done.returncode, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def first_worker(home: Path, fits: Callable[[dict[str, Any]], bool]) -> str:
    """A worker of the run: which of them start in time is the machine's."""
    rows = document(cos2p("status", "--bus", "run", "--json", cwd=home))["workers"]
    return next(str(row["worker_id"]) for row in rows if fits(row))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in `run`."""
    folder = tmp_path_factory.mktemp("home")
    ring = Ring(f"sqlite:{folder}/run", "cos2p", folder)

    async def body() -> None:
        await ring.request(config(), table())
        ring.start_all(worker_count=3)
        await ring.wait_for_end()
        await ring.bus.close()

    try:
        asyncio.run(body())
    finally:
        ring.stop_all()
    return folder


@pytest.fixture
def archive(home: Path, tmp_path: Path) -> Path:
    file = tmp_path / "run.sqlite"
    document(cos2p("archive", "--bus", str(home / "run"), "--out", str(file), "--json", cwd=home))
    return file


def test_status_tells_people_and_programs_the_same(home: Path) -> None:
    text = cos2p("status", "--bus", "run", cwd=home)
    found = document(cos2p("status", "--bus", "run", "--json", cwd=home))

    assert "version 6/6" in text.stdout
    assert ("finished", 6, 6) == (found["phase"], found["version"], found["target"])
    assert found["plans"]["issued"] == sum(found["plans"]["outcomes"].values())
    assert all(w["worker_id"] in text.stdout for w in found["workers"])


def test_following_a_finished_run_ends_at_once(home: Path) -> None:
    done = cos2p("status", "--bus", "run", "--follow", cwd=home)

    assert 0 == done.returncode
    assert "finished" in done.stdout


def test_a_run_replays_to_the_same_bytes_in_any_number_of_shards(home: Path) -> None:
    one = document(cos2p("replay", "--bus", "run", "--json", cwd=home))
    four = document(cos2p("replay", "--bus", "run", "--shards", "4", "--json", cwd=home))

    assert 7 == one["compared_count"]
    assert [v["digest"] for v in one["versions"]] == [v["digest"] for v in four["versions"]]


def test_replay_until_a_version_stops_there(home: Path) -> None:
    found = document(cos2p("replay", "--bus", "run", "--until", "3", "--json", cwd=home))

    assert 3 == found["versions"][-1]["version"]


def test_a_what_if_is_told_beside_the_run_itself(home: Path) -> None:
    merged = first_worker(home, lambda row: row["outcomes"]["accepted"] > 0)
    text = cos2p("replay", "--bus", "run", "--without", merged, cwd=home)
    found = document(cos2p("replay", "--bus", "run", "--without", merged, "--json", cwd=home))
    late = document(cos2p("replay", "--bus", "run", "--staleness", "constant", "--json", cwd=home))

    assert "another model" in text.stdout
    assert "→" in text.stdout
    was, now = found["run"]["versions"][-1], found["versions"][-1]
    assert was["digest"] != now["digest"]
    assert now["weight_sum"] <= was["weight_sum"]
    assert late["what_if"]


def test_an_archive_keeps_offsets_timestamps_keys_and_headers(home: Path, archive: Path) -> None:
    def rows(file: Path) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
            return db.execute(
                "SELECT topic, partition, offset, timestamp_s, key, headers, byte_count FROM log"
                " ORDER BY topic, partition, offset"
            ).fetchall()

    assert [archive.name] == [p.name for p in archive.parent.iterdir()]
    assert rows(home / "run/log.sqlite") == rows(archive)


def test_an_archive_replays_and_is_examined_like_the_run(home: Path, archive: Path) -> None:
    replayed = document(cos2p("replay", "--bus", str(archive), "--json", cwd=home))
    status = document(cos2p("status", "--bus", f"sqlite:{archive}", "--json", cwd=home))
    doctor = document(cos2p("doctor", "--bus", str(archive), "--json", cwd=home))

    assert 7 == replayed["compared_count"]
    assert 6 == status["version"]
    assert 0 == doctor["exit_code"]


def test_an_archive_is_never_written_over(home: Path, archive: Path) -> None:
    done = cos2p("archive", "--bus", "run", "--out", str(archive), cwd=home)

    assert 2 == done.returncode
    assert "exists already" in done.stderr


def test_a_log_that_was_changed_diverges_with_code_6_and_names_version_and_unit(
    home: Path, archive: Path
) -> None:
    with closing(sqlite3.connect(archive)) as db:
        place, value = db.execute(
            "SELECT place, records.value FROM records"
            " JOIN partitions ON partitions.id = place >> 40"
            " WHERE topic = 'cos2p-updates' ORDER BY place LIMIT 1"
        ).fetchone()
        changed = value[:-2] + bytes([value[-2] ^ 1]) + value[-1:]
        db.execute("UPDATE records SET value = ? WHERE place = ?", (changed, place))
        db.commit()

    text = cos2p("replay", "--bus", str(archive), cwd=home)
    found = document(cos2p("replay", "--bus", str(archive), "--json", cwd=home), code=6)

    assert 6 == text.returncode
    assert 1 == len(text.stderr.strip().splitlines())
    for message in (text.stderr, found["error"]):
        assert "version" in message
        assert "block" in message


def test_topics_are_listed_with_what_is_needed_and_there(home: Path) -> None:
    found = document(cos2p("topics", "list", "--bus", "run", "--json", cwd=home))

    assert len(CATALOGUE) == len(found["topics"])
    assert {"ok"} == {t["state"] for t in found["topics"]}
    weighed = {t["name"].removeprefix("cos2p-") for t in found["topics"] if t["byte_count"] > 0}
    assert {t.name for t in CATALOGUE} - {"heartbeats", "snapshots", "dead-letters"} == weighed


def test_topics_can_be_created_and_a_second_time_does_no_harm(tmp_path: Path) -> None:
    for _ in range(2):
        found = document(cos2p("topics", "create", "--bus", "new", "--json", cwd=tmp_path))
        assert {"ok"} == {t["state"] for t in found["topics"]}


def test_missing_topics_end_with_the_code_of_the_bus(home: Path) -> None:
    done = cos2p("topics", "list", "--bus", "run", "--prefix", "other", cwd=home)

    assert 3 == done.returncode
    assert "topics create" in done.stderr


def test_the_doctor_finds_a_finished_run_healthy(home: Path) -> None:
    done = cos2p("doctor", "--bus", "run", cwd=home)

    assert 0 == done.returncode
    assert "FAIL" not in done.stdout
    assert "finished at version 6" in done.stdout


def test_stopping_a_finished_run_is_an_error(home: Path) -> None:
    done = cos2p("stop", "--bus", "run", cwd=home)

    assert 2 == done.returncode
    assert "has ended already" in done.stderr


def test_a_running_run_admits_a_device_when_asked_and_stops_when_asked(tmp_path: Path) -> None:
    ring = Ring(f"sqlite:{tmp_path}/run", "cos2p", tmp_path)

    async def begin() -> None:
        await ring.request(config(versions=5000), table())
        ring.start_all(worker_count=2)

    async def end() -> str:
        return (await ring.wait_for_end()).reason

    try:
        asyncio.run(begin())
        deadline = time.monotonic() + 60
        while document(cos2p("status", "--bus", "run", "--json", cwd=tmp_path))["version"] < 1:
            assert time.monotonic() < deadline
        unknown = cos2p("admit", "worker-77", "--bus", "run", cwd=tmp_path)
        assert (2, True) == (unknown.returncode, "no device 'worker-77'" in unknown.stderr)
        there = first_worker(tmp_path, lambda row: True)
        admitted = document(cos2p("admit", there, "--bus", "run", "--json", cwd=tmp_path))
        assert there == admitted["worker_id"]
        done = cos2p("stop", "--bus", "run", "--reason", "enough", "--json", cwd=tmp_path)
        assert document(done)["asked"]
        assert "stopped" == asyncio.run(end())
    finally:
        ring.stop_all()


# ------------------------------------------------------------ errors


def test_a_place_without_a_run_is_not_created_and_the_next_runs_are_named(home: Path) -> None:
    done = cos2p("status", "--bus", "nowhere", cwd=home)

    assert 2 == done.returncode
    assert not (home / "nowhere").exists()
    assert 1 == len(done.stderr.strip().splitlines())


def test_a_broker_that_is_not_there_is_named_with_its_cause(tmp_path: Path) -> None:
    done = cos2p(
        "doctor",
        "--bus",
        "kafka://127.0.0.1:9",
        "--json",
        cwd=tmp_path,
        COS2P_KAFKA_TIMEOUT_S="1",
    )

    found = document(done, code=3)
    bus = next(c for c in found["checks"] if c["name"] == "bus")
    assert "127.0.0.1:9" in bus["text"]
    assert "refused" in bus["text"]


def test_an_unknown_variable_is_an_error_with_the_closest_name(home: Path) -> None:
    done = cos2p("status", "--json", cwd=home, COS2P_PERFIX="x")

    assert "COS2P_PREFIX" in document(done, code=2)["error"]


def test_bus_and_prefix_may_come_from_the_environment(home: Path) -> None:
    done = cos2p("status", "--json", cwd=home, COS2P_BUS="sqlite:run", COS2P_PREFIX="cos2p")

    assert 6 == document(done)["version"]


@pytest.mark.parametrize(
    "command", [["demo"], ["init", "--task", "digits"], ["export", "--bus", "run", "--out", "x"]]
)
def test_what_needs_torch_names_the_extra_that_brings_it(home: Path, command: list[str]) -> None:
    done = cos2p(*command, cwd=home)

    assert 2 == done.returncode
    assert "extra `worker`" in done.stderr


def test_the_report_names_the_extra_that_brings_what_draws_it(home: Path) -> None:
    done = cos2p("report", "--bus", "run", cwd=home)

    assert 2 == done.returncode
    assert "extra `report`" in done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_each_command_has_an_example(command: list[str], tmp_path: Path) -> None:
    done = cos2p(*command, "--help", cwd=tmp_path)

    assert 0 == done.returncode
    assert f"cos2p {' '.join(command)}" in done.stdout.split("Example")[1]


def test_the_help_lists_what_exit_codes_mean(tmp_path: Path) -> None:
    done = cos2p("--help", cwd=tmp_path)

    assert "6  a replay gave other bytes than the run" in done.stdout


def test_help_starts_without_the_packages_of_services(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['cos2p', '--help']\n"
        "from cos2p_cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'pydantic', 'aiokafka', 'structlog'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )

    assert "[]" == done.stdout.strip().splitlines()[-1]
