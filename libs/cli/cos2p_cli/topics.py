"""`cos2p topics`: compares a run's topics with the catalogue and creates missing ones.

Invariants: listing reads and never writes. Bytes are those of records in the small topics, and
those of the blobs that these records refer to. No blob is read to count them.
"""

import contextlib
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from cos2p.errors import TopicMismatchError, TopicMissingError
from cos2p.history.follow import open_history
from cos2p.history.run import RunHistory
from cos2p.log.bus import Bus
from cos2p.log.topics import CATALOGUE, specs
from cos2p.model.cost import plain_bytes
from cos2p.run_config import RunConfig
from cos2p.settings import BusSettings
from cos2p_cli import options


@dataclass
class TopicRow:
    """One topic in its wanted and its actual state.

    Attributes:
        needed: the number of partitions that the run needs.
        actual: the number of partitions that exist; 0 where the topic is missing.
        first_offset: the highest first offset of a partition. Above 0, retention has removed
            records.
        byte_count: the number of bytes, where the log shows it.
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

    @property
    def fault(self) -> tuple[str, str]:
        """What is wrong with a topic that is not ok, and what to do."""
        if not self.actual:
            return f"{self.name} is missing", "create it with `cos2p topics create`"
        return (
            f"{self.name} has {self.actual} partitions, the run needs {self.needed}",
            "choose another --prefix, because the partitions of a run never change",
        )


async def rows(bus: Bus, prefix: str, partitions: int | None = None) -> list[TopicRow]:
    """Return all topics of a run.

    `partitions` is the wanted number of the blob topics. None takes the run's own setting, or the
    default.

    Raises:
        BusUnreachableError: there is no connection.
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


@options.blocking
async def list_topics(settings: BusSettings, *, as_json: bool) -> None:
    """Print the topics, then raise if one is not in order.

    Raises:
        TopicMissingError: a topic is missing.
        TopicMismatchError: a topic has another number of partitions.
    """
    async with options.opened(settings) as bus:
        found = await rows(bus, settings.prefix)
    _print(found, as_json=as_json)
    bad = [r for r in found if r.state != "ok"]
    if bad and not as_json:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        missing = any(r.state == "missing" for r in bad)
        text, advice = bad[0].fault
        raise (TopicMissingError if missing else TopicMismatchError)(f"{text}{more}: {advice}")


@options.blocking
async def create_topics(settings: BusSettings, *, partitions: int | None, as_json: bool) -> None:
    """Create the missing topics, then print all topics.

    Raises:
        TopicMismatchError: a topic exists with another number of partitions.
    """
    async with options.opened(settings, must_exist=False) as bus:
        wanted = partitions or RunConfig().partitions
        await bus.create_topics(specs(settings.prefix, wanted))
        found = await rows(bus, settings.prefix, wanted)
    _print(found, as_json=as_json)


def _print(found: list[TopicRow], *, as_json: bool) -> None:
    if as_json:
        options.print_json({"topics": [{**asdict(r), "state": r.state} for r in found]})
        return
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
