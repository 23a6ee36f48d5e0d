"""The `cos2p-aggregator` command.

Invariant: numpy's linear algebra runs on one thread here. Its sums are too small to be worth a
second thread. While waiting, that thread would take processor time from the workers next to it.
"""

import os
import sys
from collections.abc import Sequence

# OpenBLAS reads these when numpy is first imported, which our own modules do.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from cos2p.service.lifecycle import role_parser, run_role, run_service  # noqa: E402
from cos2p.settings import AggregatorSettings  # noqa: E402
from cos2p_aggregator.memory import give_chunks_back  # noqa: E402
from cos2p_aggregator.shell import run_aggregator  # noqa: E402

EPILOG = """\
Settings come from the environment too (COS2P_BUS, COS2P_PREFIX, COS2P_SHARD, COS2P_LOG_LEVEL, ...);
options come first. The aggregator waits until a run starts, and leaves when it has ended.

example:
  cos2p-aggregator --bus kafka://broker:9092 --prefix cos2p --shard 0
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one shard until its run has ended or a signal comes, and return the exit code."""
    what = "Holds one shard of a run's model: dispatches, merges and publishes it."
    parser = role_parser("aggregator", what, EPILOG)
    parser.add_argument("--shard", type=int, help="which shard of the model, from 0 (default 0)")
    return run_role("aggregator", parser, arguments, AggregatorSettings, serve)


def serve(settings: AggregatorSettings) -> int:
    """Run one shard with these settings, and return the exit code."""
    give_chunks_back()
    return run_service(
        "aggregator", settings, lambda context: run_aggregator(context, shard=settings.shard)
    )


if __name__ == "__main__":
    sys.exit(main())
