"""`cos2p topics`: what a run's topics should be and are; make those that are missing.

Invariant: listing reads and never writes; bytes are those of records in the small topics and of the
blobs that records refer to, so that no blob is read for them.
"""

import asyncio
import contextlib
from dataclasses import asdict, dataclass

from cos2p.errors import TopicMismatchError, TopicMissingError
from cos2p.history.follow import open_history
from cos2p.history.run import RunHistory
from cos2p.log.bus import Bus
from cos2p.log.topics import CATALOGUE, specs
from cos2p.model.cost import plain_bytes
from cos2p.run_config import RunConfig
from cos2p.settings import BusSettings
from cos2p_cli import figures, options


@dataclass
class TopicRow:
    """One topic, as it should be and as it is.

    Attributes:
        name: on the bus.
        needed: partitions that the run needs.
        actual: partitions that there are; 0 where it is missing.
        record_count: records kept.
        first_offset: the oldest kept in any partition; above 0, retention has removed some.
        byte_count: bytes, where the log tells.
    """

    name: str
    needed: int
    actual: int = 0
    record_count: int = 0
    first_offset: int = 0
    byte_count: int = 0

    @property
    def state(self) -> str:
        """`ok`, `missing` or `wrong partitions`."""
        if not self.actual:
            return "missing"
        return "ok" if self.actual == self.needed else "wrong partitions"


async def rows(bus: Bus, prefix: str, partitions: int | None = None) -> list[TopicRow]:
    """All topics of a run.

    Args:
        bus: where they are.
        prefix: of their names.
        partitions: of the blob topics; None takes the run's own setting, or the default.

    Raises:
        BusUnreachableError: no connection.
    """
    run = RunHistory()
    with contextlib.suppress(TopicMissingError):
        run = (await open_history(bus, prefix)).history
    wanted, sizes = partitions or run.config.partitions, run.state.byte_counts
    found = []
    for topic in CATALOGUE:
        row = TopicRow(topic.full_name(prefix), wanted if topic.partitioned else 1)
        row.byte_count = sizes.get(row.name, 0) + sizes.get(topic.name, 0)
        try:
            ends = await bus.end_offsets(row.name)
        except TopicMissingError:
            ends = {}
        row.actual = len(ends)
        row.record_count = sum(e.next - e.first for e in ends.values())
        row.first_offset = max((e.first for e in ends.values()), default=0)
        found.append(row)
    return found


def list_topics(settings: BusSettings, *, as_json: bool) -> None:
    """Print what there is.

    Raises:
        TopicMissingError, TopicMismatchError: after the list, where something is not as needed.
    """
    asyncio.run(_list(settings, as_json=as_json))


async def _list(settings: BusSettings, *, as_json: bool) -> None:
    async with options.opened(settings) as bus:
        found = await rows(bus, settings.prefix)
    if as_json:
        options.print_json({"topics": [{**asdict(r), "state": r.state} for r in found]})
        return
    _print(found)
    bad = [r for r in found if r.state != "ok"]
    if any(r.state == "missing" for r in bad):
        raise TopicMissingError(
            f"{figures.count(len(bad), 'topic')} missing, first {bad[0].name}: "
            "make them with `cos2p topics create`"
        )
    if bad:
        raise TopicMismatchError(
            f"{bad[0].name} has {bad[0].actual} partitions, the run needs {bad[0].needed}: "
            "take another --prefix"
        )


def create_topics(settings: BusSettings, *, partitions: int | None, as_json: bool) -> None:
    """Make the topics that are missing, then print what there is.

    Raises:
        TopicMismatchError: one exists with another number of partitions.
    """
    asyncio.run(_create(settings, partitions=partitions, as_json=as_json))


async def _create(settings: BusSettings, *, partitions: int | None, as_json: bool) -> None:
    async with options.opened(settings, must_exist=False) as bus:
        wanted = partitions or RunConfig().partitions
        await bus.create_topics(specs(settings.prefix, wanted))
        found = await rows(bus, settings.prefix, wanted)
    if as_json:
        options.print_json({"topics": [{**asdict(r), "state": r.state} for r in found]})
    else:
        _print(found)


def _print(found: list[TopicRow]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("topic", no_wrap=True)
    for name in ("partitions", "needed", "records", "bytes"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in found:
        note = row.state if row.state != "ok" else ""
        if row.first_offset:
            note = f"starts at offset {row.first_offset} {note}"
        table.add_row(
            row.name,
            str(row.actual),
            str(row.needed),
            f"{row.record_count:,}",
            plain_bytes(row.byte_count) if row.byte_count else "-",
            note,
        )
    Console().print(table)
