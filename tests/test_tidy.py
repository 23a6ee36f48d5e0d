"""The house rules that a machine can check."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "cos2p": ROOT / "libs/common/cos2p",
    "cos2p_cli": ROOT / "libs/cli/cos2p_cli",
    "cos2p_experiments": ROOT / "libs/experiments/cos2p_experiments",
    "cos2p_sim": ROOT / "libs/simulator/cos2p_sim",
    "cos2p_planner": ROOT / "services/planner/cos2p_planner",
    "cos2p_aggregator": ROOT / "services/aggregator/cos2p_aggregator",
    "cos2p_worker": ROOT / "services/worker/cos2p_worker",
}
SOURCES = sorted(p for folder in PACKAGES.values() for p in folder.rglob("*.py"))
MAY_IMPORT = {
    "cos2p": set[str](),
    "cos2p_planner": {"cos2p"},
    "cos2p_aggregator": {"cos2p"},
    "cos2p_worker": {"cos2p"},
    "cos2p_sim": {"cos2p", "cos2p_planner", "cos2p_aggregator", "cos2p_worker"},
    "cos2p_experiments": {
        "cos2p",
        "cos2p_planner",
        "cos2p_aggregator",
        "cos2p_worker",
        "cos2p_sim",
    },
    "cos2p_cli": set(PACKAGES),
}
CLOCK_OWNERS = {"clock.py", "sqlite.py", "kafka_link.py", "segments.py"}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def package_of(path: Path) -> str:
    return next(name for name, folder in PACKAGES.items() if folder in path.parents)


def test_no_file_is_longer_than_400_lines() -> None:
    long = {
        str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 400
    }

    assert {} == long


def test_no_function_is_longer_than_50_lines() -> None:
    long = {
        f"{p.relative_to(ROOT)}:{n.name}": n.end_lineno - n.lineno
        for p in SOURCES
        for n in ast.walk(ast.parse(p.read_text()))
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        and n.end_lineno is not None
        and n.end_lineno - n.lineno - len((ast.get_docstring(n) or "").splitlines()) > 50
    }

    assert {} == long


def test_packages_import_only_what_the_architecture_allows() -> None:
    wrong = [
        f"{p.relative_to(ROOT)} imports {name}"
        for p in SOURCES
        for name in imported(p)
        if (top := name.split(".")[0]) in PACKAGES
        and top != package_of(p)
        and top not in MAY_IMPORT[package_of(p)]
    ]

    assert [] == wrong


def test_torch_is_imported_in_the_worker_only() -> None:
    wrong = [
        str(p.relative_to(ROOT))
        for p in SOURCES
        if package_of(p) != "cos2p_worker" and any(n.split(".")[0] == "torch" for n in imported(p))
    ]

    assert [] == wrong


def test_aiokafka_is_imported_in_the_kafka_bus_only() -> None:
    wrong = [
        str(p.relative_to(ROOT))
        for p in SOURCES
        if not (p.parent.name == "buses" and p.name.startswith("kafka"))
        and any(n.split(".")[0] == "aiokafka" for n in imported(p))
    ]

    assert [] == wrong


def test_only_clocks_and_buses_read_a_clock_or_sleep() -> None:
    banned = re.compile(
        r"\btime\.(time|monotonic|sleep)\(|datetime\.(now|utcnow)\(|asyncio\.sleep\((?!0\))"
    )
    services = ("cos2p", "cos2p_planner", "cos2p_aggregator", "cos2p_worker")
    wrong = [
        f"{p.relative_to(ROOT)}:{i}"
        for p in SOURCES
        if package_of(p) in services and p.name not in CLOCK_OWNERS
        for i, line in enumerate(p.read_text().splitlines(), 1)
        if banned.search(line)
    ]

    assert [] == wrong


def test_nothing_unpickles() -> None:
    wrong = [
        str(p.relative_to(ROOT))
        for p in SOURCES
        if {"pickle", "dill", "cloudpickle", "marshal", "shelve"} & set(imported(p))
    ]

    assert [] == wrong


def test_no_module_is_a_grab_bag() -> None:
    wrong = [p.name for p in SOURCES if p.stem in {"utils", "util", "helpers", "misc", "manager"}]

    assert [] == wrong


def test_every_module_says_what_it_owns() -> None:
    silent = [
        str(p.relative_to(ROOT)) for p in SOURCES if not ast.get_docstring(ast.parse(p.read_text()))
    ]

    assert [] == silent


@pytest.mark.parametrize(
    "module",
    [
        "cos2p_planner.__main__",
        "cos2p_aggregator.__main__",
        "cos2p_cli.main",
        "cos2p_planner.shell",
        "cos2p_aggregator.shell",
        "cos2p_aggregator.replay",
    ],
)
def test_light_roles_load_no_torch(module: str) -> None:
    heavy = "{'torch', 'sklearn', 'matplotlib', 'scipy'}"
    code = f"import sys, {module}; sys.exit(bool({heavy} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], env=os.environ, check=False)

    assert 0 == done.returncode


@pytest.mark.parametrize("page", ["protocol", "settings", "metrics", "telemetry"])
def test_a_generated_page_is_up_to_date(page: str) -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / f"docs/{page}.py")], capture_output=True, text=True, check=True
    )

    assert made.stdout == (ROOT / f"docs/{page}.md").read_text()
