"""The colour and line of each policy: the same in every plot, for known names in every report.

Invariants: no two policies of a study share both colour and line. Colours are Okabe and Ito's and
Paul Tol's muted ones, which differ under any common colour blindness. The policies that the report
is about have thicker lines.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cos2p_experiments.study import Study

OURS, OPPONENT = "#d55e00", "#0072b2"
KNOWN: Mapping[str, str] = {
    "fedrolex-staggered": OPPONENT,
    "fedavg-ideal": "#000000",
    "fedavg-small": "#777777",
    "fedavg-exclusive": "#ababab",
    "heterofl": "#009e73",
    "fedrolex": "#cc79a7",
    "federated-dropout": "#e69f00",
    "fjord": "#56b4e9",
    "depthfl": "#882255",
    "scalefl": "#999933",
    "fiarse": "#332288",
    "fedbuff": "#44aa99",
    "fedasync": "#aa4499",
    "fedcompass": "#661100",
}
SOLID, DASHED, DOTTED = "-", (0, (4, 1.5)), (0, (1, 1.2))
Line = str | tuple[float, tuple[float, ...]]
THICK, THIN = 2.6, 1.3


@dataclass(frozen=True)
class Style:
    """The look of a policy in plots."""

    colour: str
    line: Line = SOLID
    width: float = THIN


def styles(study: Study) -> dict[str, Style]:
    """Return a style for every policy of the suite, with or without cells."""
    bases = {c.identity.policy: c.identity.base_policy for c in study.cells}
    suite, drawn = study.suite, dict[str, Style]()
    lead = suite.reference if suite.reference in study.policies else suite.ours
    for policy, colour in ((lead, OURS), (suite.opponent, OPPONENT)):
        if policy in study.policies:
            drawn.setdefault(policy, Style(colour, SOLID, THICK))
    for policy in study.policies:
        if policy not in drawn:
            taken = {(s.colour, s.line) for s in drawn.values()}
            pairs = _pairs(KNOWN.get(bases.get(policy, policy)))
            drawn[policy] = Style(*next(pair for pair in pairs if pair not in taken))
    return {p: drawn[p] for p in study.policies}


def _pairs(own: str | None) -> list[tuple[str, Line]]:
    """Return colours and lines in the order of preference: the policy's own colour first."""
    lines: list[Line] = [SOLID, DASHED, DOTTED]
    first = [(own, line) for line in lines] if own else []
    spare = [OPPONENT, *(c for c in KNOWN.values() if c != own), OURS]
    return first + [(colour, line) for line in lines for colour in spare]
