"""The command `cos2p`: its subcommands, and how each of them ends.

Invariants: an expected error gives one line on standard error and its exit code. With --json it
also gives one document on standard output. `--help` and read-only commands load no torch or plots.
A command imports the modules that it needs when it runs.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cos2p_cli.containers.commands import down, up
from cos2p_cli.experiment import app as experiment_app
from cos2p_cli.keys_commands import app as keys_app
from cos2p_cli.options import BusOption, JsonOption, PrefixOption, print_json, settings_of
from cos2p_cli.policies import policies
from cos2p_cli.topics_commands import app as topics_app

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells expect."""


def _exit_codes() -> str:
    from cos2p.errors import ExitCode

    lines = [f"{int(code):>4}  {code.help}" for code in ExitCode]
    lines.append(f"{INTERRUPTED:>4}  interrupted by Ctrl-C")
    return "\n".join(["Start with: cos2p demo", "", "Exit codes", *lines])


app = typer.Typer(
    name="cos2p",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_exit_codes(),
)


def main() -> None:
    """Run the command line. It ends the process with an exit code of `cos2p.errors.ExitCode`."""
    from cos2p.errors import Cos2pError

    try:
        app()
    except Cos2pError as error:
        text = " ".join(str(error).split())
        sys.stderr.write(f"cos2p: {text}\n")
        if "--json" in sys.argv:
            print_json({"error": text, "exit_code": int(error.exit_code)})
        sys.exit(int(error.exit_code))
    except SystemExit as ending:
        if ending.code == INTERRUPTED and "--json" in sys.argv:
            print_json({"error": "interrupted", "exit_code": INTERRUPTED})
        raise


TaskOption = Annotated[
    str, typer.Option(metavar="TASK", help="module:attribute, or digits, fashion-mnist.")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A run file (TOML): its policy, by name (cos2p policies), and what it overrides.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", envvar="COS2P_DATA_DIR", metavar="DIR", help="Folder of the task's data files."
    ),
]
RunIdOption = Annotated[
    str | None, typer.Option("--run-id", metavar="NAME", help="The run's name.")
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cos2p {version('cos2p')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Many weak, unequal devices train one large model together."""


@app.command(epilog="Example: cos2p demo --workers 8 --seed 1")
def demo(
    task: Annotated[
        str,
        typer.Option(
            metavar="TASK", help="digits, fashion-mnist, or module:attribute of your own task."
        ),
    ] = "digits",
    workers: Annotated[
        int, typer.Option(metavar="N", help="How many, over four device classes.")
    ] = 8,
    bus: BusOption = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            help="Folder for the run; must not hold one (default: a new one).",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Of the split, the weights, the plans.")
    ] = 0,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            envvar="COS2P_DATA_DIR",
            metavar="DIR",
            help="Folder of the task's data files.",
        ),
    ] = None,
    versions: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="End after N versions (default: the task's)."),
    ] = None,
    as_json: JsonOption = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No live screen.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the workers' scratch files.")] = False,
) -> None:
    """See it work: eight unequal workers, one model, real images."""
    from cos2p_cli.demo import DemoOptions
    from cos2p_cli.demo import run as play

    chosen = DemoOptions(
        task, workers, bus, folder, seed, data, versions, as_json, not no_progress, keep
    )
    raise typer.Exit(play(chosen))


app.command(epilog="Example: cos2p policies --json")(policies)


@app.command(epilog="Example: cos2p init --task digits --config run.toml --bus kafka://HOST:9092")
def init(
    task: TaskOption,
    config: ConfigOption = None,
    bus: BusOption = None,
    prefix: PrefixOption = None,
    run_id: RunIdOption = None,
    data: DataOption = None,
    if_absent: Annotated[
        bool, typer.Option("--if-absent", help="It is fine if this run is there already.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="ADDRESS",
            help="Begin with the newest version of the run that is there: an archive, say.",
        ),
    ] = None,
    from_prefix: Annotated[
        str | None,
        typer.Option(metavar="PREFIX", help="That run's prefix (default: the new one's)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write version 0 and ask for a run; the roles wait for it."""
    from cos2p_cli.start import StartOptions
    from cos2p_cli.start import init as begin

    old = None if source is None else settings_of(source, from_prefix or prefix)
    chosen = StartOptions(
        task, config, run_id, data, as_json=as_json, if_absent=if_absent, source=old
    )
    begin(settings_of(bus, prefix), chosen)


@app.command(epilog="Example: cos2p run --task digits --config run.toml --workers 4 --bus runs/a")
def run(
    task: TaskOption,
    config: ConfigOption = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, metavar="N", help="Workers to start on this machine."),
    ] = None,
    external_workers: Annotated[
        bool, typer.Option("--external-workers", help="Workers run elsewhere.")
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What each local worker may use, for instance 12MB."),
    ] = None,
    bus: BusOption = None,
    prefix: PrefixOption = None,
    run_id: RunIdOption = None,
    data: DataOption = None,
    folder: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Folder for logs (default: the run's)."),
    ] = None,
    as_json: JsonOption = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No live screen.")] = False,
) -> None:
    """Begin a run and see it through, its processes started from here."""
    from cos2p_cli.figures import parse_size
    from cos2p_cli.start import StartOptions
    from cos2p_cli.start import run as see_through

    if external_workers == (workers is not None):
        raise typer.BadParameter("say either --workers N or --external-workers")
    chosen = StartOptions(
        task,
        config,
        run_id,
        data,
        workers or 0,
        parse_size(memory) if memory else None,
        folder,
        as_json,
        not no_progress,
    )
    see_through(settings_of(bus, prefix), chosen)


