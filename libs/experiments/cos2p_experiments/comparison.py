"""The tables of a comparison, one setting at a time: accuracy, differences, cost.

Invariants: every policy that has a cell has a row, every row says on how many seeds it stands; all
accuracies are of versions that were published by the horizon.
"""

from collections.abc import Callable, Sequence

from cos2p.model.cost import plain_bytes
from cos2p_experiments import measures, roles, statistics, wording
from cos2p_experiments.result import CellResult
from cos2p_experiments.statistics import Censored, Spread
from cos2p_experiments.study import HORIZONS, Study
from cos2p_experiments.table import Column, Table
from cos2p_experiments.wording import Contrast

Measure = Callable[[CellResult], float | None]
Measured = tuple[Column, Measure]
SPREAD = ("mean", "sd", "count")
CONTRAST = ("mean", "half_width", "p", "p_corrected", "count")
POLICY = Column("policy", "policy")
SEEDS = Column("seeds", "seeds")


def accuracy_table(study: Study, setting: str) -> Table:
    """Accuracy at three horizons of equal virtual time."""
    moments = study.horizons_of(setting)
    late = moments[-1]
    measured: list[Measured] = [
        *(
            (_points(f"accuracy_{name}", f"{name} ({t:.0f} s)"), _accuracy_at(t))
            for name, t in zip(HORIZONS, moments, strict=True)
        ),
        (_points("raw_late", "late, raw"), _accuracy_at(late, form="raw")),
        (_points("plain_late", "late, unscaled"), _accuracy_at(late, form="plain")),
        (_points("scaled_late", "late, scaled"), _accuracy_at(late, form="scaled")),
        (_points("exits_late", "late, mean of exits"), _accuracy_at(late, form="exits")),
        (
            _points("mean_accuracy", "mean over time"),
            lambda c: measures.mean_accuracy(c, late),
        ),
    ]
    note = (
        f"Accuracy in % on the {_data(study, setting)} data, mean ± sd over seeds, at equal "
        "virtual time. Published model (moving average of versions; the raw version where a "
        "policy has no average) unless it says raw, its units scaled or not as the policy has "
        "it (evaluation.scaling) unless it says which; the final head's answer, but the mean of "
        "all exits' for policies that predict so (evaluation.answer: depthfl, scalefl), in the "
        "three horizons and the mean over time: the area under the curve."
    )
    return _measured(study, setting, (f"accuracy-{setting}", "Accuracy", note), measured)


def bytes_table(study: Study, setting: str) -> Table:
    """Accuracy at three horizons of equal bytes: what our policy had moved at equal times."""
    present = study.present(setting)
    payer = study.ours if study.ours in present else present[0]
    marks = {
        name: min(found.values())
        for name, t in zip(HORIZONS, study.horizons_of(setting), strict=True)
        if (found := roles.values(study, setting, payer, _moved_by(t)))
    }
    measured: list[Measured] = [
        *(
            (
                _points(f"accuracy_{name}", f"{name} ({plain_bytes(b)})"),
                _accuracy_at(b, "bytes"),
            )
            for name, b in marks.items()
        ),
        (_column("bytes_moved", "moved in all", wording.size), _moved),
    ]
    note = (
        "Accuracy in % at equal bytes, up and down over all devices: the least that a run of "
        f"{payer} had moved at each horizon. A dash: no run of the policy moved so much."
    )
    return _measured(
        study, setting, (f"bytes-{setting}", "Accuracy at equal bytes", note), measured
    )


def difference_table(study: Study, setting: str, opponent: str) -> Table:
    """Paired differences to one policy at the three horizons, and the time to its accuracy."""
    moments = study.horizons_of(setting)
    others = [p for p in study.present(setting) if p != opponent]
    found = contrasts(
        [
            (roles.accuracies(study, setting, p, t), roles.accuracies(study, setting, opponent, t))
            for p in others
            for t in moments
        ]
    )
    rows = [
        (
            policy,
            *found[i * len(moments) : (i + 1) * len(moments)],
            time_ratio(study, setting, policy, opponent),
        )
        for i, policy in enumerate(others)
    ]
    columns = (
        POLICY,
        *(
            Column(name, f"{name} ({t:.0f} s)", wording.contrast, CONTRAST)
            for name, t in zip(HORIZONS, moments, strict=True)
        ),
        Column(
            "time_ratio",
            "time to its accuracy",
            wording.ratio,
            ("median", "reached", "count"),
        ),
    )
    notes = (
        f"Policy minus {opponent}, points of accuracy, paired by seed: mean ± half of the 95 % t "
        f"interval (p by Holm over the {sum(c is not None and c.p is not None for c in found)} "
        "comparisons of this table that have one; bold under 0.05). Time: median over seeds of "
        f"the virtual time to {opponent}'s late accuracy, as a ratio to its own; in brackets how "
        "many runs got there by the late horizon, where not all did (the others count as slower "
        "than any).",
    )
    name = f"against-{opponent}-{setting}"
    return Table(name, f"Against {opponent}", columns, tuple(rows), notes)


