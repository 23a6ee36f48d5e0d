"""Arrival groups: which plans should come back together, and which of them have.

Invariant: the state is a function of the decisions and of the times of their records. The plan that
founds a group defines when it is due, and every plan of the group names it.

A group's last moment is its founder's deadline. That is `LATEST_FACTOR` times the founder's
expected duration (lambda of FedCompass, arXiv 2309.14675), and at least `LATEST_FLOOR_S` more than
it. Plans of tiny models are so short that a short pause would count as late.
"""

from dataclasses import dataclass, field

from cos2p.log.messages import Plan

LATEST_FACTOR = 1.5
LATEST_FLOOR_S = 0.5


def latest_for(expected_s: float) -> float:
    """Return the seconds after which a plan that should take `expected_s` is late."""
    return max(LATEST_FACTOR * expected_s, expected_s + LATEST_FLOOR_S)


def expected_for(latest_s: float) -> float:
    """Return the expected seconds: the inverse of `latest_for`."""
    return min(latest_s / LATEST_FACTOR, latest_s - LATEST_FLOOR_S)


@dataclass(slots=True)
class Group:
    """Plans that are due together.

    Attributes:
        expected_s: when they should be reported.
        latest_s: from when on the run no longer waits for them.
        fastest_s: fewest seconds that a member's plan has for a step.
        waiting: the members' plans that are open.
    """

    expected_s: float
    latest_s: float
    fastest_s: float = float("inf")
    waiting: set[str] = field(default_factory=set)

    def over(self, now: float) -> bool:
        """Return whether the group is over: all its plans have ended, or it is too late."""
        return not self.waiting or now >= self.latest_s


@dataclass(slots=True)
class Arrivals:
    """The groups of a run; a snapshot holds this object unchanged.

    Attributes:
        groups: the groups, by the number of the plan that founded each.
        count: updates in the open version.
        alone: whether one of them has no group and so is complete by itself.
    """

    groups: dict[int, Group] = field(default_factory=dict)
    count: int = 0
    alone: bool = False

    def issued(self, plan: Plan, now: float) -> None:
        """Note that a plan was issued: into a group, or (with 0) into none."""
        if not plan.group:
            return
        group = self.groups.get(plan.group)
        if group is None:
            expected_s = now + expected_for(plan.deadline_s)
            group = self.groups[plan.group] = Group(expected_s, now + plan.deadline_s)
        group.waiting.add(plan.plan_id)
        group.fastest_s = min(group.fastest_s, (group.expected_s - now) / plan.local_steps)

    def ended(self, plan: Plan) -> None:
        """Note that a plan has ended, with any outcome."""
        group = self.groups.get(plan.group)
        if group is not None:
            group.waiting.discard(plan.plan_id)

    def landed(self, plan: Plan, now: float) -> None:
        """Note that a plan that has ended brought an update.

        Groups that were over before the version's first update are forgotten.
        """
        if not self.count:
            own = self.groups.get(plan.group)
            self.groups = self.open(now)
            if own is not None and now < own.latest_s:
                self.groups[plan.group] = own
        self.count += 1
        self.alone = self.alone or not plan.group

    def complete(self, now: float) -> bool:
        """Return whether there is an update, and a group that is over."""
        over = self.alone or any(g.over(now) for g in self.groups.values())
        return over and self.count > 0

    def closed(self, now: float) -> None:
        """Note that a version was closed: its updates are merged.

        Groups that are over are forgotten.
        """
        self.count, self.alone = 0, False
        self.groups = self.open(now)

    def open(self, now: float) -> dict[int, Group]:
        """Return the groups that the run still waits for."""
        return {n: g for n, g in self.groups.items() if not g.over(now)}
