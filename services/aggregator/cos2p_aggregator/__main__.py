"""The `cos2p-aggregator` command.

Invariant: numpy's linear algebra runs on one thread here: its sums are too small to be worth a
second one, whose waiting would take processor time from the workers beside us.
"""

import argparse
import os
import sys

from cos2p.errors import ExitCode, SettingsError
from cos2p.service import fail, run_service
from cos2p.settings import AggregatorSettings, load_settings
from cos2p_aggregator.memory import give_chunks_back

EPILOG = """\
Settings come from the environment too (COS2P_BUS, COS2P_PREFIX, COS2P_SHARD, COS2P_LOG_LEVEL, ...);
options come first. The aggregator waits until a run starts, and leaves when it has ended.

example:
  cos2p-aggregator --bus kafka://broker:9092 --prefix cos2p --shard 0
"""


def main(arguments: list[str] | None = None) -> None:
    """Run one shard until its run has ended or a signal comes; ends the process."""
    parser = argparse.ArgumentParser(
        "cos2p-aggregator",
        description="Holds one shard of a run's model: dispatches, merges and publishes it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bus", help="kafka://HOST:PORT[,HOST:PORT] or sqlite:PATH")
    parser.add_argument("--prefix", help="prefix of the topics' names (default cos2p)")
    parser.add_argument("--shard", type=int, help="which shard of the model, from 0 (default 0)")
    given = parser.parse_args(arguments)
    try:
        settings = load_settings(AggregatorSettings, **vars(given))
    except SettingsError as error:
        fail("aggregator", error)
        sys.exit(int(ExitCode.USAGE))
    sys.exit(serve(settings))


def serve(settings: AggregatorSettings) -> int:
    """Run one shard with these settings; the process's exit code."""
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    # numpy reads those variables when it is imported, so it is imported after them.
    from cos2p_aggregator.shell import run_aggregator

    give_chunks_back()
    return run_service(
        "aggregator",
        settings,
        lambda bus, clock, log, stop, _: run_aggregator(
            bus,
            clock,
            log,
            stop,
            prefix=settings.prefix,
            shard=settings.shard,
            run_id=settings.run_id,
        ),
    )


if __name__ == "__main__":
    main()
