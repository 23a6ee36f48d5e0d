"""The goals of the method, each with its result and whether it was met.

Invariants: a goal that the cells can't answer names what is missing. It is neither met nor missed.
A goal is judged at the late horizon and on means, with the interval printed next to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cos2p_experiments import formatting, measures, roles, statistics
from cos2p_experiments.comparison import paired, time_ratio
from cos2p_experiments.statistics import PairedDifference
from cos2p_experiments.study import HORIZONS, Study
from cos2p_experiments.table import Column, Table

AHEAD_OF_BEST, AHEAD_OF_WEAKEST, UNDER_CEILING = 0.02, 0.088, -0.03
TIME_MOST, MEMORY_MOST, BUSY_LEAST, COVERAGE_LEAST = 0.6, 0.75, 1.3, 0.7


@dataclass(frozen=True)
class Goal:
    """One goal in one setting.

    Attributes:
        against: the policy that ours is compared with; "" where there is none.
        found: the result in words.
        value: the number that is judged; None where it is not known.
        verdict: met, missed, or the reason why neither is known.
    """

    setting: str
    goal: str
    against: str
    found: str
    value: float | None
    verdict: str


def goals(study: Study) -> list[Goal]:
    """Return all goals of all settings that have a cell of ours."""
    settings = [s for s in study.suite.settings if study.suite.ours in study.present(s)]
    found = [goal for s in settings for goal in _of_setting(study, s)]
    return found + _against_opponent(study, settings)


def goals_table(study: Study) -> Table:
    """Return the goals as a table."""
    names = ("setting", "goal", "against", "found", "value", "verdict")
    columns = tuple(Column(n, n, None if n == "value" else str) for n in names)
    rows = tuple(
        (g.setting, g.goal, g.against or None, g.found, g.value, g.verdict) for g in goals(study)
    )
    notes = (
        f"Ours is {study.suite.ours}. Differences in points of accuracy, early / middle / late, "
        "paired by seed, with half of the 95 % t interval; judged by the late mean. Best and "
        "weakest baseline: by late accuracy. Against the opponent: p by Holm over these settings "
        "and horizons; ahead or behind only where it is under 0.05 at the late horizon.",
    )
    return Table("goals", "What it should show", columns, rows, notes)


def _of_setting(study: Study, setting: str) -> list[Goal]:
    found: list[Goal] = []
    baselines = roles.synchronous_baselines(study, setting)
    if not baselines:
        text = "no synchronous submodel baseline has a cell"
        found.append(Goal(setting, "ahead of the baselines", "", "-", None, text))
    else:
        best, weakest = baselines[-1], baselines[0]
        if roles.is_skewed(study, setting):
            found.append(_accuracy(study, setting, "best", best, AHEAD_OF_BEST))
            found.append(_accuracy(study, setting, "weakest", weakest, AHEAD_OF_WEAKEST))
        found += [
            _time(study, setting, best),
            _memory(study, setting, best),
            _busy(study, setting, best),
        ]
    ceiling = roles.ceiling(study, setting)
    fleet = roles.devices(study, setting)
    if ceiling is not None and len(roles.limited(study, setting)) == len(fleet):
        found.append(_accuracy(study, setting, "ceiling", ceiling, UNDER_CEILING))
    return [*found, _coverage(study, setting)]


def _accuracy(study: Study, setting: str, role: str, other: str, least: float) -> Goal:
    found = paired(study, setting, study.suite.ours, other)
    late = found[-1]
    goal = f"accuracy against the {role} baseline {100 * least:+.1f} or more"
    if role == "ceiling":
        goal = f"accuracy within {-100 * least:.0f} points of the full model everywhere"
    if late is None:
        return Goal(setting, goal, other, _three(found), None, "no common seed")
    verdict = _verdict(late.mean >= least) + (" on one seed" if late.count == 1 else "")
    return Goal(setting, goal, other, _three(found), late.mean, verdict)


def _three(found: Sequence[PairedDifference | None]) -> str:
    return " / ".join("-" if d is None else formatting.difference(d) for d in found)


def _time(study: Study, setting: str, best: str) -> Goal:
    found = time_ratio(study, setting, study.suite.ours, best)
    goal = f"virtual time to the best baseline's accuracy <= {TIME_MOST}"
    if found is None:
        return Goal(setting, goal, best, "-", None, "no common seed")
    value = found.median
    verdict = _verdict(value is not None and value <= TIME_MOST)
    return Goal(setting, goal, best, formatting.ratio(found), value, verdict)


def _memory(study: Study, setting: str, best: str) -> Goal:
    """Judge the form of ours with the lowest memory that is as accurate as the baseline."""
    goal = f"peak memory of limited devices <= {MEMORY_MOST} at equal or better accuracy"
    accuracies = roles.final_accuracies(study, setting, best)
    ratios = {p: _memory_ratio(study, setting, p, best) for p in study.present(setting)}
    if ratios[study.suite.ours] is None:
        return Goal(setting, goal, best, "-", None, "no limited device trained in both")
    forms = []
    for policy, ratio in ratios.items():
        gain = statistics.paired(roles.final_accuracies(study, setting, policy), accuracies)
        as_accurate = gain is not None and gain.mean >= 0
        if ratio is not None and as_accurate and _is_form_of_ours(study, setting, policy):
            forms.append((ratio, policy))
    if not forms:
        return Goal(setting, goal, best, "no form of ours is as accurate", None, "missed")
    value, policy = min(forms)
    text = f"{value:.2f}" + ("" if policy == study.suite.ours else f" ({policy})")
    return Goal(setting, goal, best, text, value, _verdict(value <= MEMORY_MOST))


def _memory_ratio(study: Study, setting: str, policy: str, other: str) -> float | None:
    """Return the mean ratio over seeds and limited devices that trained under both policies."""
    limited = roles.limited(study, setting)
    ours, theirs = study.of(setting, policy), study.of(setting, other)
    pairs = [(ours[s], theirs[s]) for s in sorted(ours.keys() & theirs.keys())]
    ratios = [measures.memory_ratio(a, b, limited) for a, b in pairs]
    return statistics.mean([r for r in ratios if r is not None])


def _is_form_of_ours(study: Study, setting: str, policy: str) -> bool:
    bases = {c.identity.base_policy for c in study.of(setting, study.suite.ours).values()}
    return all(c.identity.base_policy in bases for c in study.of(setting, policy).values())


def _busy(study: Study, setting: str, best: str) -> Goal:
    goal = f"busy share of all devices >= {BUSY_LEAST} times the best baseline's"
    ours, theirs = (
        statistics.mean([c.busy_share for c in study.of(setting, p).values()])
        for p in (study.suite.ours, best)
    )
    if not ours or not theirs:
        return Goal(setting, goal, best, "-", None, "no device reported")
    value = ours / theirs
    text = f"{value:.2f} ({100 * ours:.0f} % against {100 * theirs:.0f} %)"
    return Goal(setting, goal, best, text, value, _verdict(value >= BUSY_LEAST))


def _coverage(study: Study, setting: str) -> Goal:
    bound = roles.coverage_bound(study, setting)
    goal = f"N* >= {100 * COVERAGE_LEAST:.0f} % of floor(sum r_i) = {bound} in every window"
    windows = _windows(study, setting, study.suite.ours)
    if not windows or not bound:
        return Goal(setting, goal, "", "-", None, "no full window of versions")
    held = float(np.mean(np.array(windows) >= COVERAGE_LEAST * bound))
    value = min(windows) / bound
    text = f"least {min(windows)}, mean {np.mean(windows):.1f}; held in {100 * held:.0f} %"
    others = [
        (min(counts), p)
        for p in roles.synchronous_baselines(study, setting)
        if (counts := _windows(study, setting, p))
    ]
    if others:
        (low, _), (high, name) = min(others), max(others)
        text += f"; baselines' least {low}" + (f" to {high} ({name})" if high > low else "")
    return Goal(setting, goal, "", text, value, _verdict(value >= COVERAGE_LEAST))


def _windows(study: Study, setting: str, policy: str) -> list[int]:
    return [n for c in study.of(setting, policy).values() for n in measures.coverage(c)]


def _against_opponent(study: Study, settings: Sequence[str]) -> list[Goal]:
    opponent = study.suite.opponent
    if opponent is None or opponent == study.suite.ours:
        return []
    there = [s for s in settings if opponent in study.present(s)]
    flat = [d for s in there for d in paired(study, s, study.suite.ours, opponent)]
    family = iter(statistics.corrected(flat))
    lines = []
    for setting in there:
        found = [next(family) for _ in HORIZONS]
        text, late = _three(found), found[-1]
        ps = [None if d is None else d.p_corrected for d in found]
        if any(p is not None for p in ps):
            text += "; p " + " / ".join("-" if p is None else f"{p:.2g}" for p in ps)
        verdict = "no common seed"
        if late is not None:
            verdict = late.direction if late.count > 1 else "one seed shows nothing"
        value = None if late is None else late.mean
        goal = "accuracy against the opponent to beat"
        lines.append(Goal(setting, goal, opponent, text, value, verdict))
    return lines


def _verdict(met: bool) -> str:
    return "met" if met else "missed"
