"""The house rules that a machine can check."""

import ast
import graphlib
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
# The rooms of a package from the ground floor up. Files outside of rooms are on the ground floor of
# `cos2p`, which all use, and on the top floor of `cos2p_planner`, where all is put together.
FLOORS = {
    "cos2p": ["", "model", "log", "signing", "history", "monitoring", "service"],
    "cos2p_planner": ["state", "choosers", "rules", "baselines", ""],
}
# Names leave these two lists, none is added: give such a function an object that holds what belongs
# together, and such a class parts.
MANY_PARAMETERS = {"cos2p.log.mailbox:Mailbox.__init__"}
MANY_ATTRIBUTES = {
    "cos2p.history.device:DeviceRow",
    "cos2p.history.state:HistoryState",
    "cos2p.history.version:VersionRow",
    "cos2p_planner.state.device:Device",
}
IMPORTS = ast.Import | ast.ImportFrom
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


def module_of(path: Path) -> str:
    package = package_of(path)
    inside = path.relative_to(PACKAGES[package]).with_suffix("").parts
    return ".".join([package, *(part for part in inside if part != "__init__")])


TREES = {module_of(path): ast.parse(path.read_text()) for path in SOURCES}


def definitions(node: ast.AST, name: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every class and function below, by its dotted name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = f"{name}.{child.name}".lstrip(".")
            yield inner, child
            yield from definitions(child, inner)
        else:
            yield from definitions(child, name)


def parameter_count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without `self` and `cls`; `*args` and `**options` are one each."""
    given = function.args
    positional = [a.arg for a in (*given.posonlyargs, *given.args)]
    bound = positional[:1] in (["self"], ["cls"])
    rest = [a for a in (given.vararg, given.kwarg) if a is not None]
    return len(positional) - bound + len(given.kwonlyargs) + len(rest)


def commands(tree: ast.Module) -> set[str]:
    """Functions whose parameters are a command's options: typer reads them."""
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(name in ast.unparse(node.args) for name in ("typer.", "Option", "Annotated"))
    }


def test_no_function_but_a_command_has_more_than_8_parameters() -> None:
    many = {
        f"{module}:{name}"
        for module, tree in TREES.items()
        for name, node in definitions(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and parameter_count(node) > 8
        and name not in commands(tree)
    }

    assert many == MANY_PARAMETERS


def attributes(node: ast.ClassDef) -> set[str]:
    """Fields of the class's body, and what its methods set on `self`."""
    fields = {
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    return fields | {
        found.attr
        for found in ast.walk(node)
        if isinstance(found, ast.Attribute)
        and isinstance(found.ctx, ast.Store)
        and isinstance(found.value, ast.Name)
        and found.value.id == "self"
    }


def attributes_with_bases(classes: dict[str, ast.ClassDef], name: str) -> set[str]:
    """A dataclass has its bases' too. Settings and messages are as flat as what they come from."""
    found = attributes(classes[name])
    if any("dataclass" in ast.unparse(decorator) for decorator in classes[name].decorator_list):
        for base in classes[name].bases:
            if isinstance(base, ast.Name) and base.id in classes:
                found |= attributes_with_bases(classes, base.id)
    return found


def test_no_class_has_more_than_20_attributes() -> None:
    many = set[str]()
    for module, tree in TREES.items():
        classes = {k: v for k, v in definitions(tree) if isinstance(v, ast.ClassDef)}
        for name in classes:
            if len(attributes_with_bases(classes, name)) > 20:
                many.add(f"{module}:{name}")

    assert many == MANY_ATTRIBUTES


def test_no_two_public_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)

    assert {} == {name: found for name, found in homes.items() if len(found) > 1}


def modules_imported(tree: ast.Module) -> Iterator[str]:
    """Our modules that a module imports, at once or later; type checkers' own imports are none."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in TREES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in TREES else node.module
        waiting += ast.iter_child_nodes(node)


def test_no_modules_import_each_other_in_a_circle() -> None:
    arrows = {
        module: {name for name in modules_imported(tree) if name in TREES and name != module}
        for module, tree in TREES.items()
    }

    graphlib.TopologicalSorter(arrows).prepare()  # CycleError names the circle


def room_of(package: str, module: str) -> str:
    """The room that a module lies in; empty for a file outside of rooms."""
    parts = module.split(".")
    return parts[1] if (PACKAGES[package] / parts[min(1, len(parts) - 1)]).is_dir() else ""


@pytest.mark.parametrize("package", FLOORS)
def test_no_room_uses_one_on_a_floor_above(package: str) -> None:
    floors = FLOORS[package]
    upwards = [
        f"{module} imports {name}"
        for module, tree in TREES.items()
        for name in modules_imported(tree)
        if module.startswith(f"{package}.") and name.startswith(f"{package}.")
        if floors.index(room_of(package, name)) > floors.index(room_of(package, module))
    ]

    assert [] == upwards


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


def test_torch_is_imported_in_the_worker_and_in_the_experiments_tasks_only() -> None:
    wrong = [
        str(p.relative_to(ROOT))
        for p in SOURCES
        if package_of(p) != "cos2p_worker" and p.parent != PACKAGES["cos2p_experiments"] / "tasks"
        if any(n.split(".")[0] == "torch" for n in imported(p))
    ]

    assert [] == wrong


def test_matplotlib_is_imported_for_reports_only() -> None:
    charts = "cos2p.history.charts"
    wrong = [
        module
        for module, tree in TREES.items()
        if not module.startswith(("cos2p_cli.", "cos2p_experiments.")) and module != charts
        if charts in modules_imported(tree)
        or any("matplotlib" in ast.unparse(n) for n in ast.walk(tree) if isinstance(n, IMPORTS))
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


def test_no_file_names_a_package_registrys_host() -> None:
    """Which registry is asked is a matter of the machine: pip's and uv's own configuration."""
    host = re.compile(
        rb"\b(pypi|pytorch|pythonhosted|anaconda|npmjs|debian|maven|ghcr|quay)"
        rb"\.(org|com|io)\b"
    )
    namespace = b"http://maven.apache.org/POM/4.0.0"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip(f"git does not list the checkout's files: {listed.stderr.decode().strip()}")
    paths = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in paths
        if path.is_file() and path.suffix not in {".xz", ".sqlite", ".png", ".msgpack"}
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1)
        if host.search(line.replace(namespace, b""))
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
