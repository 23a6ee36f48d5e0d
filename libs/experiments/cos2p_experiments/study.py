"""The input of a report: a suite's finished cells, and a list of the missing ones.

Invariants: nothing is measured here. Each cell that the suite asks for is either in `cells` or in
`missing`, with the reason where one is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cos2p_experiments.result import CellResult

Kind = Literal["comparison", "ablation", "rate"]
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
        name: the suite's name.
        kind: which tables the report has.
        settings: the settings' labels, in the suite's order.
        policies: the policies' labels, in the suite's order.
        seeds: the seeds that the suite asks for.
        cells: the results that exist, in the suite's order.
        missing: the cells that have no result.
        surplus: the number of results in the folder that the suite does not ask for.
        ours: the policy whose goals are checked.
        opponent: the policy that every other one is compared with.
        reference: of an ablation, the form from which each other form differs in one setting.
        horizons: three ascending virtual times in seconds, by setting. A setting without them
            uses the thirds of its cells' horizon.
        tuning: how settings were chosen, in words.
        suite_text: the text of the suite's file, unchanged.
    """

    name: str
    kind: Kind
    settings: tuple[str, ...]
    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: tuple[CellResult, ...]
    missing: tuple[Missing, ...] = ()
    surplus: int = 0
    ours: str = "co-s2p"
    opponent: str | None = None
    reference: str | None = None
    horizons: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    tuning: str = ""
    suite_text: str = ""

    def of(self, setting: str, policy: str) -> dict[int, CellResult]:
        """Return a policy's cells in a setting, by seed."""
        return {
            c.identity.seed: c
            for c in self.cells
            if (c.identity.setting, c.identity.policy) == (setting, policy)
        }

    def present(self, setting: str) -> tuple[str, ...]:
        """Return the policies that have a cell in a setting, in the suite's order."""
        there = {c.identity.policy for c in self.cells if c.identity.setting == setting}
        return tuple(p for p in self.policies if p in there)

    def horizons_of(self, setting: str) -> tuple[float, ...]:
        """Return early, middle and late in virtual seconds; empty without horizons or cells."""
        if setting in self.horizons:
            return self.horizons[setting]
        ends = [
            c.ended_s if c.horizon_s is None else c.horizon_s
            for c in self.cells
            if c.identity.setting == setting
        ]
        return tuple(min(ends) * k / 3 for k in (1, 2, 3)) if ends else ()
