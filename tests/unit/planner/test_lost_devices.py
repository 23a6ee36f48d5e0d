"""What plans that nobody lived to report say about the next ones."""

from cos2p_planner.state.ledger import PlanFacts
from cos2p_planner.state.lost_devices import LostPlans


def plan(incarnation: int, peak_bytes: int = 1000) -> PlanFacts:
    return PlanFacts("p1", "w", incarnation, 0, 0.0, 5, peak_bytes, 1, b"")


def after(*plans: PlanFacts) -> LostPlans:
    deaths = LostPlans()
    for facts in plans:
        deaths.lost(facts)
    return deaths


def test_one_death_says_nothing() -> None:
    assert after(plan(1)).ceiling("w", 2, 0) is None


def test_two_in_a_row_put_a_ceiling_under_the_last_plan() -> None:
    assert 800 == after(plan(1, 2000), plan(2, 1000)).ceiling("w", 3, 0)


def test_plans_of_one_incarnation_are_one_death() -> None:
    assert after(plan(1), plan(1)).ceiling("w", 2, 0) is None


def test_a_device_that_is_still_the_same_incarnation_has_not_died() -> None:
    assert after(plan(1), plan(2)).ceiling("w", 2, 0) is None


def test_an_update_in_between_makes_the_next_death_the_first() -> None:
    deaths = after(plan(1))
    deaths.answered(plan(2))
    deaths.lost(plan(2))

    assert deaths.ceiling("w", 3, 0) is None


def test_a_ceiling_outlives_the_updates_that_it_made_possible() -> None:
    deaths = after(plan(1), plan(2))
    deaths.answered(plan(3, 700))

    assert 800 == deaths.ceiling("w", 3, 0)


def test_a_later_death_lowers_it_further() -> None:
    assert 400 == after(plan(1), plan(2), plan(3, 500)).ceiling("w", 4, 0)


def test_deaths_before_the_device_was_given_more_do_not_count() -> None:
    assert after(plan(1), plan(2)).ceiling("w", 3, since=3) is None


def test_a_device_never_heard_of_has_no_ceiling() -> None:
    assert LostPlans().ceiling("w", 1, 0) is None
