"""The tables of a comparison, one setting at a time: accuracy, differences, cost.

Invariants: every policy that has a cell has a row. Every row shows its number of seeds. All
accuracies are of versions that were published by the horizon.
"""

from collections.abc import Callable, Sequence
from functools import partial

from cos2p.log.values import Outcome
from cos2p.model.cost import plain_bytes
from cos2p_experiments import formatting, measures, roles, statistics
from cos2p_experiments.formatting import number, points, size, whole
from cos2p_experiments.result import CellResult
from cos2p_experiments.statistics import Censored, Spread
from cos2p_experiments.study import HORIZONS, Study
from cos2p_experiments.table import Column, Table

Measure = Callable[[CellResult], float | None]
Measured = tuple[str, str, Callable[[Spread], str], Measure]
"""A column: its name and heading, how it is written, and its measure of a cell."""
SPREAD = ("mean", "sd", "count")
CONTRAST = ("mean", "half_width", "p", "p_corrected", "count")
REFUSED = (Outcome.STALE, Outcome.INVALID, Outcome.DUPLICATE)
DROPPED = (Outcome.EXPIRED, Outcome.CANCELLED)
POLICY = Column("policy", "policy")
SEEDS = Column("seeds", "seeds")


def accuracy_table(study: Study, setting: str) -> Table:
    """Return the accuracies at three horizons of equal virtual time."""
    moments = study.horizons_of(setting)
    late = moments[-1]
    measured: list[Measured] = [
        *(
            (f"accuracy_{name}", f"{name} ({t:.0f} s)", points, _accuracy_at(t))
            for name, t in zip(HORIZONS, moments, strict=True)
        ),
        ("raw_late", "late, raw", points, _accuracy_at(late, form="raw")),
        ("plain_late", "late, unscaled", points, _accuracy_at(late, form="plain")),
        ("scaled_late", "late, scaled", points, _accuracy_at(late, form="scaled")),
        ("exits_late", "late, mean of exits", points, _accuracy_at(late, form="mean")),
        (
            "mean_accuracy",
            "mean over time",
            points,
            lambda c: statistics.mean_height(*measures.curve(c), late),
        ),
    ]
    note = (
        f"Accuracy in % on the {roles.evaluated_on(study, setting)} data, mean ± sd over seeds, at "
        "equal virtual time. Published model (moving average of versions; the raw version where a "
        "policy has no average) unless it says raw, its units scaled or not as the policy has "
        "it (evaluation.scaling) unless it says which; the final head's answer, but the mean of "
        "all exits' for policies that predict so (evaluation.answer: depthfl, scalefl), in the "
        "three horizons and the mean over time: the area under the curve."
    )
    return _measured(study, setting, (f"accuracy-{setting}", "Accuracy", note), measured)


def bytes_table(study: Study, setting: str) -> Table:
    """Return the accuracies at equal bytes: those that our policy had moved at the horizons."""
    present = study.present(setting)
    payer = study.suite.ours if study.suite.ours in present else present[0]
    marks = {
        name: min(found.values())
        for name, t in zip(HORIZONS, study.horizons_of(setting), strict=True)
        if (found := roles.values(study, setting, payer, partial(measures.spent_at, virtual_s=t)))
    }
    measured: list[Measured] = [
        *(
            (
                f"accuracy_{name}",
                f"{name} ({plain_bytes(b)})",
                points,
                _accuracy_at(b, "bytes"),
            )
            for name, b in marks.items()
        ),
        ("bytes_moved", "moved in all", size, _moved),
    ]
    note = (
        "Accuracy in % at equal bytes, up and down over all devices: the least that a run of "
        f"{payer} had moved at each horizon. A dash: no run of the policy moved so much."
    )
    headings = (f"bytes-{setting}", "Accuracy at equal bytes", note)
    return _measured(study, setting, headings, measured)


def difference_table(study: Study, setting: str, opponent: str) -> Table:
    """Return paired differences to one policy at the horizons, and the time to its accuracy."""
    moments = study.horizons_of(setting)
    others = [p for p in study.present(setting) if p != opponent]
    found = statistics.corrected([d for p in others for d in paired(study, setting, p, opponent)])
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
            Column(name, f"{name} ({t:.0f} s)", formatting.contrast, CONTRAST)
            for name, t in zip(HORIZONS, moments, strict=True)
        ),
        Column(
            "time_ratio", "time to its accuracy", formatting.ratio, ("median", "reached", "count")
        ),
    )
    notes = (
        f"Policy minus {opponent}, points of accuracy, paired by seed: mean ± half of the 95 % t "
        f"interval (p by Holm over the {sum(d is not None and d.p is not None for d in found)} "
        "comparisons of this table that have one; bold under 0.05). Time: median over seeds of "
        f"the virtual time to {opponent}'s late accuracy, as a ratio to its own; in brackets how "
        "many runs got there by the late horizon, where not all did (the others count as slower "
        "than any).",
    )
    name = f"against-{opponent}-{setting}"
    return Table(name, f"Against {opponent}", columns, tuple(rows), notes)


