"""Every command and code block of the pages, as printed and in the page's order.

What a line needs that a test does not have (a broker, a cluster, minutes) is listed in
`doc_pages.NOT_RUN`; tests/test_docs.py checks those lines against the real parsers.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT, Block, Line, blocks, lines_of

pytestmark = [pytest.mark.processes, pytest.mark.slow]

BEFORE = "cos2p demo --versions 2 --workers 4 --dir runs/demo --no-progress"
"""In the place of `make demo`, which the pages go on from."""
SHIM = '#!/bin/sh\nexec "{python}" -c "from cos2p_cli.main import main; main()" "$@"\n'
LIMIT_S = 300


def steps(page: Path) -> Iterator[Block | Line]:
    """What the page asks to do: lines for the shell, code, files to save."""
    for block in blocks(page):
        example = block.text.startswith('"""')
        named = block.text.startswith("# ")
        if block.language == "sh":
            yield from (line for line in lines_of(block) if line.not_run is None)
        elif (block.language == "python" and not example) or (block.language == "toml" and named):
            yield block


def command_of(step: Block | Line, home: Path) -> list[str] | None:
    """What runs a step; None where it was a file to save."""
    if isinstance(step, Line):
        return ["bash", "-euo", "pipefail", "-c", step.text]
    file = home / (f"block{step.number}.py" if step.language == "python" else _name(step))
    file.write_text(step.text)
    return [sys.executable, file.name] if step.language == "python" else None


def _name(step: Block) -> str:
    """The file that a block's first line names."""
    return step.text.splitlines()[0].removeprefix("# ")


def run(command: list[str], home: Path) -> None:
    """Run a command as a reader in the repository's folder would."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COS2P_")}
    done = subprocess.run(
        command,
        cwd=home,
        env={**clean, "PATH": f"{home}/bin:{clean['PATH']}", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert 0 == done.returncode, f"{command[-1]}\n{done.stdout}{done.stderr}"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder like the repository's, with `cos2p` to be found."""
    for name in ("examples", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin/cos2p"
    shim.write_text(SHIM.format(python=sys.executable))
    shim.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(True for _ in steps(p))], ids=lambda page: page.name
)
def test_what_a_page_prints_works_as_printed(page: Path, home: Path) -> None:
    if "--bus runs/demo" in page.read_text():
        run(BEFORE.split(), home)
    for step in steps(page):
        if (command := command_of(step, home)) is not None:
            run(command, home)
