"""Which devices the planner refuses, and why: judged again from the log, for no record says it.

A planner that takes a run over comes to the same judgement from the log as the one before it. So
this is such a planner: the production core takes the decisions, the fleet's words and what the
aggregator made, and decides nothing.
Invariants: nobody is refused here whom a planner restarted on this log would plan for, nor the
other way round, once the same records are read; unlike the planner it has no register of keys, so
it takes each record at its word.
"""

from collections.abc import Iterable

from cos2p import messages as m
from cos2p.errors import Cos2pError
from cos2p.fence import EpochFence
from cos2p.messages import Message
from cos2p_planner.core import PlannerCore

Timed = tuple[float, Message]
"""A message and when it was appended, seconds since the epoch."""


class RefusedDevices:
    """The fold: feed it with `take`, then read its attributes.

    Attributes:
        unjudged: why nobody can be judged; empty where all can.
    """

    def __init__(self) -> None:
        self._core = PlannerCore("status", 0, updates_topic="")
        self._fence = EpochFence()
        self._early: list[Timed] = []
        self.unjudged = ""

    @property
    def reasons(self) -> dict[str, str]:
        """Why a device gets no plans, by worker id; empty for each that may."""
        if self.unjudged:
            return {}
        return {d.worker_id: d.barred for d in self._core.fleet}

    def take(
        self, decisions: Iterable[Timed], said: Iterable[Timed], made: Iterable[Timed]
    ) -> None:
        """Take what is new in `decisions`, `fleet` and `models`, each in its order.

        Of a report of a plan that was issued after `decisions` was read, the plan comes with the
        next call; so it waits for that one.
        """
        if self.unjudged:
            return
        try:
            self._take(decisions, said, made)
        except Cos2pError as error:  # contradictory, or of a planner with other policies
            self.unjudged = str(error)

    def _take(
        self, decisions: Iterable[Timed], said: Iterable[Timed], made: Iterable[Timed]
    ) -> None:
        core, again = self._core, self._early
        core.restore(
            (at_s, d)
            for at_s, d in decisions
            if isinstance(d, m.Decision) and self._fence.admits(d)
        )
        said = list(said)
        self._early = [each for each in said if self._is_early(each[1])]
        core.observe([*again, *(each for each in said if not self._is_early(each[1]))])
        for at_s, message in made:
            core.handle_model(message, at_s)
        core.notices.clear()

    def _is_early(self, message: Message) -> bool:
        return isinstance(message, m.Report) and message.plan_id not in self._core.ledger.facts
