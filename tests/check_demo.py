"""Runs `cos2p demo` as a user would and checks what the README claims of it.

    python tests/check_demo.py [--kafka [HOST:PORT]]      (`make check-demo`)

With --kafka and no address a broker is started as the tests do. Exit status 1 names each claim
that does not hold.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ACCURACY_MIN = 0.90
ALONE_GAP_MIN = 0.05
SECONDS_MAX = 180.0
SHARE_MAX = 0.60
EXITS = 2


@contextmanager
def broker(folder: Path, given: str | None) -> Iterator[list[str]]:
    """The demo's arguments for the broker asked for: none, one given, or our own for the block."""
    if given != "own":
        yield ["--bus", f"kafka://{given}"] if given else []
        return
    from kafka_broker import KafkaCluster

    cluster = KafkaCluster(folder)
    cluster.up()
    try:
        yield ["--bus", f"kafka://{cluster.bootstrap}"]
    finally:
        cluster.stop_all()


def findings(shown: dict[str, Any]) -> Iterator[str]:
    """Each claim that does not hold."""
    accuracy = shown["accuracy"][-1]["accuracy"] if shown["accuracy"] else 0.0
    alone = shown["alone"]["best"]["accuracy"]
    print(
        f"accuracy {accuracy:.3f}, best alone {alone:.3f}, {shown['seconds']} s, "
        f"largest share held {shown['audit']['share_max']:.3f}, bus {shown['bus']}, "
        f"N* {shown['coverage']['n_star']}, exits {shown['accuracy'][-1]['exit_accuracies']}"
    )
    if accuracy < ACCURACY_MIN:
        yield f"accuracy {accuracy:.3f} is below {ACCURACY_MIN}"
    if alone > accuracy - ALONE_GAP_MIN:
        yield f"the best worker alone reaches {alone:.3f}: not clearly below {accuracy:.3f}"
    if shown["seconds"] > SECONDS_MAX:
        yield f"it took {shown['seconds']} s, more than {SECONDS_MAX:g}"
    if shown["coverage"]["n_star"] < 1:
        yield "a unit had no update in the last versions"
    if len(shown["accuracy"][-1]["exit_accuracies"]) != EXITS:
        yield f"not {EXITS} exits were judged"
    if shown["audit"]["share_max"] > SHARE_MAX + 1e-9:
        yield f"a worker held {shown['audit']['share_max']:.3f} of the prunable cost"
    if shown["audit"]["findings"]:
        yield f"the audit found {shown['audit']['findings']}"
    for row in shown["workers"]:
        if not row["outcomes"].get("accepted"):
            yield f"{row['worker_id']} had no update in any version"


def main() -> int:
    """Run, replay, judge."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--kafka", nargs="?", const="own", metavar="HOST:PORT")
    given = asked.parse_args()
    cos2p = str(Path(sys.executable).with_name("cos2p"))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with broker(folder / "broker", given.kafka) as extra:
            done = subprocess.run(
                [cos2p, "demo", "--json", "--no-progress", "--dir", f"{folder}/run", *extra],
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            if done.returncode:
                print(f"cos2p demo ended with exit code {done.returncode}")
                return 1
            shown = json.loads(done.stdout)
            wrong = list(findings(shown))
            replayed = subprocess.run(
                [cos2p, "replay", "--bus", shown["bus"], "--prefix", shown["prefix"]], check=False
            )
            if replayed.returncode:
                wrong.append(f"cos2p replay ended with exit code {replayed.returncode}")
    for line in wrong:
        print(f"NOT TRUE: {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
