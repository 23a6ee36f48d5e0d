"""`cos2p replay`: rebuilds a run's versions from its log to compare them, or to ask what if.

Invariant: with what-if options no digests are compared. The result is shown next to the run itself.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cos2p.errors import SettingsError
from cos2p.log.bus import Bus
from cos2p.log.snapshots import FOLDS, Fold, Snapshot, snapshots_of
from cos2p.settings import BusSettings
from cos2p_aggregator.replay import ReplayResult, VersionReplay, replay
from cos2p_cli import figures, options
from cos2p_cli.progress import Form, waiting
from cos2p_planner.intake import checker_of
from cos2p_planner.snapshot_check import Comparison, compare_snapshots

ROWS_MAX = 12
"""About this many versions of a what-if are shown, the first and the last among them."""


@dataclass(frozen=True)
class ReplayOptions:
    """The options of `cos2p replay`."""

    until: int | None = None
    without: Sequence[str] = ()
    staleness: str | None = None
    shards: int | None = None
    keys_file: Path | None = None
    as_json: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the unchanged run is rebuilt to its end. Its snapshots are then compared too."""
        return self.until is None and not self.without and self.staleness is None


@options.blocking
async def run(settings: BusSettings, chosen: ReplayOptions) -> None:
    """Replay the run and print the result.

    Raises:
        DivergedError: a version differs. The text names the first version and unit.
        Cos2pError: the log can't be replayed. The text gives the reason.
    """
    console, prefix = Console(), settings.prefix
    form: Form = "live" if console.is_terminal and not chosen.as_json else "none"
    async with options.opened(settings) as bus:
        with waiting(console, form, "rebuilding the versions from the log"):
            result = await replay(
                bus,
                prefix,
                until=chosen.until,
                without=chosen.without,
                staleness=chosen.staleness,
                shards=chosen.shards,
            )
            actual = None
            if result.what_if:
                actual = await replay(bus, prefix, until=chosen.until, shards=chosen.shards)
            compared = await _snapshots(bus, prefix, chosen) if chosen.is_whole else []
    if not result.versions:
        raise SettingsError(f"run {result.run_id} has no version yet: nothing to replay")
    if chosen.as_json:
        result.check()
        document = result.to_json()
        document["snapshots"] = [asdict(c) for c in compared]
        if actual is not None:
            document["run"] = actual.to_json()
        options.print_json(document)
        return
    _print(console, result, actual)
    _print_snapshots(console, compared)
    result.check()


async def _snapshots(bus: Bus, prefix: str, chosen: ReplayOptions) -> list[Comparison]:
    """Compare the run's snapshots with the fold of its log.

    Raises:
        DivergedError: a snapshot differs.
    """
    found: list[Snapshot] = []
    skipped: list[Comparison] = []
    for of in FOLDS:

        def skip(number: int, reason: str, of: Fold = of) -> None:
            skipped.append(Comparison(of, number, False, reason))

        found += await snapshots_of(bus, prefix, of, skip)
    checker = checker_of(chosen.keys_file, lambda reason: None)
    return [*skipped, *await compare_snapshots(bus, prefix, found, checker)]


def _print_snapshots(console: Console, compared: Sequence[Comparison]) -> None:
    equal = sum(c.compared for c in compared)
    if equal:
        text = f"{figures.count(equal, 'snapshot')} compared: all equal the fold of the log"
        options.print_line(console, text, "green")
    for c in compared:
        if not c.compared:
            text = f"snapshot {c.number} of the {c.of} was not compared: {c.reason}"
            options.print_line(console, text)


def _print(console: Console, result: ReplayResult, actual: ReplayResult | None) -> None:
    last = result.versions[-1]
    start = f"from version {result.started_at}" if result.started_at else "from the start"
    options.print_line(
        console,
        f"run {result.run_id}: versions {result.versions[0].version} to {last.version} rebuilt "
        f"{start}, in {figures.count(result.shards, 'shard')}",
    )
    if actual is not None:
        console.print(_side_by_side(result, actual))
        own = actual.versions[-1].digest
        options.print_line(
            console,
            f"final digest {last.digest[:16]}, the run's {own[:16]}: "
            + ("another model" if own != last.digest else "the same bytes"),
        )
    elif result.difference is None:
        options.print_line(
            console,
            f"{figures.count(result.compared_count, 'version')} compared, unit by unit: "
            f"all digests agree. Final digest {last.digest[:16]}",
            "green",
        )


def _side_by_side(result: ReplayResult, actual: ReplayResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("version", justify="right")
    for name in ("updates", "weight", "coverage N*", "step norm", "model norm"):
        table.add_column(name, justify="right", no_wrap=True)
    own = {v.version: v for v in actual.versions}
    for made in _picked(result.versions):
        was = own.get(made.version)
        if was is not None:
            table.add_row(
                str(made.version),
                _change(str(was.update_count), str(made.update_count)),
                _change(f"{was.weight_sum:.1f}", f"{made.weight_sum:.1f}"),
                _change(str(was.coverage_min), str(made.coverage_min)),
                _change(f"{was.step_norm:.3f}", f"{made.step_norm:.3f}"),
                _change(f"{was.model_norm:.3f}", f"{made.model_norm:.3f}"),
            )
    table.caption = "the run → what if"
    table.caption_justify = "left"
    return table


def _picked(versions: Sequence[VersionReplay]) -> list[VersionReplay]:
    step = max(1, -(-len(versions) // ROWS_MAX))
    picked = list(versions[::step])
    return picked if picked[-1] is versions[-1] else [*picked, versions[-1]]


def _change(was: str, now: str) -> Text:
    return Text(now, style="dim") if was == now else Text(f"{was} → {now}")
