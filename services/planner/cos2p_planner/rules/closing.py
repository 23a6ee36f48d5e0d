"""When a version closes, who may be planned meanwhile, and how long plans are. Pure rules.

Owns the closing rules, one class each, chosen by `rounds.closing`. Invariants: a rule is a value;
it sees the open round as plain state, itself read off the decision log, so that a restarted planner
closes where the first would have; no rule closes a version without an update; what a rule waits for
is a plan, and every plan ends, by its device's silence if nothing else.

| rule | closes | asks again |
|---|---|---|
| semi-async | on K_min updates, or on the deadline | at once |
| synchronous | when every plan of the version has ended | when the version has closed |
| buffer | on K_min updates (FedBuff, arXiv 2106.06639; with 1 FedAsync, 1903.03934) | at once |
| compass | when a group has arrived, or is late (FedCompass, arXiv 2309.14675) | with its group |
"""

import math
from dataclasses import dataclass
from typing import Literal

from cos2p.run_config import LocalConfig, RoundConfig
from cos2p_planner.rules.pace import Pace, steps_bounds, steps_for
from cos2p_planner.state.arrivals import Arrivals, latest_for
from cos2p_planner.state.speed import Speed

INF = math.inf
CloseReason = Literal["count", "deadline", "all", "group"]


@dataclass(frozen=True)
class OpenRound:
    """The open version.

    Attributes:
        now: the time.
        version: the newest closed version.
        opened_s: when this one was opened.
        update_count: updates admitted to it.
        open_count: plans that have not ended, of any version.
        able_count: devices that can train.
        pace: how fast the run goes.
        arrivals: the arrival groups.
    """

    now: float
    version: int
    opened_s: float
    update_count: int
    open_count: int
    able_count: int
    pace: Pace
    arrivals: Arrivals


@dataclass(frozen=True)
class Standing:
    """An idle device.

    Attributes:
        joined_version: the newest version when it said its first hello.
        base_version: of its last plan; None where it has had none.
        group: of its last plan.
    """

    joined_version: int
    base_version: int | None = None
    group: int = 0


@dataclass(frozen=True)
class Order:
    """What a closing rule wants of a plan.

    Attributes:
        steps: local steps.
        deadline_s: seconds from now after which the round no longer waits for it.
        group: number of the plan that founded its arrival group; 0 for none.
    """

    steps: int
    deadline_s: float
    group: int = 0


@dataclass(frozen=True)
class Closing:
    """A closing rule, as far as most are alike: ask again at once, E steps, the whole step."""

    rounds: RoundConfig
    local: LocalConfig
    fastest_first = False
    """Whether devices that could be asked at once are asked in the order of their speed."""

    def reason(self, state: OpenRound) -> CloseReason | None:
        """Why the version closes now; None where it stays open."""
        raise NotImplementedError

    def due_s(self, state: OpenRound) -> float:
        """When the passing of time alone may close it or let a device be asked; infinity: never."""
        return INF

    def invites(self, device: Standing, state: OpenRound) -> bool:
        """Whether an idle device gets a plan now."""
        return True

    def limit_s(self, state: OpenRound) -> float:
        """Seconds that a plan may last; infinity: as long as it takes."""
        return INF

    def order(self, speed: Speed, number: int, state: OpenRound) -> Order:
        """The plan of a device.

        Args:
            speed: how fast it would train the units chosen.
            number: the plan's.
            state: the open round, other plans of this moment in it.
        """
        limit_s = self.limit_s(state)
        return Order(steps_for(speed, limit_s, state.pace, self.local), state.pace.deadline_s)

    def step(self, state: OpenRound) -> float:
        """Factor on the server's step of the version that closes now."""
        return 1.0

    def _updates_needed(self, state: OpenRound) -> int:
        """K_min, as a number or as a share of the devices."""
        if self.rounds.update_count is not None:
            return self.rounds.update_count
        return max(1, math.ceil(self.rounds.update_fraction * state.able_count - 1e-9))


