"""Gate scores: against finite differences of a gate, by label, and as part of a plan's training."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cos2p.log.messages import Plan
from cos2p.model.units import Kind
from cos2p.run_config import AnchorConfig, LocalConfig, PlanConfig, RunConfig
from cos2p_worker.models.architecture import CHANNEL_DIM, Architecture, Tap, Tapped
from cos2p_worker.score import PRODUCT_ELEMENTS, GateScorer
from cos2p_worker.submodel import all_units, build_submodel
from cos2p_worker.task import Task
from cos2p_worker.torch_trainer import local_machine
from cos2p_worker.train import Training
from cos2p_worker.trainer import GateScores, TrainingControl, TrainResult

Values = dict[int, NDArray[np.float32]]
Make = Callable[[Architecture, int], Values]
CPU = torch.device("cpu")
CLASSES = 4
LABELS = torch.tensor([0, 2, 2, 0, 0, 3, 0, 2, 2, 0, 0, 3, 0, 2, 2, 0])
COUNTS = [8, 0, 6, 2]
IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def tapped(model: Architecture, units: tuple[int, ...], values: Values) -> Tapped:
    module = build_submodel(model, units, (), values, CPU)
    assert isinstance(module, Tapped)
    return module


def gating(block: int, kind: Kind, place: int, count: int, gamma: float) -> Tap:
    """A tap that multiplies the `place`-th of `count` units by gamma."""

    def gate(at_block: int, at_kind: Kind, activation: Tensor) -> Tensor:
        if (at_block, at_kind) != (block, kind):
            return activation
        units = list(activation.chunk(count, CHANNEL_DIM[kind]))
        units[place] = gamma * units[place]
        return torch.cat(units, CHANNEL_DIM[kind])

    return gate


def slopes(
    model: Architecture, units: tuple[int, ...], module: Tapped, samples: Tensor
) -> Iterator[Tensor]:
    """dl/dgamma of each sample at gamma = 1, by central differences, per gated unit."""
    table, step = model.layout.table, 1e-7  # a larger one crosses kinks of relu
    for unit in (u for u in units if table.gated[u]):
        block, kind = table.units[unit].block, table.units[unit].kind
        peers = [u for u in units if (table.units[u].block, table.units[u].kind) == (block, kind)]
        ends = []
        for gamma in (1 + step, 1 - step):
            module.tap = gating(block, kind, peers.index(unit), len(peers), gamma)
            with torch.no_grad():
                ends.append(functional.cross_entropy(module(samples), LABELS, reduction="none"))
        yield (ends[0] - ends[1]) / (2 * step)
    module.tap = None


def learn(module: nn.Module, samples: Tensor, labels: Tensor) -> None:
    functional.cross_entropy(module(samples), labels).backward()  # type: ignore[no-untyped-call]


def scores_of(
    model: Architecture,
    units: tuple[int, ...],
    module: nn.Module,
    classes: int | None = CLASSES,
    samples: Tensor = IMAGES,
) -> GateScores:
    """Of one step on 16 samples."""
    scorer = GateScorer(model.layout.table, units, classes, CPU)
    with scorer.scoring(module, LABELS):
        learn(module, samples, LABELS)
    scores = scorer.scores()
    assert scores is not None
    return scores


@pytest.mark.parametrize("cut", [False, True])
def test_scores_are_squared_slopes_of_each_unit_s_gate_summed_by_label(
    cut: bool, model: Architecture, samples: Tensor, values_of: Make
) -> None:
    units = all_units(model)
    if cut:  # one unit of each kind of each block less
        units = model.layout.table.close(
            u for u, x in enumerate(model.layout.units) if x.kind != "core" and x.name[-1] != "0"
        )
    module = tapped(model, units, values_of(model, 1))
    scores = scores_of(model, units, module, samples=samples)

    module = module.double()
    exact = samples.double() if samples.is_floating_point() else samples
    expected = torch.stack(list(slopes(model, units, module, exact)))
    by_label = [expected[:, LABELS == c].square().sum(1).tolist() for c in range(CLASSES)]
    np.testing.assert_allclose(np.transpose(by_label), scores.sums, rtol=1e-3, atol=1e-10)
    assert COUNTS == scores.counts.tolist()
    assert scores.sums[:, 0].min() > 1e-8


def test_steps_add_up(vit_model: Architecture, values_of: Make) -> None:
    units = all_units(vit_model)
    module = tapped(vit_model, units, values_of(vit_model, 1))
    once = scores_of(vit_model, units, module)
    scorer = GateScorer(vit_model.layout.table, units, CLASSES, CPU)
    for _ in range(3):
        with scorer.scoring(module, LABELS):
            learn(module, IMAGES, LABELS)
    thrice = scorer.scores()

    assert thrice is not None
    np.testing.assert_allclose(3 * once.sums, thrice.sums, rtol=1e-5)
    assert [3 * n for n in COUNTS] == thrice.counts.tolist()


def test_a_batch_so_large_that_it_is_contracted_in_parts_scores_as_its_parts_do(
    model: Architecture, samples: Tensor, values_of: Make
) -> None:
    times = 1 + PRODUCT_ELEMENTS // 16 // 16
    units = all_units(model)
    module = tapped(model, units, values_of(model, 1))
    once = scores_of(model, units, module, samples=samples)
    scorer = GateScorer(model.layout.table, units, CLASSES, CPU)
    large = samples.repeat(times, *(1,) * (samples.ndim - 1))
    with scorer.scoring(module, LABELS.repeat(times)):
        learn(module, large, LABELS.repeat(times))
    scores = scorer.scores()

    assert scores is not None
    np.testing.assert_allclose(times * once.sums, scores.sums, rtol=1e-3)


def test_a_task_without_classes_has_one_sum_per_unit(
    vit_model: Architecture, values_of: Make
) -> None:
    units = all_units(vit_model)
    module = tapped(vit_model, units, values_of(vit_model, 1))
    by_label = scores_of(vit_model, units, module)
    without = scores_of(vit_model, units, module, classes=None)

    np.testing.assert_allclose(by_label.sums.sum(1, keepdims=True), without.sums, rtol=1e-5)
    assert [16] == without.counts.tolist()


def test_a_tap_that_is_set_already_goes_on_and_scores_see_what_it_lets_through(
    vit_model: Architecture, values_of: Make
) -> None:
    units = all_units(vit_model)
    module = tapped(vit_model, units, values_of(vit_model, 1))
    silent = module.tap = gating(1, "head", 2, 3, 0.0)
    scores = scores_of(vit_model, units, module)

    gated = [u for u in units if vit_model.layout.table.gated[u]]
    names = [vit_model.layout.units[u].name for u in gated]
    assert ["block1.head.2"] == [n for n, s in zip(names, scores.sums, strict=True) if not s.any()]
    assert silent is module.tap


def test_frozen_blocks_have_no_scores(vit_model: Architecture, values_of: Make) -> None:
    table = vit_model.layout.table
    frozen = tuple(u for u, x in enumerate(table.units) if x.block == 0)
    trained = tuple(u for u in all_units(vit_model) if u not in frozen)
    module = build_submodel(vit_model, trained, frozen, values_of(vit_model, 1), CPU)
    scores = scores_of(vit_model, trained, module)

    assert (sum(table.gated[list(trained)]), CLASSES) == scores.sums.shape


def test_a_model_without_taps_gives_no_scores(vit_model: Architecture, values_of: Make) -> None:
    class Own(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.inner(images)
            return logits

    units = all_units(vit_model)
    scorer = GateScorer(vit_model.layout.table, units, CLASSES, CPU)
    module = Own(build_submodel(vit_model, units, (), values_of(vit_model, 1), CPU))
    with scorer.scoring(module, LABELS):
        learn(module, IMAGES, LABELS)

    assert scorer.scores() is None


# ---------------------------------------------------------------- in a plan's training


def train(task: Task, plan: Plan, base: Values, importance: str, **local: object) -> TrainResult:
    config = RunConfig(
        plans=PlanConfig.model_validate({"importance": importance}),
        local=LocalConfig.model_validate({"batch_size": 16, "anchor": {"share": 0.0}} | local),
    )
    training = Training(task, task.shard(0, 1), config, local_machine())
    return training.run(plan, base, None, TrainingControl())[0]


@pytest.mark.parametrize(("every", "steps", "scored_steps"), [(5, 10, 2), (5, 11, 3), (1, 4, 4)])
def test_the_first_step_and_every_so_many_after_it_are_scored(
    every: int,
    steps: int,
    scored_steps: int,
    task: Task,
    values_of: Make,
    plan_of: Callable[..., Plan],
) -> None:
    plan, base = plan_of(all_units(task.model), steps=steps), values_of(task.model, 1)
    result = train(task, plan, base, "gate", score_every=every)

    assert result.scores is not None
    assert 16 * scored_steps == result.scores.counts.sum()


def test_being_scored_changes_nothing_that_is_trained(
    task: Task, values_of: Make, plan_of: Callable[..., Plan]
) -> None:
    plan, base = plan_of(all_units(task.model)), values_of(task.model, 1)
    plain = train(task, plan, base, "none", score_every=1)
    result = train(task, plan, base, "gate", score_every=1)

    assert plain.scores is None
    for unit, delta in plain.deltas.items():
        np.testing.assert_array_equal(delta, result.deltas[unit])


def test_scoring_adds_next_to_nothing_to_the_peak(
    task: Task, values_of: Make, plan_of: Callable[..., Plan]
) -> None:
    plan, base = plan_of(all_units(task.model)), values_of(task.model, 1)
    plain = train(task, plan, base, "none").peak_bytes
    peak = train(task, plan, base, "gate", score_every=1).peak_bytes

    assert plain <= peak <= 1.05 * plain


def test_an_anchored_loss_is_scored_too(
    task: Task, values_of: Make, plan_of: Callable[..., Plan]
) -> None:
    plan, base = plan_of(all_units(task.model)), values_of(task.model, 1)
    plan = plan.model_copy(update={"progress": 1.0})
    anchor = AnchorConfig(share=1.0)
    plain = train(task, plan, base, "gate", score_every=1)
    anchored = train(task, plan, base, "gate", score_every=1, anchor=anchor)

    assert plain.scores is not None
    assert anchored.scores is not None
    assert plain.scores.counts.tolist() == anchored.scores.counts.tolist()
    assert not np.allclose(plain.scores.sums, anchored.scores.sums)
