"""The pages for readers, taken apart: fenced blocks, the commands in them, links, sentences.

Invariant: every line of a `sh` block becomes a `Line`, and what runs it is named here, in `NOT_RUN`
(checked, not run, and why) or by its absence there (run as printed).
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GENERATED = {"protocol.md", "settings.md", "metrics.md", "telemetry.md"}
"""Written by docs/*.py; `make docs`."""
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    + [p for p in (ROOT / "docs").glob("*.md") if p.name not in GENERATED]
)
HISTORY = sorted((ROOT / "docs/history").glob("*.md"))

NOT_RUN = {
    # pattern: what it needs
    r"^make ": "minutes; the target is checked",
    r"^cos2p demo( --task .*)?$": "minutes; tests/integration/test_demo.py and test_examples.py",
    r"^cos2p experiment run ": "minutes to hours; `make experiment` runs one in CI",
    r"^cos2p experiment report runs/experiments/quick": "the cells of `experiment run`",
    r"kafka://|^cos2p doctor$|--task my_task:TASK|^cos2p-env": "a broker, or a device",
    r"^(COS2P_\S+ )*cos2p-(planner|aggregator|worker)\b": "a broker",
    r"^cos2p status --follow$": "a broker",
    r"^cos2p topics acls ": "a broker's tools; tests/integration/test_kafka_rights.py",
    r"^cos2p (up|down)\b": "a Docker engine; make test-docker",
    r"^cos2p replay --bus run.sqlite ": "a site's archive; make test-cluster",
    r"^(docker|helm|kubectl|scp|sudo|journalctl) ": "a cluster, an engine, or a device",
    r"^source |^export ": "the reader's own shell",
    r"^python3 -m venv ": "a device",
}
"""Lines that are checked against the parsers instead of run, and why."""

LANGUAGES = {
    "sh": "each line is run or checked",
    "python": "run, or compared with a file of examples/",
    "toml": "loaded: a run file, or a suite",
    "yaml": "checked by the chart's schema",
    "dockerfile": "shown",
    "ini": "shown",
    "mermaid": "drawn",
    "": "shown: the tree",
}
"""What a fence may hold, and what is done with it."""

OPERATORS = {"|", "||", "&&", "&", ";"}
REDIRECTS = {">", ">>", "<"}


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    number: int
    language: str
    text: str


@dataclass(frozen=True)
class Line:
    """A line of a `sh` block, continuations joined."""

    page: Path
    number: int
    text: str

    @property
    def printed(self) -> str:
        """Without its comment."""
        return re.sub(r"\s+#(?![^'\"]*['\"]\s).*$", "", self.text).strip()

    @property
    def not_run(self) -> str | None:
        """Why it is not run; None if it is."""
        found = [why for pattern, why in NOT_RUN.items() if re.search(pattern, self.printed)]
        return found[0] if found else None

    @property
    def programs(self) -> list[list[str]]:
        """Each program with its arguments; of `kubectl exec`, also what it starts."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        found: list[list[str]] = [[]]
        words = iter(list(lexer))
        for word in words:
            if word in OPERATORS:
                found.append([])
            elif word in REDIRECTS:
                next(words)
            elif word == "--" and found[-1][:1] == ["kubectl"]:
                found.append([])
            elif not (re.match(r"[A-Z0-9_]+=", word) and not found[-1]):
                found[-1].append(word)
        return [words for words in found if words]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    start, language = 0, ""
    text: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            if start:
                yield Block(page, start, language, "\n".join(text) + "\n")
                start = 0
            else:
                start, language, text = number, line[3:].strip(), []
        elif start:
            text.append(line)


def lines(page: Path) -> Iterator[Line]:
    """The commands of a page, in its order."""
    for block in blocks(page):
        if block.language == "sh":
            yield from lines_of(block)


def lines_of(block: Block) -> Iterator[Line]:
    """The commands of a block."""
    text = ""
    for number, line in enumerate(block.text.splitlines(), block.number + 1):
        text += line.removesuffix("\\")
        if not line.endswith("\\"):
            if text.strip() and not text.lstrip().startswith("#"):
                yield Line(block.page, number, text.strip())
            text = ""


def links(page: Path) -> Iterator[str]:
    """The targets of a page's links and pictures that lie in the repository."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as a forge makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    heads = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def sentences(page: Path) -> list[str]:
    """The sentences of a page's paragraphs and lists; tables, headings and code left out."""
    text = re.sub(r"```.*?```", "\n", page.read_text(), flags=re.S)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    parts: list[str] = [""]
    for line in text.splitlines():
        if not line.strip() or re.match(r"\||#|!|    \S", line):
            parts.append("")
            continue
        if item := re.match(r"\s*([-*]|\d+\.) ", line):
            parts.append("")
            line = line[item.end() :]
        parts[-1] += " " + line.strip()
    found = [s for part in parts for s in re.split(r"(?<=[.!?:])[*)]* (?=[\[`*(A-Z0-9])", part)]
    return [s for s in found if len(s.split()) > 1]
