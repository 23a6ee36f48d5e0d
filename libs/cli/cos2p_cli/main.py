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
from cos2p_cli.options import (
    BusOption,
    ConfigOption,
    DataOption,
    JsonOption,
    NoProgressOption,
    PrefixOption,
    RunIdOption,
    TaskOption,
    print_json,
    settings_of,
)
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
    task: TaskOption = "digits",
    workers: Annotated[
        int, typer.Option(min=1, max=64, metavar="N", help="Workers, of four device classes.")
    ] = 8,
    bus: BusOption = None,
    folder: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Folder of the new run."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Seed of data split, weights and plans.")
    ] = 0,
    data: DataOption = None,
    versions: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Versions (default: the task's).")
    ] = None,
    as_json: JsonOption = False,
    no_progress: NoProgressOption = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the workers' scratch files.")] = False,
) -> None:
    """Train one model on eight unequal workers on this machine."""
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
        bool, typer.Option("--if-absent", help="Accept it if this run exists already.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="ADDRESS",
            help="Run or archive to start from, at its newest version.",
        ),
    ] = None,
    from_prefix: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Prefix of that run (default: --prefix).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write version 0 and request a run. Start its roles elsewhere."""
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
        int | None, typer.Option(min=1, max=256, metavar="N", help="Workers to start here.")
    ] = None,
    external_workers: Annotated[
        bool, typer.Option("--external-workers", help="Start no workers: they run elsewhere.")
    ] = False,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of each local worker: 12MB.")
    ] = None,
    bus: BusOption = None,
    prefix: PrefixOption = None,
    run_id: RunIdOption = None,
    data: DataOption = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Log folder (default: the run's).")
    ] = None,
    as_json: JsonOption = False,
    no_progress: NoProgressOption = False,
) -> None:
    """Start a run and its processes, and wait until it ends."""
    from cos2p_cli.figures import parse_size
    from cos2p_cli.start import StartOptions
    from cos2p_cli.start import run as run_to_end

    if external_workers == (workers is not None):
        raise typer.BadParameter("give either --workers N or --external-workers")
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
    run_to_end(settings_of(bus, prefix), chosen)


@app.command(epilog="Example: cos2p status --bus runs/demo --follow")
def status(
    bus: BusOption = None,
    prefix: PrefixOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Redraw until the run has finished.")
    ] = False,
    telemetry: Annotated[
        bool, typer.Option("--telemetry", help="Print versions as CSV (docs/telemetry.md).")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a run: version, accuracy, coverage and each device."""
    from cos2p_cli.status import show

    show(settings_of(bus, prefix), follow=follow, as_json=as_json, telemetry=telemetry)


@app.command(epilog="Example: cos2p replay --bus runs/demo --without worker-7")
def replay(
    bus: BusOption = None,
    prefix: PrefixOption = None,
    until: Annotated[
        int | None, typer.Option(min=0, metavar="V", help="The last version to rebuild.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="WORKER", help="Leave out its updates; repeatable.")
    ] = None,
    staleness: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="Late-update rule: constant, poly:A, hinge:A,B."),
    ] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, max=64, metavar="S", help="Aggregate in S shards.")
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            envvar="COS2P_KEYS_FILE", metavar="FILE", help="Keys, for snapshots of a signed run."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild versions and snapshots from the log and compare them.

    With --without or --staleness it shows what would have happened instead.
    """
    from cos2p_cli.replay_command import ReplayOptions, run

    chosen = ReplayOptions(until, tuple(without or ()), staleness, shards, keys, as_json)
    run(settings_of(bus, prefix), chosen)


@app.command(epilog="Example: cos2p export --bus runs/demo --budget 400KB --out small.safetensors")
def export(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The safetensors file to write.")],
    bus: BusOption = None,
    prefix: PrefixOption = None,
    version: Annotated[
        int | None, typer.Option(min=0, metavar="V", help="Version (default: newest complete one).")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory that the submodel must fit: 12MB.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the merged version, not the average.")
    ] = False,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help="Task, if the run's own can't be loaded.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version, or its submodel for a budget, as safetensors."""
    from cos2p_cli.export_command import run
    from cos2p_cli.figures import parse_size

    memory_bytes = parse_size(budget) if budget else None
    run(
        settings_of(bus, prefix),
        out,
        version=version,
        memory_bytes=memory_bytes,
        raw=raw,
        task_name=task,
        as_json=as_json,
    )


@app.command(epilog="Example: cos2p report --bus runs/demo --out report.html")
def report(
    bus: BusOption = None,
    prefix: PrefixOption = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")] = Path(
        "report.html"
    ),
    as_json: JsonOption = False,
) -> None:
    """Write a run as one HTML page: curves, coverage, devices."""
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
    """Copy a run into one file that can be replayed anywhere."""
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
        bool, typer.Option("--write", help="Also test writing: append one dead letter.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check bus, topics, rights, clocks and roles, and advise."""
    from cos2p_cli.doctor import run

    raise typer.Exit(run(settings_of(bus, prefix), write=write, as_json=as_json))


@app.command(epilog="Example: cos2p stop --bus runs/demo --reason 'good enough'")
def stop(
    bus: BusOption = None,
    prefix: PrefixOption = None,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="The reason, for the log.")
    ] = "asked by an operator",
    as_json: JsonOption = False,
) -> None:
    """Request that a run ends after its newest version."""
    from cos2p_cli.requests import stop as request

    request(settings_of(bus, prefix), reason=reason, as_json=as_json)


@app.command(epilog="Example: cos2p admit orin-3 --bus kafka://broker:9092")
def admit(
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="The device's name.")],
    bus: BusOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Request plans again for a device whose updates failed checks.

    Repair the cause first.
    """
    from cos2p_cli.requests import admit as request

    request(settings_of(bus, prefix), worker, as_json=as_json)
