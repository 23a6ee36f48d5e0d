"""The commands of `cos2p experiment`: suites of runs under virtual time.

Invariant: a command imports the modules that it needs (torch, plots) when it runs.
"""

from pathlib import Path
from typing import Annotated

import typer

from cos2p_cli.options import JsonOption

app = typer.Typer(
    help="Suites of runs with real training under virtual time.",
    no_args_is_help=True,
    epilog="Example: cos2p experiment run experiments/quick.toml --jobs 2",
)


@app.command(
    epilog="Example: cos2p experiment run experiments/quick.toml --jobs 2 --out runs/experiments"
)
def run(
    suite: Annotated[Path, typer.Argument(metavar="SUITE.toml", help="The suite's file.")],
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Cells at a time.")
    ] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier run of the suite was.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="The reduced suite, as its file says.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The suite's folder goes in here.")
    ] = Path("runs/experiments"),
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            envvar="COS2P_DATA_DIR",
            metavar="DIR",
            help="Folder of the task's data files.",
        ),
    ] = None,
    as_json: JsonOption = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No live screen.")] = False,
) -> None:
    """Run every cell (policy, setting, seed) of a suite.

    Each cell becomes DIR/SUITE/cells/CELL/run.sqlite, which `cos2p replay` can replay, and
    result.json, which is there when the cell is done.
    """
    from cos2p_cli.experiment_run import SuiteOptions
    from cos2p_cli.experiment_run import run as compute

    chosen = SuiteOptions(suite, jobs, resume, quick, out, data, as_json, not no_progress)
    raise typer.Exit(compute(chosen))


@app.command(epilog="Example: cos2p experiment report runs/experiments/quick")
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="SUITE_DIR", help="What `run` made: DIR/SUITE.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Where the report goes (default: SUITE_DIR/report)."
        ),
    ] = None,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Tables only: seconds.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tables (Markdown, CSV) and plots (PNG) of the cells that are done.

    Works while the suite runs: what is missing is said. DIR/report.md holds it all.
    """
    from cos2p_cli.experiment_report import run as write

    write(folder, out, plots=not no_plots, as_json=as_json)
