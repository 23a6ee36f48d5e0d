"""When a version closes, which devices get plans meanwhile, and how long plans are. Pure rules.

Owns the closing rules, one class each, chosen by `rounds.closing`.

Invariants:
- A rule is a value.
- A rule sees the open round as plain state, which is read from the decision log. So a restarted
  planner closes where the first would have.
- No rule closes a version without an update.
- What a rule waits for is a plan. Every plan ends, at the latest by its device's silence.

| rule | closes | asks again |
|---|---|---|
| semi-async | on K_min updates, or on the deadline | at once |
| synchronous | when every plan of the version has ended | when the version has closed |
| buffer | on K_min updates (FedBuff, arXiv 2106.06639; with 1 FedAsync, 1903.03934) | at once |
| compass | when a group has arrived, or is late (FedCompass, arXiv 2309.14675) | with its group |
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from cos2p.run_config import LocalConfig, RoundConfig
from cos2p_planner.rules.coverage_floor import devices_bound, planned_coverage
from cos2p_planner.rules.pace import Pace, steps_bounds, steps_for
from cos2p_planner.state.arrivals import Arrivals, latest_for
from cos2p_planner.state.device import Device, Speed
from cos2p_planner.state.ledger import Ledger
from cos2p_planner.state.run import Run

INF = math.inf
CloseReason = Literal["count", "deadline", "all", "group"]


@dataclass(frozen=True)
class OpenRound:
    """The open version.

    Attributes:
        now: the time.
        version: the newest closed version.
        opened_s: when the open version was opened.
        update_count: updates admitted to the open version.
        open_count: plans that have not ended, of any version.
        trainable_count: devices that can train.
        pace: how fast the run goes.
        arrivals: the arrival groups.
    """

    now: float
    version: int
    opened_s: float
    update_count: int
    open_count: int
    trainable_count: int
    pace: Pace
    arrivals: Arrivals

    @classmethod
    def of(cls, ledger: Ledger, run: Run, trainable: Sequence[Device], now: float) -> Self:
        """Return the open version, with the devices that can train."""
        state = run.state
        whole_s = [d.whole_s for d in trainable] if run.config.local.align_steps else []
        return cls(
            now=now,
            version=ledger.version,
            opened_s=state.opened_s,
            update_count=len(state.open_staleness),
            open_count=len(ledger.open),
            trainable_count=len(trainable),
            pace=Pace.of([d.expected_s for d in trainable], whole_s, state.intervals),
            arrivals=state.arrivals,
        )

    def figures(self, run: Run, trainable: Sequence[Device]) -> dict[str, Any]:
        """Return the figures that `RoundClosed` reports of a version that closes now."""
        least, bound = run.coverage()
        return {
            "version": self.version + 1,
            "update_count": self.update_count,
            "waited_s": max(0.0, self.now - self.opened_s),
            "coverage_min": least,
            "coverage_planned": int(planned_coverage(run, trainable).min(initial=len(trainable))),
            "coverage_bound": bound,
            "devices_bound": devices_bound(run, trainable),
            "staleness_mean": sum(run.state.open_staleness) / self.update_count,
        }


@dataclass(frozen=True)
class IdleDevice:
    """An idle device.

    Attributes:
        joined_version: the newest version when it sent its first Hello.
        base_version: base version of its last plan; None where it has had none.
        group: arrival group of its last plan.
    """

    joined_version: int
    base_version: int | None = None
    group: int = 0

    @classmethod
    def of(cls, device: Device, ledger: Ledger) -> Self:
        """Return what a closing rule sees of a device."""
        last = ledger.newest.get(device.worker_id)
        if last is None:
            return cls(device.joined_version)
        return cls(device.joined_version, last.base_version, last.group)


@dataclass(frozen=True)
class PlanTerms:
    """What a closing rule requires of a plan.

    Attributes:
        steps: local steps.
        deadline_s: seconds from now after which the round no longer waits for the plan.
        group: number of the plan that founded its arrival group; 0 for none.
    """

    steps: int
    deadline_s: float
    group: int = 0


@dataclass(frozen=True)
class Closing:
    """A closing rule, with what most rules share: ask again at once, E steps, the whole step."""

    rounds: RoundConfig
    local: LocalConfig
    fastest_first = False
    """Whether devices that could get plans at once get them in the order of their speed."""

    def reason(self, state: OpenRound) -> CloseReason | None:
        """Return why the version closes now; None where it stays open."""
        raise NotImplementedError

    def due_s(self, state: OpenRound) -> float:
        """Return when time alone may close the version or let a device get a plan, or infinity."""
        return INF

    def may_get_plan(self, device: IdleDevice, state: OpenRound) -> bool:
        """Return whether an idle device gets a plan now."""
        return True

    def limit_s(self, state: OpenRound) -> float:
        """Return the seconds that a plan may last; infinity: as long as it takes."""
        return INF

    def terms(self, speed: Speed, number: int, state: OpenRound) -> PlanTerms:
        """Return the steps, deadline and arrival group of plan `number`, for a device this fast.

        The state contains other plans of this moment.
        """
        limit_s = self.limit_s(state)
        return PlanTerms(steps_for(speed, limit_s, state.pace, self.local), state.pace.deadline_s)

    def step(self, state: OpenRound) -> float:
        """Return the factor on the server's step of the version that closes now."""
        return 1.0

    def _updates_needed(self, state: OpenRound) -> int:
        """Return K_min, given as a number or as a share of the devices."""
        if self.rounds.update_count is not None:
            return self.rounds.update_count
        return max(1, math.ceil(self.rounds.update_fraction * state.trainable_count - 1e-9))


