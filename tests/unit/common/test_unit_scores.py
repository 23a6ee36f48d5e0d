"""Unit scores on the wire, and when they are kept at all."""

import numpy as np
import pytest

from cos2p.log import codec
from cos2p.log.messages import Report
from cos2p.log.topics import RECORD_BYTES_MAX
from cos2p.model.unit_wire import UnitScores
from cos2p.run_config import RunConfig


def scores(units: int, classes: int, *, by_label: bool = True) -> UnitScores:
    sums = np.arange(units * classes, dtype=np.float32).reshape(units, classes)
    return UnitScores.of(sums, np.full(classes, 2**40), by_label=by_label)


def test_sums_come_back_as_they_went() -> None:
    packed = scores(3, 2)

    assert (2, (2**40, 2**40)) == (packed.classes, packed.counts)
    assert [[0, 1], [2, 3], [4, 5]] == packed.matrix().tolist()


def test_withheld_labels_are_added_up() -> None:
    packed = scores(3, 2, by_label=False)

    assert (1, (2**41,)) == (packed.classes, packed.counts)
    assert [[1], [5], [9]] == packed.matrix().tolist()


@pytest.mark.parametrize(("units", "classes"), [(1, 50_000), (140, 1000), (65_536, 2)])
def test_scores_always_fit_a_record(units: int, classes: int) -> None:
    packed = scores(units, classes, by_label=True)
    report = Report(
        run_id="r", worker_id="w", incarnation=1, plan_id="p", status="done", scores=packed
    )

    assert len(codec.encode(report).value) < RECORD_BYTES_MAX


def test_scores_that_would_not_fit_by_label_are_added_up() -> None:
    assert 1000 == scores(140, 1000).classes
    assert 1 == scores(150, 1000).classes


def test_importance_from_scores_that_nobody_collects_is_refused() -> None:
    with pytest.raises(ValueError, match="score_every of 1 or more"):
        RunConfig.model_validate({"plans": {"importance": "gate"}, "local": {"score_every": 0}})
