"""Methods by name: how each chooses units, and the settings that it was published with.

Invariants: a policy is a value. The cores know no policy by name, so a new baseline is one more
entry here. A run file overrides a policy's preset, so any choice of units can run under any closing
rule.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from cos2p.errors import SettingsError
from cos2p.model.cost import CostModel
from cos2p.model.nested import FRACTIONS
from cos2p.run_config import RunConfig
from cos2p_planner.baselines import depth, width
from cos2p_planner.baselines.magnitude import MagnitudeRule
from cos2p_planner.baselines.whole import SmallestRule, WholeRule
from cos2p_planner.baselines.width import SkippingWidthRule, WidthRule
from cos2p_planner.choosers.choice_request import ChoiceRule
from cos2p_planner.choosers.frozen import FrozenPrefixRule
from cos2p_planner.choosers.knapsack import KnapsackRule

MakeRule = Callable[[CostModel, RunConfig], ChoiceRule]


@dataclass(frozen=True)
class Policy:
    """One method.

    Attributes:
        name: its name in a run file.
        chooser: makes its rule for a model and a run's settings.
        preset: settings that the published method fixes, in the form of a run file. A run file
            overrides them, and they override the task's settings.
        source: where it is published.
    """

    name: str
    chooser: MakeRule
    preset: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


def _knapsack(costs: CostModel, config: RunConfig) -> ChoiceRule:
    """Make our own rule, with the depth action that the run asks for."""
    frozen = config.plans.depth == "frozen-prefix"
    return FrozenPrefixRule(costs) if frozen else KnapsackRule(costs)


CO_S2P = Policy("co-s2p", _knapsack, source="docs/method.md")
"""Ours: its values are `RunConfig`'s defaults, chosen on validation data (docs/history/log.md)."""
OURS_OFF: Mapping[str, Any] = {
    "plans": {"nested_depth": 0.0, "block_width_min": 0.5, "growth": {"start": 1.0}},
    "local": {"anchor": {"share": 0.0}, "align_steps": False},
}
"""Settings that turn our own parts off. A published rule that cuts blocks keeps half of a block's
width before it keeps another block."""


def _as_published(
    rounds: Mapping[str, Any],
    *,
    plans: Mapping[str, Any] = MappingProxyType({}),
    local: Mapping[str, Any] = MappingProxyType({}),
    server_lr: float = 1.0,
    answer: str = "final",
    scaling: str = "none",
) -> Mapping[str, Any]:
    """Make a baseline's preset: its own settings, with everything of ours turned off.

    Each plan gets a new cut, which the method alone determines. Steps are neither aligned nor
    normalised. No average is published; evaluations score raw versions anyway. The whole model is
    used unscaled; scaled accuracy is also reported. The local loss is the method's own. The logit
    adjustment of the loss is the run's, so all methods are compared under the same one. Where all
    devices train the same small model, that model is used: `scaling` "survival" silences the units
    that no device trains.
    """
    return {
        "rounds": {"normalise_steps": False, **rounds},
        "plans": {
            **OURS_OFF["plans"],
            "hold_plans": 1,
            "importance": "none",
            "coverage_floor": 0,
            **plans,
        },
        "local": {
            **OURS_OFF["local"],
            "objective": "final",
            "proximal": 0.0,
            "score_every": 0,
            **local,
        },
        "merge": {"server_lr": server_lr, "average_decay": 0.0},
        "evaluation": {"scaling": scaling, "answer": answer},
    }


def _barrier(
    sample_exponent: float,
    local: Mapping[str, Any] = MappingProxyType({}),
    answer: str = "final",
    scaling: str = "none",
    **plans: Any,
) -> Mapping[str, Any]:
    """Make a synchronous baseline's preset, with updates weighed by samples ** sample_exponent.

    Deviation, for all of them: every device that can train takes part in each round. None is drawn.
    """
    rounds = {"closing": "synchronous", "sample_exponent": sample_exponent}
    return _as_published(rounds, plans=plans, local=local, answer=answer, scaling=scaling)


NO_BOUND = 1_000_000
"""`staleness_max` of methods that refuse no update for its age."""
ASYNCHRONOUS = {
    "sample_exponent": 0.0,
    "staleness_on": "delta",
    "staleness_exponent": 0.5,
    "staleness_max": NO_BOUND,
}
"""s(tau) = (1 + tau) ** -0.5 on each delta, with equal weights for all devices."""
FJORD = {"objective": "fjord", "exits": {"distillation": 0.0}}
"""Ordered dropout alone: p_max is 0.2, 0.4 .. 1, and each local step trains one p <= p_max.
Its distillation variant costs the weakest devices twice the work."""
DEPTHFL = {
    "objective": "depthfl",
    "exits": {"distillation": 1.0, "temperature": 1.0, "ramp": 0.3},
}
"""Mutual distillation of all exits, ramped over 300 of 1000 rounds. The mean of all exits predicts.
Deviation: no FedDyn term."""
SCALEFL = {
    "objective": "scalefl",
    "exits": {"distillation": 0.0, "temperature": 3.0, "ramp": 0.25},
}
"""Settings as for images. For text the paper distils with 0.05, after a quarter of the rounds. It
predicts with the deepest exit of each level. The mean of all exits is better where no device has
the last exit."""
FEDAVG = "FedAvg, arXiv 1602.05629"


