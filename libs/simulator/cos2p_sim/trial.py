"""One case from its start to its replay: what the tests and the command line run.

Invariant: a case that returns has kept every rule, and its log replays to the digests it published.
"""

from collections import Counter

from cos2p.service.logs import Log
from cos2p_aggregator.replay import ReplayResult, replay
from cos2p_sim.cluster import PREFIX, Cluster, Ended
from cos2p_sim.scenario import Case


async def run_case(case: Case, log: Log | None = None) -> tuple[Ended, ReplayResult]:
    """Run a case to its end and replay it.

    Raises:
        InvariantError: a rule is broken.
        DivergedError: the replay's digests are not those published.
    """
    ended = await Cluster(case, log).run()
    found = await replay(ended.log, PREFIX)
    found.check()
    return ended, found


def summary(ended: Ended, found: ReplayResult) -> dict[str, object]:
    """What happened, as plain values."""
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
        "outcomes": dict(Counter(str(e.outcome) for e in history.endings.values())),
        "records_judged": ended.log.checker.record_count,
        "decisions_fenced": ended.log.checker.fenced_count,
        "kills": ended.kill_count,
        "restarts": ended.restart_count,
        "faults": vars(ended.faults),
        "virtual_s": round(ended.seconds, 3),
        "replayed": found.compared_count,
        "fingerprint": ended.fingerprint(),
    }
