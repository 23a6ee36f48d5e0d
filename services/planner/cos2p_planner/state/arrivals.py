"""Arrival groups: which plans are to come back together, and which of them have.

Invariant: a function of the decisions and of the times of their records: the plan that founds a
group says when it is due, and every plan of the group names it.

A group's last moment is its founder's deadline, `LATEST_FACTOR` times the founder's expected
duration (lambda of FedCompass, arXiv 2309.14675), and `LATEST_FLOOR_S` more at least: plans of tiny
models are so short that a hiccup would count as late.
"""

from dataclasses import dataclass, field

from cos2p.log.messages import Plan

LATEST_FACTOR = 1.5
LATEST_FLOOR_S = 0.5


def latest_for(expected_s: float) -> float:
    """Seconds after which a plan that should take `expected_s` is late."""
    return max(LATEST_FACTOR * expected_s, expected_s + LATEST_FLOOR_S)


def expected_for(latest_s: float) -> float:
    """The inverse of `latest_for`."""
    return min(latest_s / LATEST_FACTOR, latest_s - LATEST_FLOOR_S)


@dataclass(slots=True)
class Group:
    """Plans that are due together.

    Attributes:
        expected_s: when they should be reported.
        latest_s: from when on nobody waits for them.
        fastest_s: fewest seconds that a member's plan has for a step.
        waiting: members' plans that are open.
    """

    expected_s: float
    latest_s: float
    fastest_s: float = float("inf")
    waiting: set[str] = field(default_factory=set)

    def over(self, now: float) -> bool:
        """Whether nobody waits for it: all its plans have ended, or it is too late."""
        return not self.waiting or now >= self.latest_s


@dataclass(slots=True)
class Arrivals:
    """The groups of a run; a snapshot holds it as it is.

    Attributes:
        groups: by the number of the plan that founded each.
        count: updates in the open version.
        alone: whether one of them is of no group: it is complete by itself.
    """

    groups: dict[int, Group] = field(default_factory=dict)
    count: int = 0
    alone: bool = False

    def issued(self, plan: Plan, now: float) -> None:
        """A plan was issued: into a group, or (with 0) into none."""
        if not plan.group:
            return
        group = self.groups.get(plan.group)
        if group is None:
            expected_s = now + expected_for(plan.deadline_s)
            group = self.groups[plan.group] = Group(expected_s, now + plan.deadline_s)
        group.waiting.add(plan.plan_id)
        group.fastest_s = min(group.fastest_s, (group.expected_s - now) / plan.local_steps)

    def ended(self, plan: Plan) -> None:
        """A plan has ended, whichever way."""
        group = self.groups.get(plan.group)
        if group is not None:
            group.waiting.discard(plan.plan_id)

    def landed(self, plan: Plan, now: float) -> None:
        """A plan that has ended brought an update; groups over before any came are forgotten."""
        if not self.count:
            own = self.groups.get(plan.group)
            self.groups = self.open(now)
            if own is not None and now < own.latest_s:
                self.groups[plan.group] = own
        self.count += 1
        self.alone = self.alone or not plan.group

    def complete(self, now: float) -> bool:
        """Whether there is an update, and a group that is over."""
        over = self.alone or any(g.over(now) for g in self.groups.values())
        return over and self.count > 0

    def closed(self, now: float) -> None:
        """A version was closed: what had come is merged, groups that are over are forgotten."""
        self.count, self.alone = 0, False
        self.groups = self.open(now)

    def open(self, now: float) -> dict[int, Group]:
        """The groups that are waited for."""
        return {n: g for n, g in self.groups.items() if not g.over(now)}