def cost_table(study: Study, setting: str) -> Table:
    """N*, busy share, memory, bytes, plans."""
    limited = roles.limited(study, setting)
    bound = roles.coverage_bound(study, setting)
    measured: list[Measured] = [
        (_column("coverage_min", f"N* least (of {bound})", wording.number), _least_coverage),
        (_column("coverage_mean", "N* mean", wording.number), _mean_coverage),
        (_points("coverage_share", "of its bound %"), measures.coverage_share),
        (_points("busy_share", "busy %"), lambda c: c.busy_share),
        (_column("device_count", "devices", wording.whole), measures.device_count),
        (
            _points("memory_share", "peak memory %"),
            lambda c: measures.memory_share(c, limited),
        ),
        (
            _column("memory_peak", "peak memory", wording.size),
            lambda c: measures.memory_peak(c, limited),
        ),
        (_column("bytes_up", "up", wording.size), measures.bytes_up),
        (_column("bytes_down", "down", wording.size), measures.bytes_down),
        (_column("versions", "versions", wording.whole), lambda c: c.versions),
        (_column("merged", "merged", wording.whole), _ended("accepted")),
        (_column("refused", "refused", wording.whole), _ended("stale", "invalid", "duplicate")),
        (_column("dropped", "dropped", wording.whole), _ended("expired", "cancelled")),
    ]
    note = (
        f"N*: least merged updates of any prunable unit in a full window of versions; floor(sum "
        f"r_i) = {bound}; of its bound: mean share of what the window's updates could have given "
        f"every unit. Busy: share of all devices' time. Devices: those that trained at all. Peak "
        f"memory: measured, mean over those of the {len(limited)} devices too small for the full "
        "model that trained, and as a share of their budget. "
        "Up, down: all devices. Merged, refused (stale, invalid, doubled), dropped (expired, "
        "cancelled): plans."
    )
    return _measured(study, setting, (f"cost-{setting}", "Cost and coverage", note), measured)


def contrasts(
    pairs: Sequence[tuple[dict[int, float], dict[int, float]]],
) -> list[Contrast | None]:
    """Paired differences of one family, corrected over it; None where no seed is on both sides."""
    differences = [statistics.paired(ours, theirs) for ours, theirs in pairs]
    corrected = statistics.holm([d.p if d else None for d in differences])
    return [Contrast.of(d, p) if d else None for d, p in zip(differences, corrected, strict=True)]


def time_ratio(study: Study, setting: str, policy: str, other: str) -> Censored | None:
    """Time to the other's late accuracy of the same seed, over the other's own time to it."""
    late = study.horizons_of(setting)[-1]
    targets = roles.final_accuracies(study, setting, other)
    ours, theirs = study.of(setting, policy), study.of(setting, other)
    ratios: list[float | None] = []
    for seed in sorted(ours.keys() & targets.keys()):
        needed = measures.time_to(ours[seed], targets[seed], late)
        own = measures.time_to(theirs[seed], targets[seed], late)
        if own:  # a run that never got beyond its first version says nothing of time
            ratios.append(None if needed is None else needed / own)
    return statistics.censored(ratios) if ratios else None


def seed_count(study: Study, setting: str, policy: str) -> str:
    """``5``; ``4 of 5`` where cells are missing."""
    there = len(study.of(setting, policy))
    return str(there) if there == len(study.seeds) else f"{there} of {len(study.seeds)}"


def _measured(
    study: Study, setting: str, words: tuple[str, str, str], measured: Sequence[Measured]
) -> Table:
    """A row of spreads for every policy; columns that nobody has a value in are left out."""
    rows = [
        [
            statistics.spread(list(roles.values(study, setting, policy, measure).values()))
            for _, measure in measured
        ]
        for policy in study.present(setting)
    ]
    kept = [i for i in range(len(measured)) if any(row[i] is not None for row in rows)]
    name, title, note = words
    return Table(
        name,
        title,
        (POLICY, SEEDS, *(measured[i][0] for i in kept)),
        tuple(
            (policy, seed_count(study, setting, policy), *(row[i] for i in kept))
            for policy, row in zip(study.present(setting), rows, strict=True)
        ),
        (note,),
    )


def _accuracy_at(
    x: float, axis: measures.Axis = "time", form: measures.Form = "published"
) -> Measure:
    def measure(cell: CellResult) -> float | None:
        if axis == "bytes" and _moved(cell) < x:
            return None
        return measures.accuracy_at(cell, x, axis, form)

    return measure


def _moved_by(at_s: float) -> Measure:
    return lambda cell: measures.spent_at(cell, at_s)


def _ended(*names: str) -> Measure:
    return lambda cell: measures.outcome_count(cell, *names)


def _column(name: str, head: str, show: Callable[[Spread], str]) -> Column:
    return Column(name, head, show, SPREAD)


def _points(name: str, head: str) -> Column:
    return _column(name, head, wording.points)


def _least_coverage(cell: CellResult) -> float | None:
    return min(measures.coverage(cell), default=None)


def _mean_coverage(cell: CellResult) -> float | None:
    found = statistics.spread(measures.coverage(cell))
    return None if found is None else found.mean


def _moved(cell: CellResult) -> float:
    return measures.spent(cell.curve[-1], "bytes") if cell.curve else 0.0


def _data(study: Study, setting: str) -> str:
    kinds = {c.identity.evaluated_on for c in study.cells if c.identity.setting == setting}
    return " and ".join(sorted(kinds))