def _of_costs(rule: Callable[[CostModel], ChoiceRule]) -> MakeRule:
    """Make a rule that needs no settings."""
    return lambda costs, _: rule(costs)


def _width(keep: width.Keep, rates: Sequence[float] | None = None) -> MakeRule:
    """Make a width rule, which needs no settings either."""
    return lambda costs, _: WidthRule(costs, keep, rates)


WHOLE, SMALLEST = _of_costs(WholeRule), _of_costs(SmallestRule)
SYNCHRONOUS = (
    Policy(
        "fedavg-ideal",
        WHOLE,
        _barrier(1, enforce_memory=False),
        f"{FEDAVG}, the whole model everywhere",
    ),
    Policy(
        "fedavg-exclusive",
        WHOLE,
        _barrier(1),
        f"{FEDAVG}, only devices that hold the whole model",
    ),
    Policy(
        "fedavg-small",
        SMALLEST,
        _barrier(1, scaling="survival"),
        f"{FEDAVG}, the largest submodel that all can hold",
    ),
    Policy("heterofl", _width(width.first), _barrier(0), "HeteroFL, arXiv 2010.01264"),
    Policy("fjord", _width(width.first, FRACTIONS), _barrier(1, FJORD), "FjORD, arXiv 2102.13451"),
    Policy(
        "federated-dropout",
        lambda costs, config: WidthRule(costs, width.random_units(config.seed)),
        _barrier(0),
        "Federated Dropout, arXiv 1812.07210",
    ),
    Policy("fedrolex", _width(width.common_window), _barrier(0), "FedRolex, arXiv 2212.01548"),
    Policy("depthfl", _of_costs(depth.depthfl), _barrier(0, DEPTHFL, "mean"), "DepthFL, ICLR 2023"),
    Policy("scalefl", _of_costs(depth.scalefl), _barrier(0, SCALEFL, "mean"), "ScaleFL, CVPR 2023"),
    Policy("fiarse", _of_costs(MagnitudeRule), _barrier(0), "FIARSE, NeurIPS 2024, by whole units"),
)
FEDASYNC = Policy(
    "fedasync",
    SMALLEST,
    _as_published(
        {**ASYNCHRONOUS, "closing": "buffer", "update_count": 1},
        local={"proximal": 0.005},
        server_lr=0.9,
        scaling="survival",
    ),
    "FedAsync, arXiv 1903.03934",
)
"""Each arrival makes a version: alpha = 0.9, polynomial s, proximal term 0.005.

Deviation: the published rule is w + alpha s (w_i - w). Ours takes the delta against the dispatched
base. So a late update moves the model, but does not pull it back to where the device began.
"""
FEDBUFF = Policy(
    "fedbuff",
    SMALLEST,
    _as_published({**ASYNCHRONOUS, "closing": "buffer", "update_count": 10}, scaling="survival"),
    "FedBuff, arXiv 2106.06639",
)
"""K = 10 arrivals make a version: w + 1/K sum s(tau) delta.

Deviation: the server has no momentum.
"""
FEDCOMPASS = Policy(
    "fedcompass",
    SMALLEST,
    _as_published({**ASYNCHRONOUS, "closing": "compass"}, server_lr=0.9, scaling="survival"),
    "FedCompass, arXiv 2309.14675",
)
"""Arrival groups: w + alpha/n sum s(tau) delta, alpha = 0.9. Q_min is local.steps_min and Q_max is
local.steps (published: 20 and 100). For deviations see `rules.closing.Compass`."""
IN_OUR_ROUNDS = {"plans": {**OURS_OFF["plans"], "hold_plans": 1}}
"""A baseline's units in our loop: our closing, weights, anchor and aligned steps stay on."""
STAGGERED = Policy(
    "fedrolex-staggered",
    _width(width.staggered_window),
    IN_OUR_ROUNDS,
    "FedRolex, arXiv 2212.01548, each device at its own place, in our own rounds",
)
STAGGERED_SKIP = Policy(
    "fedrolex-staggered-skip",
    lambda costs, _: SkippingWidthRule(costs, width.staggered_window),
    IN_OUR_ROUNDS,
    "the same, with blocks left out in turn by devices too small for a part of each",
)
BASELINES = (*SYNCHRONOUS, STAGGERED, STAGGERED_SKIP, FEDASYNC, FEDBUFF, FEDCOMPASS)
POLICIES: Mapping[str, Policy] = MappingProxyType({p.name: p for p in (CO_S2P, *BASELINES)})


def policy_named(name: str) -> Policy:
    """Return the policy with this name.

    Raises:
        SettingsError: no policy has this name; the text lists the names.
    """
    try:
        return POLICIES[name]
    except KeyError:
        raise SettingsError(
            f"no policy is named {name!r}: take one of {', '.join(sorted(POLICIES))}"
        ) from None
