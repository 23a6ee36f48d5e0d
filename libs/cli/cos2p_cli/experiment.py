"""The commands of `cos2p experiment`: suites of runs under virtual time.

Invariant: a command imports the modules that it needs (torch, plots) when it runs.
"""

from pathlib import Path
from typing import Annotated

import typer

from cos2p_cli.options import DataOption, JsonOption, NoProgressOption

app = typer.Typer(
    help="Run suites of experiments: real training in virtual time.",
    no_args_is_help=True,
    epilog="Example: cos2p experiment run experiments/quick.toml --jobs 2",
)


@app.command(
    epilog="Example: cos2p experiment run experiments/quick.toml --jobs 2 --out runs/experiments"
)
def run(
    suite: Annotated[Path, typer.Argument(metavar="SUITE.toml", help="The suite's file.")],
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Number of cells at a time.")
    ] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an earlier run of the suite.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Run the reduced suite of its file.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Folder of the suite's folder."),
    ] = Path("runs/experiments"),
    data: DataOption = None,
    as_json: JsonOption = False,
    no_progress: NoProgressOption = False,
) -> None:
    """Run every cell (policy, setting, seed) of a suite.

    Each cell writes DIR/SUITE/cells/CELL/run.sqlite, which `cos2p replay` can replay. When it is
    done, it also writes result.json.
    """
    from cos2p_cli.experiment_run import run as compute

    code = compute(
        suite,
        out,
        jobs=jobs,
        resume=resume,
        quick=quick,
        data_dir=data,
        as_json=as_json,
        progress=not no_progress,
    )
    raise typer.Exit(code)


@app.command(epilog="Example: cos2p experiment report runs/experiments/quick")
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="SUITE_DIR", help="The suite's folder, DIR/SUITE.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder of the report (default: SUITE_DIR/report)."
        ),
    ] = None,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Write tables only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write tables (Markdown, CSV) and plots (PNG) of the cells that are done.

    It also works while the suite runs. DIR/report.md is the whole report and names missing cells.
    """
    from cos2p_cli.experiment_report import run as write

    write(folder, out, plots=not no_plots, as_json=as_json)
