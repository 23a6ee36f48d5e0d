"""The wheel that `make wheel` builds: what is in it, and that it works where no checkout is.

The packages that it needs come from the index that uv is configured with. Where none answers, these
tests are skipped, and say what uv said.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
UV = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
NO_INDEX = ("error sending request", "failed to fetch", "dns error", "no cached version")
"""What uv says, in lower case, where it can't reach an index."""

Install = Callable[..., Path]

pytestmark = [pytest.mark.slow, pytest.mark.processes]


def alone() -> dict[str, str]:
    """The environment without what would bring this checkout, or another one, back in."""
    dropped = ("PYTHONPATH", "VIRTUAL_ENV")
    clean = {k: v for k, v in os.environ.items() if k not in dropped}
    return {k: v for k, v in clean.items() if not k.startswith("COS2P_")}


def needing_an_index(*command: str, cwd: Path = ROOT) -> None:
    """Run a command that fetches packages; skip where no index answers."""
    done = subprocess.run(command, cwd=cwd, env=alone(), capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode and any(words in output.lower() for words in NO_INDEX):
        pytest.skip(f"no package index answers: {output.strip().splitlines()[-1].strip()}")
    assert 0 == done.returncode, output


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    needing_an_index("make", "wheel", f"DIST={folder}")
    [made] = folder.glob("cos2p-*.whl")
    return made


@pytest.fixture
def install(wheel: Path, tmp_path: Path) -> Iterator[Install]:
    """Install the wheel, with extras, in a fresh virtual environment; its folder of programs."""
    place = tmp_path / "venv"

    def make(*extras: str) -> Path:
        needing_an_index(UV, "venv", "--quiet", "--python", sys.executable, str(place))
        needing_an_index(
            *(UV, "pip", "install", "--quiet", "--python", str(place / "bin/python")),
            *("--constraint", str(ROOT / "constraints.txt")),
            f"cos2p[{','.join(extras)}] @ {wheel.as_uri()}",
        )
        return place / "bin"

    yield make
    shutil.rmtree(place, ignore_errors=True)  # with torch it has some GB


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *arguments], cwd=program.parent, env=alone(), capture_output=True, text=True
    )


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "libs", "services"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip(f"git does not list the checkout's files: {listed.stderr.strip()}")
    wanted = {"/".join(Path(name).parts[2:]) for name in listed.stdout.split()}

    assert wanted <= set(zipfile.ZipFile(wheel).namelist())


def says_how_to_use(programs: Path) -> None:
    for name in ("cos2p", "cos2p-planner", "cos2p-aggregator", "cos2p-worker"):
        done = run(programs / name, "--help")
        assert (0, "") == (done.returncode, done.stderr)
        assert f"usage: {name}" in done.stdout.lower()


def test_without_torch_every_program_says_how_it_is_used(install: Install) -> None:
    programs = install()

    assert run(programs / "python", "-c", "import torch").returncode
    says_how_to_use(programs)


def test_without_torch_the_worker_names_the_extra_that_brings_it(install: Install) -> None:
    done = run(install() / "cos2p-worker", "--task", "digits")

    assert 2 == done.returncode
    assert "extra `worker`" in done.stderr


def test_with_torch_every_program_says_how_it_is_used(install: Install) -> None:
    programs = install("worker")

    assert 0 == run(programs / "python", "-c", "import cos2p_worker.torch_trainer").returncode
    says_how_to_use(programs)


@pytest.mark.parametrize(
    ("extra", "modules"),
    [
        ("report", "jinja2, cos2p_cli.plots"),
        ("experiments", "cos2p_experiments.statistics, cos2p_experiments.report, sklearn, torch"),
        ("metrics", "prometheus_client, aiohttp"),
        ("signing", "cos2p.signing.keys"),
        ("docker", "docker"),
    ],
)
def test_an_extra_brings_what_it_is_named_after(install: Install, extra: str, modules: str) -> None:
    done = run(install(extra) / "python", "-c", f"import {modules}")

    assert (0, "") == (done.returncode, done.stderr)