@dataclass(frozen=True)
class SemiAsync(Closing):
    """Closes on K_min updates, or at the deadline with the updates that have arrived.

    A plan lasts no longer than its update stays fresh.
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
    """A barrier: one plan for each device and version, and a version waits for all of them.

    So no update is ever stale. A device that joins later, has answered or has failed waits for the
    next version. A silent device loses its plan, so the round does not wait for it. If all devices
    have failed, all get plans again.
    """

    def reason(self, state: OpenRound) -> CloseReason | None:
        """See `Closing.reason`."""
        return "all" if state.update_count and not state.open_count else None

    def may_get_plan(self, device: IdleDevice, state: OpenRound) -> bool:
        """See `Closing.may_get_plan`."""
        if not state.update_count and not state.open_count:
            return True
        return device.joined_version < state.version != device.base_version


@dataclass(frozen=True)
class Buffer(Closing):
    """Closes on K_min updates, regardless of what they cover and how long it takes."""

    def reason(self, state: OpenRound) -> CloseReason | None:
        """See `Closing.reason`."""
        return "count" if state.update_count >= self._updates_needed(state) else None


@dataclass(frozen=True)
class Compass(Closing):
    """Closes by arrival groups, with steps between Q_min (local.steps_min) and Q_max (E).

    A device joins the group that gives it the most steps, if any group gives it an allowed number.
    Otherwise it founds a group, with steps chosen so that members of a later group may meet it. Its
    first plan has Q_min steps and no group. The update of that plan closes its own version, and
    shows the device's speed.

    Deviations from the published rule:
    - A member that arrives before its group is merged with the version that closes next, which may
      be another group's.
    - A member's speed is read from its plan, to within a step.
    - A device's speed separates its steps from the rest (fetching, sending).
    """

    fastest_first = True

    def reason(self, state: OpenRound) -> CloseReason | None:
        """See `Closing.reason`."""
        return "group" if state.arrivals.complete(state.now) else None

    def due_s(self, state: OpenRound) -> float:
        """See `Closing.due_s`."""
        open_groups = state.arrivals.open(state.now).values()
        return min((g.latest_s for g in open_groups), default=INF)

    def may_get_plan(self, device: IdleDevice, state: OpenRound) -> bool:
        """See `Closing.may_get_plan`: a device that has arrived waits for its group."""
        return device.group not in state.arrivals.open(state.now)

    def terms(self, speed: Speed, number: int, state: OpenRound) -> PlanTerms:
        """See `Closing.terms`."""
        least, most = steps_bounds(self.local)
        if not speed.known:
            return PlanTerms(least, state.pace.deadline_s)
        groups = state.arrivals.open(state.now)
        offers = {n: speed.steps_in(g.expected_s - state.now) for n, g in groups.items()}
        offers = {n: steps for n, steps in offers.items() if least <= steps <= most}
        if offers:
            chosen = max(offers, key=lambda n: (offers[n], n))
            return PlanTerms(offers[chosen], groups[chosen].latest_s - state.now, chosen)
        meeting = [
            speed.steps_in(g.latest_s + most * g.fastest_s - state.now) for g in groups.values()
        ]
        steps = max(least, max((s for s in meeting if s <= most), default=most))
        return PlanTerms(steps, latest_for(speed.duration_s(steps)), number)

    def step(self, state: OpenRound) -> float:
        """See `Closing.step`: the published rule is a sum of deltas over the number of devices."""
        return min(1.0, state.update_count / max(1, state.trainable_count))


RULES: dict[str, type[Closing]] = {
    "semi-async": SemiAsync,
    "synchronous": Synchronous,
    "buffer": Buffer,
    "compass": Compass,
}


def closing_of(rounds: RoundConfig, local: LocalConfig) -> Closing:
    """Return the closing rule of a run's settings."""
    return RULES[rounds.closing](rounds, local)