def cost_table(study: Study, setting: str) -> Table:
    """Return the table of N*, busy share, memory, bytes and plans."""
    limited = roles.limited(study, setting)
    bound = roles.coverage_bound(study, setting)
    measured: list[Measured] = [
        (
            "coverage_min",
            f"N* least (of {bound})",
            number,
            lambda c: min(measures.coverage(c), default=None),
        ),
        ("coverage_mean", "N* mean", number, lambda c: statistics.mean(measures.coverage(c))),
        ("coverage_share", "of its bound %", points, measures.coverage_share),
        ("busy_share", "busy %", points, lambda c: c.busy_share),
        (
            "device_count",
            "devices",
            whole,
            lambda c: sum(d.peak_measured_bytes > 0 for d in c.devices),
        ),
        ("memory_share", "peak memory %", points, lambda c: measures.memory_share(c, limited)),
        (
            "memory_peak",
            "peak memory",
            size,
            lambda c: statistics.mean(list(measures.peaks(c, limited).values())),
        ),
        ("bytes_up", "up", size, lambda c: sum(d.bytes_up for d in c.devices)),
        ("bytes_down", "down", size, lambda c: sum(d.bytes_down for d in c.devices)),
        ("versions", "versions", whole, lambda c: c.versions),
        ("merged", "merged", whole, _ended(Outcome.ACCEPTED)),
        ("refused", "refused", whole, _ended(*REFUSED)),
        ("dropped", "dropped", whole, _ended(*DROPPED)),
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


def paired(
    study: Study, setting: str, policy: str, other: str
) -> list[statistics.PairedDifference | None]:
    """Return the paired differences at the three horizons; None where no seed is on both sides."""
    return [
        statistics.paired(*(roles.accuracies(study, setting, p, t) for p in (policy, other)))
        for t in study.horizons_of(setting)
    ]


def time_ratio(study: Study, setting: str, policy: str, other: str) -> Censored | None:
    """Return the ratio of both policies' times to the other's late accuracy, paired by seed."""
    late = study.horizons_of(setting)[-1]
    targets = roles.final_accuracies(study, setting, other)
    ours, theirs = study.of(setting, policy), study.of(setting, other)
    ratios: list[float | None] = []
    for seed in sorted(ours.keys() & targets.keys()):
        needed = measures.time_to(ours[seed], targets[seed], late)
        own = measures.time_to(theirs[seed], targets[seed], late)
        if own:  # a run that never got beyond its first version has no time to compare
            ratios.append(None if needed is None else needed / own)
    return statistics.censored(ratios) if ratios else None


def seed_count(study: Study, setting: str, policy: str) -> str:
    """Write the number of seeds: ``5``, or ``4 of 5`` where cells are missing."""
    there = len(study.of(setting, policy))
    return str(there) if there == len(study.suite.seeds) else f"{there} of {len(study.suite.seeds)}"


def _measured(
    study: Study, setting: str, headings: tuple[str, str, str], measured: Sequence[Measured]
) -> Table:
    """Return a row of spreads for every policy, without columns that have no value at all.

    `headings` are the table's name, title and note.
    """
    present = study.present(setting)
    spreads = [
        [
            statistics.spread(list(roles.values(study, setting, policy, measure).values()))
            for policy in present
        ]
        for *_, measure in measured
    ]
    kept = [i for i, column in enumerate(spreads) if any(s is not None for s in column)]
    columns = [Column(*measured[i][:3], SPREAD) for i in kept]
    seeds = [seed_count(study, setting, policy) for policy in present]
    rows = zip(present, seeds, *(spreads[i] for i in kept), strict=True)
    name, title, note = headings
    return Table(name, title, (POLICY, SEEDS, *columns), tuple(rows), (note,))


def _accuracy_at(
    x: float, axis: measures.Axis = "time", form: measures.Form = "published"
) -> Measure:
    def measure(cell: CellResult) -> float | None:
        if axis == "bytes" and _moved(cell) < x:
            return None
        return measures.accuracy_at(cell, x, axis, form)

    return measure


def _ended(*outcomes: Outcome) -> Measure:
    return lambda cell: sum(d.outcomes[o] for d in cell.devices for o in outcomes)


def _moved(cell: CellResult) -> float:
    return measures.spent(cell.curve[-1], "bytes") if cell.curve else 0.0
