"""Records the golden logs: small simulated runs, as archives.

    python tests/golden_logs/record.py        writes those that are missing, changes none

A program that comes later must replay each of them and resume it from any version. Nothing is
released yet, so a change of the protocol may delete them and record them again; from the first
release on they stay.
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from cos2p.log.archive import copy, extent_of
from cos2p_sim.cluster import PREFIX, Cluster
from cos2p_sim.loop import run_virtual
from cos2p_sim.scenario import draw_case, load_scenario

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Golden:
    """One golden log.

    Attributes:
        name: of its file.
        scenario: of the simulator.
        seed: of the case.
        about: what it is there for.
    """

    name: str
    scenario: str
    seed: int
    about: str

    @property
    def file(self) -> Path:
        """Where it lies."""
        return FOLDER / f"{self.name}.sqlite"


GOLDEN = (
    Golden("semi-async", "calm", 4, "nothing goes wrong, one shard"),
    Golden("synchronous-shards", "barrier", 1, "a barrier, several shards"),
    Golden("kills", "lossy", 5, "every role is killed; planners start from snapshots"),
)


def recorded(golden: Golden) -> Cluster:
    """The run."""
    ended = Cluster(draw_case(load_scenario(golden.scenario), golden.seed))
    run_virtual(ended.run())
    return ended


async def _archive(ended: Cluster, file: Path) -> None:
    await copy(ended.log, PREFIX, await extent_of(ended.log, PREFIX), file)


def main() -> None:
    """Write what is missing."""
    for golden in GOLDEN:
        if not golden.file.exists():
            ended = recorded(golden)
            asyncio.run(_archive(ended, golden.file))
            shards = ended.case.config.merge.shards
            sys.stdout.write(
                f"wrote {golden.file}: {ended.log.checker.history.version} versions, {shards} "
                f"shards, {ended.kill_count} kills, {golden.file.stat().st_size:,} bytes\n"
            )


if __name__ == "__main__":
    main()
