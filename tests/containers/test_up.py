"""`cos2p up` and `down` on a Docker engine: real images, real Kafka, real limits.

The tests of a file share one ring and run in their order; another set of images is chosen by
COS2P_TEST_IMAGE_TAG and COS2P_TEST_KAFKA_IMAGE.
"""

import asyncio
import gc
import json
import os
import re
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from check_demo import ACCURACY_MIN

from cos2p.clock import SystemClock
from cos2p.history.follow import HistoryReader
from cos2p.service.open_bus import open_bus
from cos2p.settings import BusSettings
from cos2p_cli.containers.classes import BUILT_IN
from cos2p_cli.containers.specs import KAFKA_IMAGE, NAME

pytestmark = pytest.mark.docker

COS2P = str(Path(sys.executable).with_name("cos2p"))
TAG = os.environ.get("COS2P_TEST_IMAGE_TAG", metadata.version("cos2p"))
KAFKA = os.environ.get("COS2P_TEST_KAFKA_IMAGE", KAFKA_IMAGE)
ROOM_BYTES = 45_000_000
"""What a small device has beside PyTorch: of the long run's 80 MB, more than the smallest 12."""
LONG_RUN = """
[plans.growth]
start = 1.0
[local]
batch_size = 2048
steps = 2
[rounds]
versions = 100000
[liveness]
heartbeat_s = 1.0
lost_after_s = 10.0
"""
"""Large batches, so that memory decides what a device may hold."""
SLOW_RUN = LONG_RUN.replace("steps = 2", "steps = 4000")
"""A plan takes a minute or more: one after another is lost."""


@dataclass
class Ring:
    """One ring, by the command line."""

    name: str
    engine: Any
    address: str = ""
    run: str = ""

    def up(self, *options: str, fine: bool = True) -> Any:
        done = self._cos2p(
            *("up", "--name", self.name, "--image-tag", TAG, "--kafka-image", KAFKA),
            *("--timeout", "120", *options),
        )
        assert fine == (done.returncode == 0), done.stderr
        shown = json.loads(done.stdout)
        self.address = shown.get("bus", self.address)
        self.run = shown.get("run_id", self.run)
        return shown

    def down(self, *options: str) -> Any:
        done = self._cos2p("down", "--name", self.name, *options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def worker(self, name: str) -> dict[str, Any]:
        """What `cos2p status` says of a worker; empty if it has never been there."""
        done = self._cos2p("status", "--bus", self.address, "--prefix", self.run)
        rows: list[dict[str, Any]] = json.loads(done.stdout)["workers"]
        return next((r for r in rows if r["worker_id"] == f"{self.name}-worker-{name}"), {})

    def state(self, name: str) -> dict[str, Any]:
        """What Docker says of a worker's container."""
        found: dict[str, Any] = self.engine.api.inspect_container(f"{self.name}-worker-{name}")
        return found

    def await_worker(
        self, name: str, holds: Callable[[dict[str, Any]], bool], within_s: float = 60
    ) -> dict[str, Any]:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            row = self.worker(name)
            if row and holds(row):
                return row
            time.sleep(1)
        raise AssertionError(f"{name} after {within_s:g} s: {self.worker(name)}")

    def plan_bytes(self, name: str) -> int:
        """Forecast peak of the newest plan of a worker that has one now and then."""
        worker_id = f"{self.name}-worker-{name}"

        async def read() -> int:
            bus = open_bus(BusSettings(bus=self.address, prefix=self.run), SystemClock())
            try:
                reader = HistoryReader(bus, self.run)
                for _ in range(100):
                    await reader.poll(wait_s=0.3)
                    plan_id = reader.history.devices[worker_id].plan_id
                    if plan_id:
                        return reader.history.state.plans[plan_id].peak_bytes
            finally:
                await bus.close()
            raise AssertionError(f"{worker_id} has no plan")

        return asyncio.run(read())

    def use_up_memory(self, name: str) -> None:
        """Ask for more than the limit leaves, less than the worker has: it is what is killed."""
        hog = ["python", "-c", "x = b'x' * (300 << 20)"]
        self.engine.containers.get(f"{self.name}-worker-{name}").exec_run(hog)

    def containers(self) -> list[str]:
        found = self.engine.containers.list(all=True, filters={"label": f"{NAME}={self.name}"})
        return sorted(c.name.removeprefix(f"{self.name}-") for c in found)

    def _cos2p(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COS2P, *arguments, "--json"], capture_output=True, text=True, check=False, timeout=240
        )


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """Docker's client, where there are an engine and all images."""
    import docker

    why = ""
    with warnings.catch_warnings():
        # Docker's SDK leaves its socket open where no engine answers.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.from_env(timeout=60)
        except docker.errors.DockerException as error:
            why = f"no Docker engine answers: {error}"
        gc.collect()
    if why:
        do_without(why)
    images = (f"co-s2p-core:{TAG}", f"co-s2p-worker:{TAG}", KAFKA)
    lacking = [image for image in images if not client.images.list(name=image)]
    if lacking:
        client.close()
        do_without(f"images are missing: {', '.join(lacking)} (docs/operations.md)")
    yield client
    client.close()


