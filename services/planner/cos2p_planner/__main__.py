"""`cos2p-planner`: the process. Settings from the environment, the flags below before them."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from cos2p.bus import Bus
from cos2p.clock import Clock
from cos2p.errors import Cos2pError
from cos2p.logs import Log
from cos2p.monitoring.watch import Watch
from cos2p.service import fail, run_service
from cos2p.settings import PlannerSettings, load_settings
from cos2p_planner.shell import run_planner
from cos2p_planner.signed import checker_of

EXAMPLE = """example:
  cos2p-planner --bus kafka://broker:9092 --prefix digits
  COS2P_BUS=sqlite:runs/digits cos2p-planner
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the planner until its run ends; the exit code."""
    parser = argparse.ArgumentParser(
        prog="cos2p-planner",
        description="Decides who trains what, which update counts, and when a version closes.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bus", help="kafka://HOST:PORT or sqlite:PATH (COS2P_BUS)")
    parser.add_argument("--prefix", help="prefix of the topics' names (COS2P_PREFIX)")
    parser.add_argument("--planner-id", help="name in the log (COS2P_PLANNER_ID)")
    given = parser.parse_args(argv)
    try:
        settings = load_settings(PlannerSettings, **vars(given))
    except Cos2pError as error:
        fail("planner", error)
        return int(error.exit_code)

    async def body(bus: Bus, clock: Clock, log: Log, stop: asyncio.Event, watch: Watch) -> None:
        await run_planner(
            bus,
            clock,
            log,
            stop,
            prefix=settings.prefix,
            planner_id=settings.planner_id,
            run_id=settings.run_id,
            watch=watch,
            checker=checker_of(
                settings.keys_file, lambda text: log.warning("register_kept", reason=text)
            ),
        )

    return run_service("planner", settings, body)


if __name__ == "__main__":
    sys.exit(main())
