"""The settings of a run: how many there are, and that their page shows each as it is."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cos2p.run_config import RunConfig

PAGE = Path(__file__).parents[3] / "docs/settings.md"
LEAVES_MAX = 58


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting that is no section, by its path, with its default."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def documented() -> dict[str, Any]:
    """Every setting of the page, by its path, with the default that the page gives."""
    found: dict[str, Any] = {}
    path = ""
    section = PAGE.read_text().partition("## Settings of a run")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if heading := re.match(r"### `\[(.+)\]`", line):
            path = f"{heading[1]}."
        if row := re.match(r"\| `(\w+)` \| [^|]+ \| (?:`(.+?)`)? \| [^|]+\|$", line):
            found[path + row[1]] = tomllib.loads(f"x = {row[2]}")["x"] if row[2] else None
    return found


def described(kind: type[BaseModel]) -> Iterator[str]:
    """The meaning of every setting, in all sections."""
    for info in kind.model_fields.values():
        if isinstance(info.default, BaseModel):
            yield from described(type(info.default))
        else:
            yield info.description or ""


def test_there_are_no_more_settings_than_a_person_can_read() -> None:
    """Whoever adds one removes one that does not pay."""
    assert LEAVES_MAX >= len(dict(leaves(RunConfig().model_dump(mode="json"))))


def test_the_settings_page_has_every_setting_with_its_default() -> None:
    assert dict(leaves(RunConfig().model_dump(mode="json"))) == documented()


def test_every_setting_says_what_it_means() -> None:
    assert all(described(RunConfig))
