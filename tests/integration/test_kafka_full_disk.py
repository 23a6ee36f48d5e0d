"""The disk of a Kafka is full: what services say, how they end, and that nothing is lost."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ring import Ring, config, table

from cos2p.errors import ExitCode
from cos2p.log import messages as m
from cos2p.log.topics import DECISIONS

if TYPE_CHECKING:
    from kafka_broker import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.processes, pytest.mark.slow]

DISK_BYTES = 128 << 20
OF_FULL_DISKS = ("No space left on device", "java.lang.InternalError: a fault occurred")
"""What a broker logs then: on a write, or where a page of a memory-mapped index finds no room."""
PATIENCE_S = 5
"""Of the services, so that the test need not wait half a minute for them."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, where the first broker of the test keeps its data."""
    folder = tmp_path / "kafka-0" / "data-1"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    if os.geteuid() != 0:
        pytest.skip("only root may mount the small disk that this test fills")
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine mounts no small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Write until the disk is full; the file that fills it."""
    filler = disk / "filler"
    with filler.open("wb") as out:
        try:
            while True:
                out.write(bytes(1 << 16))
                out.flush()
        except OSError:
            pass
    return filler


@pytest.fixture
def cluster(disk: Path, kafka_cluster: Callable[..., "KafkaCluster"]) -> "KafkaCluster":
    """One broker on the small disk."""
    return kafka_cluster()


@pytest.fixture
def ring(cluster: "KafkaCluster", tmp_path: Path) -> Iterator[Ring]:
    def access(who: str) -> Mapping[str, str]:
        return {} if who == "operator" else {"kafka_timeout_s": str(PATIENCE_S)}

    ring = Ring(f"kafka://{cluster.bootstrap}", "site", tmp_path, access=access)
    yield ring
    ring.stop_all()


def test_services_end_by_name_on_a_full_disk_and_go_on_when_it_has_space(
    ring: Ring, cluster: "KafkaCluster", disk: Path
) -> None:
    async def body() -> None:
        await ring.request(config(versions=12), table())
        ring.start_all(worker_count=2)
        await ring.wait_for(DECISIONS, lambda x: isinstance(x, m.RoundClosed), count=3)

        filler = fill(disk)
        codes = {name: process.wait(120) for name, process in ring.processes.items()}
        assert dict.fromkeys(codes, ExitCode.BUS) == codes, ring.errors()
        for name in codes:
            role = name.partition("-")[0]
            (line,) = (ring.folder / f"{name}.err").read_text().splitlines()
            assert line.startswith(f"{role}: can't reach Kafka at {cluster.bootstrap}: "), line
        broker_log = (cluster.folder / "broker-1.log").read_text()
        assert any(sentence in broker_log for sentence in OF_FULL_DISKS), broker_log

        filler.unlink()
        await asyncio.to_thread(cluster.stop, 1)
        await asyncio.to_thread(cluster.start, 1)
        before = len(await ring.log(DECISIONS))
        ring.start_all(worker_count=2)  # as their supervisor does
        ended = await ring.wait_for_end(120)

        assert "target" == ended.reason, ended.detail
        assert before < len(await ring.log(DECISIONS))
        await ring.check_history()
        await ring.check_replay()
        await ring.bus.close()

    asyncio.run(body())