@dataclass(frozen=True)
class SemiAsync(Closing):
    """K_min updates, or the deadline with what is there.

    Plans are no longer than their updates stay fresh.
    """

    def reason(self, state: OpenRound) -> CloseReason | None:
        """See `Closing.reason`."""
        if not state.update_count:
            return None
        if state.update_count >= self._updates_needed(state):
            return "count"
        return "deadline" if state.now >= self.due_s(state) else None

    def due_s(self, state: OpenRound) -> float:
        """See `Closing.due_s`."""
        return state.opened_s + state.pace.deadline_s if state.update_count else INF

    def limit_s(self, state: OpenRound) -> float:
        """See `Closing.limit_s`."""
        return state.pace.fresh_s(self.rounds)


@dataclass(frozen=True)
class Synchronous(Closing):
    """A barrier: one plan for each device and version; all are waited for; none is ever stale.

    Whoever joins later, or has answered, or failed, waits for the next version. A device that is
    silent loses its plan, so it is not waited for; if all have failed, all are asked again.
    """

    def reason(self, state: OpenRound) -> CloseReason | None:
        """See `Closing.reason`."""
        return "all" if state.update_count and not state.open_count else None

    def invites(self, device: Standing, state: OpenRound) -> bool:
        """See `Closing.invites`."""
        if not state.update_count and not state.open_count:
            return True
        return device.joined_version < state.version != device.base_version


@dataclass(frozen=True)
class Buffer(Closing):
    """K_min updates, whatever they cover and however long it takes."""

    def reason(self, state: OpenRound) -> CloseReason | None:
        """See `Closing.reason`."""
        return "count" if state.update_count >= self._updates_needed(state) else None


@dataclass(frozen=True)
class Compass(Closing):
    """Groups of arrival, by steps between Q_min (local.steps_min) and Q_max (E).

    A device joins the group that gives it most steps, if any gives it an allowed number; else it
    founds one, with steps such that the members of a later group may meet it. Its first plan has
    Q_min steps and no group: the update closes a version of its own, and shows the speed.

    Deviations from the published rule: a member that arrives before its group is merged with the
    version that closes next, which may be another group's; a member's speed is read off its plan,
    to within a step; a device's speed tells its steps from the rest (fetching, sending).
    """

    fastest_first = True

    def reason(self, state: OpenRound) -> CloseReason | None:
        """See `Closing.reason`."""
        return "group" if state.arrivals.complete(state.now) else None

    def due_s(self, state: OpenRound) -> float:
        """See `Closing.due_s`."""
        open_groups = state.arrivals.open(state.now).values()
        return min((g.latest_s for g in open_groups), default=INF)

    def invites(self, device: Standing, state: OpenRound) -> bool:
        """See `Closing.invites`: whoever has arrived waits for its group."""
        return device.group not in state.arrivals.open(state.now)

    def order(self, speed: Speed, number: int, state: OpenRound) -> Order:
        """See `Closing.order`."""
        least, most = steps_bounds(self.local)
        if not speed.known:
            return Order(least, state.pace.deadline_s)
        groups = state.arrivals.open(state.now)
        offers = {n: speed.steps_in(g.expected_s - state.now) for n, g in groups.items()}
        offers = {n: steps for n, steps in offers.items() if least <= steps <= most}
        if offers:
            chosen = max(offers, key=lambda n: (offers[n], n))
            return Order(offers[chosen], groups[chosen].latest_s - state.now, chosen)
        meeting = [
            speed.steps_in(g.latest_s + most * g.fastest_s - state.now) for g in groups.values()
        ]
        steps = max(least, max((s for s in meeting if s <= most), default=most))
        return Order(steps, latest_for(speed.duration_s(steps)), number)

    def step(self, state: OpenRound) -> float:
        """See `Closing.step`: published is a sum of deltas over the number of all devices."""
        return min(1.0, state.update_count / max(1, state.able_count))


RULES: dict[str, type[Closing]] = {
    "semi-async": SemiAsync,
    "synchronous": Synchronous,
    "buffer": Buffer,
    "compass": Compass,
}


def closing_of(rounds: RoundConfig, local: LocalConfig) -> Closing:
    """The closing rule of a run's settings."""
    return RULES[rounds.closing](rounds, local)
