"""The pages for readers: what they print exists, their links lead somewhere, they read easily.

What is run as printed is in tests/integration/test_docs_commands.py.
"""

import ast
import json
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from doc_pages import (
    HISTORY,
    LANGUAGES,
    NOT_RUN,
    PAGES,
    ROOT,
    Line,
    anchors,
    blocks,
    lines,
    links,
    sentences,
)
from typer.main import get_command

from cos2p.run_config import load_run_config
from cos2p_cli.main import app

LINES = [line for page in PAGES for line in lines(page)]
SERVICES = {
    "cos2p-planner": "cos2p_planner",
    "cos2p-aggregator": "cos2p_aggregator",
    "cos2p-worker": "cos2p_worker",
}
OTHERS = (
    {"docker", "helm", "journalctl", "kubectl", "scp", "sudo"}
    | {"cat", "export", "gzip", "mkdir", "sh", "source", "tar"}
    | {"pip", "python", "python3"}
)
"""Programs that are not ours: their lines are shown, or run with the rest of their page."""
each_line = pytest.mark.parametrize(
    "line", LINES, ids=lambda line: f"{line.page.name}:{line.number}"
)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the words that are left for it."""
    command: Any = get_command(app)
    rest = words[1:]
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    assert not (rest and not rest[0].startswith("-") and hasattr(command, "commands")), words
    return command, rest


def options_of(module: str) -> str:
    """A service's help."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
    )
    return done.stdout


@each_line
def test_a_printed_command_is_one_that_its_program_takes(line: Line) -> None:
    for words in line.programs:
        program = Path(words[0]).name
        if program == "cos2p":
            command, rest = command_of(words)
            if "--help" not in rest:
                command.make_context(words[1], list(rest))
        elif program in SERVICES:
            wrong = [w for w in words[1:] if w.startswith("--")]
            text = options_of(SERVICES[program]) if wrong else ""
            assert [] == [w for w in wrong if w not in text]
        elif program == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        else:
            assert program in OTHERS


def test_each_reason_not_to_run_a_line_has_lines() -> None:
    idle = [p for p in NOT_RUN if not any(re.search(p, line.printed) for line in LINES)]

    assert [] == idle


@each_page
def test_commands_in_running_text_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for quoted in re.findall(r"`((?:cos2p|make) [^`]+)`", text):
        words = quoted.split()
        if words[0] == "make":
            targets = [w for w in words[1:] if "=" not in w and w.islower()]
            subprocess.run(["make", "-n", *targets], cwd=ROOT, check=True, capture_output=True)
            continue
        command, rest = command_of(words)
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        assert [] == [w for w in rest if w.startswith("--") and w not in known], quoted


@each_page
def test_every_fence_is_of_a_kind_that_is_checked(page: Path) -> None:
    assert [] == [b.number for b in blocks(page) if b.language not in LANGUAGES]


@each_page
def test_code_on_a_page_is_an_example_or_can_be_parsed(page: Path) -> None:
    examples = {file.read_text() for file in (ROOT / "examples").glob("*.py")}
    for block in blocks(page):
        if block.language == "python" and block.text.startswith('"""'):
            assert block.text in examples, f"{page.name}:{block.number}"
        elif block.language == "python":
            ast.parse(block.text)


def test_every_example_is_on_a_page() -> None:
    shown = {block.text for page in PAGES for block in blocks(page)}

    assert [] == [f.name for f in (ROOT / "examples").glob("*.py") if f.read_text() not in shown]


@each_page
def test_a_run_file_on_a_page_can_be_loaded(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language == "toml":
            tomllib.loads(block.text)
            if block.text.startswith("# run.toml"):
                (tmp_path / "run.toml").write_text(block.text)
                load_run_config(tmp_path / "run.toml")


@each_page
def test_values_on_a_page_fit_the_chart(page: Path) -> None:
    yaml = pytest.importorskip("yaml")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "deploy/k3s/chart/values.schema.json").read_text())
    for block in blocks(page):
        if block.language == "yaml":
            jsonschema.validate(yaml.safe_load(block.text), schema)


@pytest.mark.parametrize("page", [*PAGES, *HISTORY], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert [] == broken


def test_every_page_is_reached_from_the_readme() -> None:
    seen, queue = set[Path](), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page not in seen and page.suffix == ".md":
            seen.add(page)
            queue += [(page.parent / link.split("#")[0]).resolve() for link in links(page)]

    assert [] == [p.name for p in (ROOT / "docs").rglob("*.md") if p not in seen]


def test_every_picture_is_shown() -> None:
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}

    assert [] == [p.name for p in (ROOT / "docs/pictures").glob("*.png") if p not in shown]


@each_page
def test_nobody_is_sent_to_an_index_that_does_not_have_it(page: Path) -> None:
    assert [] == re.findall(r"pip install[^\n]*\bcos2p(?:\[|['\"\s]|$)", page.read_text())


@each_page
def test_lines_fit_a_terminal(page: Path) -> None:
    long = [
        number
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if len(line) > 120 and not line.startswith("|")
    ]

    assert [] == long


@each_page
def test_sentences_are_short(page: Path) -> None:
    counts = sorted(len(sentence.split()) for sentence in sentences(page))
    if len(counts) < 10:
        return

    assert statistics.mean(counts) <= 14
    assert counts[int(0.9 * len(counts))] <= 25
