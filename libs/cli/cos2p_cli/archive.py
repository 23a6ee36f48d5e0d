"""`cos2p archive`: copies a run's topics from any bus into one file.

Invariant: if retention has removed the start of a topic, before or during the copy, the output
reports it.
"""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TransferSpeedColumn

from cos2p.errors import RunExistsError, SettingsError
from cos2p.log.archive import Copied, copy, extent_of
from cos2p.model.cost import plain_bytes
from cos2p.settings import BusSettings
from cos2p_cli import options


@options.blocking
async def run(settings: BusSettings, out: Path, *, as_json: bool) -> None:
    """Write the archive and print what it contains.

    Raises:
        SettingsError: the name does not end in .sqlite.
        RunExistsError: the file exists already.
        Cos2pError: the bus can't be read, or the disk is full.
    """
    if out.suffix != ".sqlite":
        raise SettingsError(f"{out}: an archive's name ends in .sqlite, so that it can be replayed")
    if out.exists():
        raise RunExistsError(f"{out} exists already: remove it or choose another name")
    console = Console()
    async with options.opened(settings) as bus:
        extent = await extent_of(bus, settings.prefix)
        records = sum(e.next - e.first for parts in extent.values() for e in parts.values())
        with Progress(
            TextColumn("copying"),
            BarColumn(),
            TextColumn("{task.completed:,} of {task.total:,} records"),
            TransferSpeedColumn(),
            console=console,
            transient=True,
            disable=as_json or not console.is_terminal,
        ) as bar:
            task = bar.add_task("copy", total=records)
            copied = await copy(bus, settings.prefix, extent, out, lambda n: bar.advance(task, n))
    _print(out, copied, as_json=as_json)


def _print(out: Path, copied: list[Copied], *, as_json: bool) -> None:
    late = [c for c in copied if c.first_offset]
    records, size = sum(c.record_count for c in copied), sum(c.byte_count for c in copied)
    if as_json:
        options.print_json(
            {
                "file": str(out),
                "records": records,
                "bytes": size,
                "partitions": [asdict(c) for c in copied],
                "complete": not late,
            }
        )
        return
    print(f"{out}: {records:,} records, {plain_bytes(size)}, offsets unchanged")
    for part in late:
        print(
            f"  {part.topic}[{part.partition}] starts at offset {part.first_offset}: retention has "
            "removed earlier records"
        )
    print(f"Replay it anywhere: cos2p replay --bus {out}")
