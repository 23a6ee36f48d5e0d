"""The floor of one round: what a version costs when training costs nothing, on each bus."""

import asyncio
import statistics
import tempfile
from pathlib import Path

from ring import Ring, config, table
from rows import Row

from cos2p.clock import SystemClock
from cos2p.log import messages as m
from cos2p.log.mailbox import Mailbox
from cos2p.log.topics import DECISIONS

WORKERS = 4
VERSIONS = 60
WARM = 10
"""First versions left out: processes start one after another."""


def rows(bootstrap: str) -> list[Row]:
    """Median milliseconds between two RoundClosed records, all four workers in each version."""
    return [
        _row("SQLite", "sqlite:{folder}/run", 100.0),
        _row("Kafka", f"kafka://{bootstrap}", 150.0),
    ]


def _row(name: str, url: str, budget_ms: float) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        times = asyncio.run(_closings(url.format(folder=folder), Path(folder)))
    gaps = [1e3 * (b - a) for a, b in zip(times[WARM:], times[WARM + 1 :], strict=False)]
    median = statistics.median(gaps)
    return Row(
        f"round floor, tiny model, {WORKERS} workers, {name}",
        median,
        "ms",
        f"<= {budget_ms:g}",
        median <= budget_ms,
        f"median of {len(gaps)} versions, every worker in each; {min(gaps):.0f} to {max(gaps):.0f}",
    )


async def _closings(url: str, folder: Path) -> list[float]:
    prefix = f"bench-{int(SystemClock().now() * 1000)}"
    ring = Ring(url, prefix, folder, slowdown=1.0)
    try:
        run = config(versions=VERSIONS, update_fraction=1.0)
        await ring.request(run, table())
        ring.start_all(WORKERS)
        await ring.wait_for_end(120)
        mailbox = Mailbox(ring.bus, prefix, DECISIONS, reader="bench")
        return [
            letter.timestamp_s
            async for letter in mailbox.stream()
            if isinstance(letter.message, m.RoundClosed)
        ]
    finally:
        ring.stop_all()
        await ring.bus.close()
