"""Writes docs/settings.md from the settings classes and exit codes: `make docs`.

Invariant: the settings of a run are found by walking `RunConfig`, section by section, so that none
can be missing.
"""

from collections.abc import Iterator

from protocol import about, cell, type_name
from pydantic import BaseModel

from cos2p.errors import ExitCode
from cos2p.run_config import RunConfig
from cos2p.settings import (
    PREFIX,
    AggregatorSettings,
    BusSettings,
    PlannerSettings,
    ServiceSettings,
    WorkerSettings,
)

HEAD = """# Settings and exit codes

Generated from `settings.py`, `run_config.py` and `errors.py` in `libs/common/cos2p/` by
`make docs`; a test fails when it is out of date.

Settings come from the environment; a command's own options win. A variable that starts with
`COS2P_` and that no role knows is an error with the closest known name: a typing slip can't pass
for a default. The settings of a run (rounds, local steps, shards, ...) are in its TOML file: see
[Settings of a run](#settings-of-a-run).
"""
RUN = """## Settings of a run

What a run's TOML file may hold. A default is what Co-S2P itself runs with. A task may set its own
values over the defaults, a baseline's preset sets its own over the task's (`cos2p policies` lists
them), and the run file wins over both.
"""

SECTIONS: tuple[tuple[str, type[BusSettings]], ...] = (
    ("Every command that opens a bus", BusSettings),
    ("Every service", ServiceSettings),
    ("The planner", PlannerSettings),
    ("An aggregator shard", AggregatorSettings),
    ("A worker, and the evaluator", WorkerSettings),
)


def run_section(kind: type[BaseModel], path: str = "") -> Iterator[str]:
    """A section of a run's settings, and all sections in it."""
    yield f"### `[{path}]`\n\n{about(kind)}\n" if path else "### Top level\n"
    yield "| setting | type | default | meaning |"
    yield "|---|---|---|---|"
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, info in kind.model_fields.items():
        if isinstance(info.default, BaseModel):
            inner.append((f"{path}.{name}".lstrip("."), type(info.default)))
        else:
            typed = type_name(info.annotation).removesuffix(" or nil")  # TOML has no null
            yield f"| `{name}` | {typed} | {toml(info.default)} | {cell(info.description)} |"
    yield ""
    for name, section in inner:
        yield from run_section(section, name)


def toml(value: object) -> str:
    """A default as a run file would hold it; None, which TOML lacks, is left out."""
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
    return f"`{text}`"


def page() -> Iterator[str]:
    """The page, line by line."""
    yield HEAD
    seen: set[str] = set()
    for title, kind in SECTIONS:
        yield f"## {title}\n"
        yield "| variable | default | meaning |"
        yield "|---|---|---|"
        for name, info in kind.model_fields.items():
            if name in seen:
                continue
            seen.add(name)
            default = "" if info.default is None else f"`{info.default}`"
            yield f"| `{PREFIX}{name.upper()}` | {default} | {cell(info.description)} |"
        yield ""
    yield RUN
    yield from run_section(RunConfig)
    yield "## Exit codes\n"
    yield "| code | name | meaning |"
    yield "|---|---|---|"
    for code in ExitCode:
        yield f"| {int(code)} | {code.name} | {code.help} |"


if __name__ == "__main__":
    print("\n".join(page()))
