"""The epoch fence: everyone who reads the log keeps the same decisions."""

from hypothesis import given
from hypothesis import strategies as st

from cos2p.log.fence import EpochFence
from cos2p.log.messages import Decision, EpochStarted, RunEnded


def started(epoch: int) -> EpochStarted:
    return EpochStarted(
        run_id="r", epoch=epoch, fleet_offset=0, at_s=0.0, planner_id=f"planner-{epoch}"
    )


def decided(epoch: int) -> RunEnded:
    return RunEnded(run_id="r", epoch=epoch, fleet_offset=0, at_s=0.0, version=1, reason="target")


def admitted(decisions: list[Decision]) -> list[bool]:
    fence = EpochFence()
    return [fence.admits(d) for d in decisions]


def test_decisions_of_the_newest_epoch_count() -> None:
    assert [True, True, True, True] == admitted([started(1), decided(1), started(2), decided(2)])


def test_a_replaced_planner_is_not_obeyed() -> None:
    assert [True, True, False, True] == admitted([started(1), started(2), decided(1), decided(2)])


def test_nothing_counts_before_the_first_epoch() -> None:
    assert [False, False, True] == admitted([decided(0), decided(1), started(1)])


def test_an_epoch_that_nobody_opened_does_not_count() -> None:
    assert [True, False, True] == admitted([started(1), decided(7), decided(1)])


def test_of_two_that_open_the_same_epoch_the_first_wins() -> None:
    assert [True, False] == admitted([started(3), started(3)])


def test_an_epoch_below_the_newest_is_not_opened() -> None:
    assert [True, False, False, True] == admitted([started(3), started(2), decided(2), decided(3)])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=30))
def test_a_decision_counts_exactly_if_its_epoch_is_the_newest_opened(
    log: list[tuple[bool, int]],
) -> None:
    decisions: list[Decision] = [started(e) if opens else decided(e) for opens, e in log]
    expected, newest = [], 0
    for opens, epoch in log:
        expected.append(epoch > newest if opens else epoch == newest > 0)
        newest = max(newest, epoch) if opens else newest

    assert expected == admitted(decisions)
