"""The `cos2p-aggregator` command.

Invariant: numpy's linear algebra runs on one thread here: its sums are too small to be worth a
second one, whose waiting would take processor time from the workers beside us.
"""

import os
import sys
from collections.abc import Sequence

from cos2p.service.lifecycle import role_parser, run_role, run_service
from cos2p.settings import AggregatorSettings
from cos2p_aggregator.memory import give_chunks_back

EPILOG = """\
Settings come from the environment too (COS2P_BUS, COS2P_PREFIX, COS2P_SHARD, COS2P_LOG_LEVEL, ...);
options come first. The aggregator waits until a run starts, and leaves when it has ended.

example:
  cos2p-aggregator --bus kafka://broker:9092 --prefix cos2p --shard 0
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one shard until its run has ended or a signal comes; the exit code."""
    what = "Holds one shard of a run's model: dispatches, merges and publishes it."
    parser = role_parser("aggregator", what, EPILOG)
    parser.add_argument("--shard", type=int, help="which shard of the model, from 0 (default 0)")
    return run_role("aggregator", parser, arguments, AggregatorSettings, serve)


def serve(settings: AggregatorSettings) -> int:
    """Run one shard with these settings; the exit code."""
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    # numpy reads those variables when it is imported, so it is imported after them.
    from cos2p_aggregator.shell import run_aggregator

    give_chunks_back()
    return run_service(
        "aggregator", settings, lambda context: run_aggregator(context, shard=settings.shard)
    )


if __name__ == "__main__":
    sys.exit(main())