@pytest.fixture(scope="module")
def ring(engine: Any) -> Iterator[Ring]:
    """The ring that the tests share; nothing of it stays."""
    made = Ring(f"t{uuid.uuid4().hex[:8]}", engine)
    yield made
    made.down("--volumes")


@pytest.fixture(scope="module")
def long_run(ring: Ring, tmp_path_factory: pytest.TempPathFactory) -> Ring:
    """A run that does not end by itself, with one large device."""
    file = tmp_path_factory.mktemp("run") / "run.toml"
    file.write_text(LONG_RUN)
    ring.up("--workers", "orin=1", "--parts", "4", "--config", str(file))
    return ring


def do_without(why: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def accepted(row: dict[str, Any]) -> int:
    count: int = row["outcomes"]["accepted"]
    return count


def at_work_after(starts: int) -> Callable[[dict[str, Any]], bool]:
    return lambda row: (row["starts"], row["state"]) == (starts, "training")


@pytest.mark.parametrize("image", ["co-s2p-core", "co-s2p-worker"])
def test_an_image_holds_no_secret_in_its_history_or_environment(image: str) -> None:
    name = f"{image}:{TAG}"
    shown = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.lower()
        for command in (
            ["docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", name],
            ["docker", "image", "inspect", "--format", "{{json .Config}}", name],
        )
    ]
    secret = re.compile(r"passw|secret|token|private key|://[^/ ]+:[^/ ]+@")

    assert not secret.findall("".join(shown))


def test_a_ring_of_containers_trains_the_digits_to_their_end(engine: Any) -> None:
    ring = Ring(f"t{uuid.uuid4().hex[:8]}", engine)
    try:
        shown = ring.up("--workers", "orin=2,nano=2", "--parts", "4", "--follow")
    finally:
        ring.down("--volumes")

    assert ("finished", "target") == (shown["phase"], shown["end"]["reason"])
    assert shown["accuracy"][-1]["accuracy"] >= ACCURACY_MIN
    assert all(accepted(row) > 0 for row in shown["workers"])


def test_asked_again_every_container_stays(long_run: Ring) -> None:
    assert {"kept"} == {c["did"] for c in long_run.up()["containers"]}


def test_a_worker_has_its_limits_and_no_rights(long_run: Ring) -> None:
    found = long_run.state("orin-0")
    host = found["HostConfig"]

    assert BUILT_IN["orin"].memory_bytes == host["Memory"] == host["MemorySwap"]
    assert (True, ["ALL"], ["no-new-privileges"]) == (
        host["ReadonlyRootfs"],
        host["CapDrop"],
        host["SecurityOpt"],
    )
    assert "10001:10001" == found["Config"]["User"]
    assert {} == host["PortBindings"]
    assert [long_run.name] == list(found["NetworkSettings"]["Networks"])


def test_a_class_with_a_small_limit_gets_fewer_units_than_a_large_one(long_run: Ring) -> None:
    large = long_run.await_worker("orin-0", lambda row: accepted(row) > 2)
    torch_bytes = BUILT_IN["orin"].memory_bytes - large["memory_bytes"]

    long_run.up("--workers", f"tiny=1:{torch_bytes + ROOM_BYTES}:1")
    small = long_run.await_worker("tiny-0", lambda row: accepted(row) > 2)

    assert small["memory_bytes"] < 2 * ROOM_BYTES
    assert 0 < small["units_held_max"] < large["units_held_max"]


