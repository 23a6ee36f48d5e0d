"""Whether the unit scores of a report can be used."""

from collections.abc import Sequence

import numpy as np

from cos2p.model.cost import FLOAT_BYTES
from cos2p.model.unit_wire import UnitScores


def wrong_scores(
    scores: UnitScores, unit_count: int, samples_max: int, label_counts: Sequence[int] | None
) -> str:
    """Return why a report's unit scores are not used; empty where they are.

    Scores only steer the choice of units, so wrong scores do not make the update INVALID. `judge`
    checks the report, and the aggregator checks its payload.

    Args:
        scores: the scores as reported.
        unit_count: trained units of the plan that have a gate.
        samples_max: samples that the plan's steps can have used, with repeats.
        label_counts: the label counts that the device announced; None where it withholds its
            labels.
    """
    classes, counts = scores.classes, scores.counts
    if len(counts) != classes or len(scores.sums) != FLOAT_BYTES * unit_count * classes:
        return (
            f"{len(counts)} counts and {len(scores.sums)} bytes of sums don't make "
            f"{unit_count} units by {classes} labels"
        )
    if classes > 1:
        announced = label_counts or ()
        if len(announced) != classes:
            return f"{classes} labels, the device announced {len(announced)}"
        if absent := [c for c in range(classes) if counts[c] and not announced[c]]:
            return f"samples of label {absent[0]}, of which the device announced none"
    if not 0 < sum(counts) <= samples_max:
        return f"{sum(counts)} samples scored; the plan's steps show 1 to {samples_max}"
    sums = scores.matrix()
    if not np.isfinite(sums).all() or (sums < 0).any():
        return "a sum of squares is negative or not finite"
    if sums[:, np.array(counts) == 0].any():
        return "a sum without samples"
    return ""