@app.command(epilog="Example: cos2p status --bus runs/demo --follow")
def status(
    bus: BusOption = None,
    prefix: PrefixOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Redraw until the run has finished.")
    ] = False,
    telemetry: Annotated[
        bool,
        typer.Option("--telemetry", help="Each version as a line of CSV (docs/telemetry.md)."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What is going on: version, accuracy, coverage, each device."""
    from cos2p_cli.status import show

    show(settings_of(bus, prefix), follow=follow, as_json=as_json, telemetry=telemetry)


@app.command(epilog="Example: cos2p replay --bus runs/demo --without worker-7")
def replay(
    bus: BusOption = None,
    prefix: PrefixOption = None,
    until: Annotated[
        int | None, typer.Option(min=0, metavar="V", help="The last version to make.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="WORKER", help="Leave this worker's updates out; may be repeated."),
    ] = None,
    staleness: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="Rule for late updates: constant, poly:A, hinge:A,B."),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(min=1, max=64, metavar="S", help="In S parts: the bytes stay the same."),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            envvar="COS2P_KEYS_FILE",
            metavar="FILE",
            help="Register of keys, to compare a signed run's snapshots.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild all versions and snapshots from the log and compare; or ask what if."""
    from cos2p_cli.replaying import ReplayOptions, run

    chosen = ReplayOptions(until, tuple(without or ()), staleness, shards, keys, as_json)
    run(settings_of(bus, prefix), chosen)


@app.command(epilog="Example: cos2p export --bus runs/demo --budget 400KB --out small.safetensors")
def export(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The safetensors file to write.")],
    bus: BusOption = None,
    prefix: PrefixOption = None,
    version: Annotated[
        int | None,
        typer.Option(min=0, metavar="V", help="Which version (default: the newest stored whole)."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Only what a device may train in this much: 400KB, 12MB."
        ),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="As merged, not the average.")] = False,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="Where the run's own name won't load.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version as safetensors, or the submodel for a budget."""
    from cos2p_cli.exporting import ExportOptions, run
    from cos2p_cli.figures import parse_size

    memory_bytes = parse_size(budget) if budget else None
    run(settings_of(bus, prefix), ExportOptions(out, version, memory_bytes, raw, task, as_json))


@app.command(epilog="Example: cos2p report --bus runs/demo --out report.html")
def report(
    bus: BusOption = None,
    prefix: PrefixOption = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")] = Path(
        "report.html"
    ),
    as_json: JsonOption = False,
) -> None:
    """A run on one HTML page: curves, coverage, devices."""
    from cos2p_cli.report import of_run

    of_run(settings_of(bus, prefix), out, as_json=as_json)


@app.command(epilog="Example: cos2p archive --bus kafka://localhost:9092 --out run.sqlite")
def archive(
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The file to write; its name ends in .sqlite.")
    ],
    bus: BusOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a run from any bus into one file that replays anywhere."""
    from cos2p_cli.archive import run

    run(settings_of(bus, prefix), out, as_json=as_json)


app.command(epilog="Example: cos2p up --workers orin=2,tiny=1:800m:0.5 --task digits --follow")(up)
app.command(epilog="Example: cos2p down --volumes")(down)
app.add_typer(topics_app, name="topics")
app.add_typer(keys_app, name="keys")
app.add_typer(experiment_app, name="experiment")


@app.command(epilog="Example: cos2p doctor --bus kafka://localhost:9092 --write")
def doctor(
    bus: BusOption = None,
    prefix: PrefixOption = None,
    write: Annotated[
        bool, typer.Option("--write", help="Also append one record to the dead letters.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check bus, topics, messages, clocks, rights, roles; what to do."""
    from cos2p_cli.doctor import run

    raise typer.Exit(run(settings_of(bus, prefix), write=write, as_json=as_json))


@app.command(epilog="Example: cos2p stop --bus runs/demo --reason 'good enough'")
def stop(
    bus: BusOption = None,
    prefix: PrefixOption = None,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="For the log.")
    ] = "asked by an operator",
    as_json: JsonOption = False,
) -> None:
    """Ask a run to end after its newest version."""
    from cos2p_cli.requests import stop as ask

    ask(settings_of(bus, prefix), reason=reason, as_json=as_json)


@app.command(epilog="Example: cos2p admit orin-3 --bus kafka://broker:9092")
def admit(
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="The device's name.")],
    bus: BusOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a device plans again whose updates failed checks, once the cause is repaired."""
    from cos2p_cli.requests import admit as ask

    ask(settings_of(bus, prefix), worker, as_json=as_json)
