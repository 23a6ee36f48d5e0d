"""Small changes of the cores, and which of them no unit test notices.

    make mutants                                  # 40 changes, drawn by seed 1
    make mutants ARGS='--seed 7 --count 100'
    make mutants ARGS='--file ledger.py --count 0'     # every change of one file

One mutant is one change of one operator, constant, condition or statement, made in a copy of its
package. The unit tests of its core run on the copy. A mutant that they do not notice survives:
either a test is missing there, or the change changes nothing that anybody can observe.
"""

import argparse
import ast
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Core:
    """Sources that are changed (files or folders), and the tests that should notice."""

    name: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]


CORES = (
    Core(
        "planner",
        ("services/planner/cos2p_planner", "libs/common/cos2p/model/basket.py"),
        ("tests/unit/planner",),
    ),
    Core("aggregator", ("services/aggregator/cos2p_aggregator",), ("tests/unit/aggregator",)),
    Core("worker", ("services/worker/cos2p_worker/core.py",), ("tests/unit/worker/test_core.py",)),
    Core(
        "payload", ("libs/common/cos2p/model/payload.py",), ("tests/unit/common/test_payload.py",)
    ),
    Core("blobs", ("libs/common/cos2p/log/blobs.py",), ("tests/unit/common/test_blobs.py",)),
    Core("cost", ("libs/common/cos2p/model/cost.py",), ("tests/unit/common/test_cost.py",)),
    Core("fence", ("libs/common/cos2p/log/fence.py",), ("tests/unit/common/test_fence.py",)),
)
WITH_IO = {"__init__.py", "__main__.py", "shell.py", "snapshotting.py", "take_over.py"}
"""Files of the cores' folders that are no core: tests of whole processes cover them."""
LOG_CALLS = {"debug", "info", "warning", "error", "exception"}

SWAPS: dict[type[ast.AST], type[Any]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
TEXT = (ast.JoinedStr, ast.Raise, ast.Assert)
"""Nodes that only make texts, or state what can't be: nothing below them is changed."""
UNCHANGED = {"annotation", "returns", "decorator_list", "type_params", "bases"}
"""Fields of nodes that decide nothing at run time."""


@dataclass(frozen=True)
class Mutant:
    """One change: the number of it in its file, and how the place reads before and after."""

    core: str
    file: str
    number: int
    line: int
    before: str
    after: str


Place = tuple[ast.AST, str, int | None, ast.AST]


def mutants_of(source: str, core: str = "", file: str = "") -> Iterator[Mutant]:
    """All changes of a module's source."""
    for number, (place, changed) in enumerate(_all_changes(ast.parse(source))):
        parent, field, index, node = place
        before, after = node, changed
        if isinstance(node, ast.Constant | ast.Name):  # alone they say too little
            before, after = parent, _copy(parent, field, index, changed)
        line = getattr(node, "lineno", 0)
        yield Mutant(core, file, number, line, _line(before), _line(after))


def changed_source(source: str, number: int) -> str:
    """The module with one of its changes."""
    tree = ast.parse(source)
    (parent, field, index, _), changed = _all_changes(tree)[number]
    if index is None:
        setattr(parent, field, changed)
    else:
        getattr(parent, field)[index] = changed
    return ast.unparse(ast.fix_missing_locations(tree))


def _all_changes(tree: ast.Module) -> list[tuple[Place, ast.AST]]:
    return [(place, new) for place in _places(tree) for new in _changes(*place)]


def _places(parent: ast.AST) -> Iterator[Place]:
    """Every node below, with its parent, the parent's field and the place in a list."""
    for field, value in ast.iter_fields(parent):
        if field in UNCHANGED:
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.AST) and not isinstance(node, TEXT) and not _logs(node):
                yield parent, field, index, node
                yield from _places(node)


def _changes(parent: ast.AST, field: str, _: int | None, node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=right) if type(op) in SWAPS:
            yield ast.Compare(left, [SWAPS[type(op)]()], right)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(SWAPS[type(op)](), values)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SWAPS:
            if not (_is_text(left) or _is_text(right)):
                yield ast.BinOp(left, SWAPS[type(op)](), right)
        case ast.AugAssign(target=target, op=op, value=value) if type(op) in SWAPS:
            yield ast.AugAssign(target, SWAPS[type(op)](), value)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(2 * value or 1.0)
        case ast.Name(id="min" | "max" as name) if isinstance(parent, ast.Call):
            yield ast.Name("max" if name == "min" else "min")
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Name() | ast.Call() | ast.Attribute() if field == "test":
            yield ast.UnaryOp(ast.Not(), node)
        case _:
            pass


def _logs(node: ast.AST) -> bool:
    match node:
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=attr))):
            return attr in LOG_CALLS
        case _:
            return False


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _copy(parent: ast.AST, field: str, index: int | None, changed: ast.AST) -> ast.AST:
    """The parent with the change, apart from the tree."""
    fields: dict[str, Any] = dict(ast.iter_fields(parent))
    value = fields[field]
    fields[field] = changed
    if index is not None:
        fields[field] = [*value[:index], changed, *value[index + 1 :]]
    copy = type(parent)(**fields)
    return ast.copy_location(copy, parent)


def _line(node: ast.AST) -> str:
    first = ast.unparse(node).splitlines()[0]
    return first if len(first) <= 100 else f"{first[:97]}..."


# ---------------------------------------------------------------- choosing


