"""`python -m cos2p_sim --seed N` runs one simulated case and prints what happened.

Invariant: it runs the same case as the tests, so a seed that fails there fails here too.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from typing import cast

import structlog

from cos2p.errors import Cos2pError, ExitCode
from cos2p.service.lifecycle import fail
from cos2p.service.logs import Log
from cos2p_aggregator.replay import ReplayResult
from cos2p_sim.checkers import InvariantError
from cos2p_sim.cluster import Cluster
from cos2p_sim.loop import START_S, SimulationHangsError, run_virtual
from cos2p_sim.scenario import draw_case, load_scenario


def verbose_log() -> Log:
    """Return a logger that writes to standard error with virtual times."""

    def stamp(
        logger: object, name: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["t"] = f"{asyncio.get_running_loop().time() - START_S:.3f}"
        return event

    processors: list[structlog.typing.Processor] = [
        stamp,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(),
    ]
    logger = structlog.PrintLogger(sys.stderr)
    return cast(Log, structlog.wrap_logger(logger, processors=processors))


def summary(ended: Cluster, found: ReplayResult) -> dict[str, object]:
    """Return what happened as plain values."""
    history = ended.log.checker.history
    assert history.ended is not None
    return {
        "seed": ended.case.seed,
        "ended": str(history.ended.reason),
        "detail": history.ended.detail,
        "versions": history.version,
        "shards": history.shards,
        "devices": ended.case.device_count,
        "plans": len(history.plans),
        "outcomes": dict(Counter(str(outcome) for outcome in history.plan_ends.values())),
        "records_judged": ended.log.checker.record_count,
        "decisions_fenced": ended.log.checker.fenced_count,
        "kills": ended.kill_count,
        "restarts": ended.restart_count,
        "faults": vars(ended.faults),
        "virtual_s": round(ended.seconds, 3),
        "replayed": found.compared_count,
        "fingerprint": ended.log.fingerprint(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return the process's exit code."""
    parser = argparse.ArgumentParser(
        "cos2p_sim", description="Run one seeded case of a scenario with all checks on."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenario", default="lossy", help="a file of scenarios/ (lossy)")
    parser.add_argument("--verbose", action="store_true", help="print the log lines of the roles")
    given = parser.parse_args(arguments)
    try:
        case = draw_case(load_scenario(given.scenario), given.seed)
        cluster = Cluster(case, verbose_log() if given.verbose else None)
        found = run_virtual(cluster.run())
    except Cos2pError as error:
        fail("cos2p_sim", error)
        return int(error.exit_code)
    except (InvariantError, SimulationHangsError) as error:
        print(f"cos2p_sim: seed {given.seed}: {error}", file=sys.stderr)
        return int(ExitCode.BUG)
    print(json.dumps(summary(cluster, found), indent=2))
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
