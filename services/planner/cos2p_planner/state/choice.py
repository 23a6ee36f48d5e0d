"""A choice: the units of a submodel."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A submodel: unit indices, ascending, closed under their cores."""

    trained: tuple[int, ...]
    frozen: tuple[int, ...] = ()
