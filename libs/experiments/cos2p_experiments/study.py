"""The input of a report: a suite, its finished cells, and a list of the missing ones.

Invariants: nothing is measured here. Each cell that the suite asks for is either in `cells` or in
`missing`, with the reason where one is known.
"""

from dataclasses import dataclass
from functools import cached_property

from cos2p_experiments.result import CellResult
from cos2p_experiments.suite import Suite

HORIZONS = ("early", "middle", "late")
"""The three horizons. The last is near convergence, where the suite ends."""


@dataclass(frozen=True)
class Missing:
    """A cell that has no result."""

    setting: str
    policy: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Study:
    """A suite with the results of the cells that were run.

    Attributes:
        cells: the results that exist, in the suite's order.
        surplus: the number of results in the folder that the suite does not ask for.
        suite_text: the text of the suite's file, unchanged.
    """

    suite: Suite
    cells: tuple[CellResult, ...]
    missing: tuple[Missing, ...] = ()
    surplus: int = 0
    suite_text: str = ""

    @cached_property
    def policies(self) -> tuple[str, ...]:
        """The policies' labels, in the suite's order."""
        return tuple(self.suite.forms())

    def cells_of(self, setting: str) -> list[CellResult]:
        """Return the cells of a setting."""
        return [c for c in self.cells if c.identity.setting == setting]

    def of(self, setting: str, policy: str) -> dict[int, CellResult]:
        """Return a policy's cells in a setting, by seed."""
        there = self.cells_of(setting)
        return {c.identity.seed: c for c in there if c.identity.policy == policy}

    def present(self, setting: str) -> tuple[str, ...]:
        """Return the policies that have a cell in a setting, in the suite's order."""
        there = {c.identity.policy for c in self.cells_of(setting)}
        return tuple(p for p in self.policies if p in there)

    def horizons_of(self, setting: str) -> tuple[float, ...]:
        """Return early, middle and late in virtual seconds; empty without horizons or cells.

        A setting without horizons uses the thirds of its cells' horizon.
        """
        if named := self.suite.settings[setting].horizons:
            return named
        there = self.cells_of(setting)
        ends = [c.ended_s if c.horizon_s is None else c.horizon_s for c in there]
        return tuple(min(ends) * k / 3 for k in (1, 2, 3)) if ends else ()