def test_workers_are_scaled_up_and_down_and_the_others_stay(long_run: Ring) -> None:
    before = long_run.state("orin-0")["Id"]

    long_run.up("--workers", "orin=2")
    long_run.await_worker("orin-1", lambda row: accepted(row) > 0)
    shown = long_run.up("--workers", "orin=1")

    assert {"removed"} == {c["did"] for c in shown["containers"] if "orin-1" in c["name"]}
    assert "left" == long_run.worker("orin-1")["state"]
    assert before == long_run.state("orin-0")["Id"]
    assert "worker-orin-1" not in long_run.containers()


def test_a_worker_that_is_killed_comes_back_and_trains(long_run: Ring) -> None:
    before = long_run.worker("orin-0")
    process = long_run.state("orin-0")["State"]["Pid"]
    assert process > 0
    try:
        os.kill(process, 9)
    except (PermissionError, ProcessLookupError) as error:
        do_without(f"a container's process can only be killed by root on its machine: {error}")

    after = long_run.await_worker("orin-0", lambda row: row["starts"] > before["starts"])
    long_run.await_worker("orin-0", lambda row: accepted(row) > accepted(after))


def test_a_worker_that_its_limit_kills_comes_back_and_trains(long_run: Ring) -> None:
    before = long_run.worker("tiny-0")
    long_run.use_up_memory("tiny-0")

    after = long_run.await_worker("tiny-0", lambda row: row["starts"] > before["starts"])
    long_run.await_worker("tiny-0", lambda row: accepted(row) > accepted(after))

    assert long_run.state("tiny-0")["State"]["OOMKilled"]


def test_a_lower_limit_makes_smaller_plans(long_run: Ring) -> None:
    before, bytes_before = long_run.worker("tiny-0"), long_run.plan_bytes("tiny-0")
    limit = long_run.state("tiny-0")["HostConfig"]["Memory"]

    long_run.up("--workers", f"tiny=1:{limit - 20_000_000}:1")
    after = long_run.await_worker("tiny-0", lambda row: accepted(row) > accepted(before) + 2)

    assert after["memory_bytes"] < before["memory_bytes"]
    assert long_run.plan_bytes("tiny-0") < bytes_before


def test_a_limit_that_holds_no_worker_is_told_as_that(long_run: Ring) -> None:
    shown = long_run.up("--workers", "dwarf=1:150m:1", fine=False)

    assert 2 == shown["exit_code"]
    assert f"{long_run.name}-worker-dwarf-0" in shown["error"]
    assert "memory" in shown["error"]


def test_down_leaves_nothing_but_the_log_and_up_goes_on_from_there(long_run: Ring) -> None:
    shown = long_run.down()

    assert "kept" == shown["volume"]
    assert [] == long_run.containers()
    assert [] == long_run.engine.networks.list(names=[long_run.name])

    again = long_run.up("--workers", "orin=1", "--task", "digits")

    assert again["version"] > 0
    assert 4 == again["parts"]


def test_a_worker_that_its_limit_kills_in_plan_after_plan_is_asked_for_less(
    long_run: Ring, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(SLOW_RUN)
    slow = ("--run-id", f"{long_run.name}-slow", "--config", str(file))
    long_run.up("--workers", "orin=0,small=1:750m:1", *slow)
    sizes = []
    for starts in (1, 2, 3):
        long_run.await_worker("small-0", at_work_after(starts))
        sizes.append(long_run.plan_bytes("small-0"))
        long_run.use_up_memory("small-0")

    assert sizes[0] == sizes[1]
    assert sizes[2] <= 0.8 * sizes[1]


def test_down_with_volumes_leaves_nothing(long_run: Ring) -> None:
    shown = long_run.down("--volumes")

    assert "removed" == shown["volume"]
    assert [] == [v for v in long_run.engine.volumes.list() if v.name.startswith(long_run.name)]