def all_mutants(root: Path, cores: Sequence[Core] = CORES, named: str = "") -> list[Mutant]:
    """Every change of every core whose file's path has `named` in it."""
    found: list[Mutant] = []
    for core in cores:
        for path in (p for source in core.sources for p in _modules(root / source)):
            file = str(path.relative_to(root))
            if named in file:
                found += mutants_of(path.read_text(), core.name, file)
    return found


def _modules(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    return sorted(p for p in source.rglob("*.py") if p.name not in WITH_IO)


def drawn(mutants: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """This many, core by core in turn, so that a small core is seen too; all where count is 0."""
    if not count:
        return list(mutants)
    rng = random.Random(seed)
    piles: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        piles.setdefault(mutant.core, []).append(mutant)
    for pile in piles.values():
        rng.shuffle(pile)
    chosen: list[Mutant] = []
    while len(chosen) < count and any(piles.values()):
        chosen += [pile.pop() for pile in piles.values() if pile]
    return chosen[:count]


# ---------------------------------------------------------------- running

# A change can make a loop endless: its memory is bounded, as its time is.
RUN_TESTS = """import resource, sys, pytest
resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
sys.exit(pytest.main(sys.argv[1:]))"""
OPTIONS = ("-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header", "--hypothesis-seed=0")
SURVIVED = 0


def run_tests(tests: Sequence[str], folder: Path | None, limit_s: float) -> int | None:
    """Pytest's exit status with `folder` first on the path; None where it took too long."""
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    if folder is not None:
        path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        env["PYTHONPATH"] = os.pathsep.join(path)
        # Examples that fail on a mutant say nothing of the unchanged code.
        env["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / ".hypothesis")
    command = [sys.executable, "-c", RUN_TESTS, *OPTIONS, *tests]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # tests may have started processes
            process.wait()


def survives(mutant: Mutant, limit_s: float) -> bool:
    """Whether the tests of the mutant's core pass on it."""
    path = ROOT / mutant.file
    package = _package(path)
    with tempfile.TemporaryDirectory(prefix="cos2p-mutant-") as folder:
        copy = Path(folder) / package.name
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
        changed = changed_source(path.read_text(), mutant.number)
        (copy / path.relative_to(package)).write_text(changed)
        return run_tests(_nearest_first(mutant), Path(folder), limit_s) == SURVIVED


def _nearest_first(mutant: Mutant) -> list[str]:
    """The files of the core's tests: one failure ends them, and the module's own fail soonest."""
    core = next(c for c in CORES if c.name == mutant.core)
    paths = [ROOT / place for place in core.tests]
    files = [f for path in paths for f in (sorted(path.rglob("test_*.py")) or [path])]
    own = f"test_{Path(mutant.file).name}"
    return [str(f) for f in sorted(files, key=lambda f: f.name != own)]


def _package(path: Path) -> Path:
    """The top-level package that a module is part of."""
    package = path.parent
    while (package.parent / "__init__.py").exists():
        package = package.parent
    return package


def limits(cores: Sequence[Core]) -> dict[str, float]:
    """Seconds that each core's tests may take on a mutant, by what they take without a change."""
    found = {}
    for core in cores:
        start = time.monotonic()
        status = run_tests(core.tests, None, 600)
        if status != SURVIVED:
            sys.exit(
                f"the tests of {core.name} do not pass unchanged (pytest exits {status}): "
                f"run `python -m pytest {' '.join(core.tests)}` first"
            )
        found[core.name] = 20 + 4 * (time.monotonic() - start)
    return found


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="make mutants", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="which changes are drawn (default 1)")
    parser.add_argument("--count", type=int, default=40, help="how many; 0: all (default 40)")
    parser.add_argument("--file", default="", help="only files with this in their path")
    parser.add_argument("--line", type=int, default=0, help="only this line of theirs")
    parser.add_argument("--jobs", type=int, default=2, help="changes tried at once (default 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(arguments)


def main() -> None:
    """Draw, run, list."""
    wanted = options()
    start = time.monotonic()
    mutants = all_mutants(ROOT, named=wanted.file)
    if wanted.line:
        mutants = [m for m in mutants if m.line == wanted.line]
    if not mutants:
        sys.exit(f"no core's file has {wanted.file!r} in its path, or that line can't be changed")
    chosen = drawn(mutants, wanted.count, wanted.seed)
    names = {m.core for m in chosen}
    limit_s = limits([core for core in CORES if core.name in names])
    with ThreadPoolExecutor(wanted.jobs) as pool:
        lives = list(pool.map(lambda m: survives(m, limit_s[m.core]), chosen))
    alive = [m for m, lived in zip(chosen, lives, strict=True) if lived]
    if wanted.json:
        rows = [asdict(m) | {"survived": lived} for m, lived in zip(chosen, lives, strict=True)]
        print(json.dumps({"seed": wanted.seed, "of": len(mutants), "mutants": rows}, indent=2))
        return
    for mutant in sorted(alive, key=lambda m: (m.file, m.line)):
        print(f"survived  {mutant.file}:{mutant.line}\n    {mutant.before}\n    {mutant.after}")
    print(
        f"{len(chosen)} of {len(mutants)} changes, seed {wanted.seed}: "
        f"{len(chosen) - len(alive)} killed, {len(alive)} survived "
        f"({time.monotonic() - start:.0f} s)"
    )


if __name__ == "__main__":
    main()
