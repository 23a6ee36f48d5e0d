"""Random logs of a run, as wild as the protocol allows: restarts, fenced planners, late shards."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from dispatching import one_blob
from fed import TOPIC_OF
from hand_run import CONFIG, REF, TABLE

from cos2p.history.run import RunHistory
from cos2p.log import messages as m
from cos2p.log.mailbox import Letter
from cos2p.model.cost import CostModel
from cos2p.model.unit_wire import UnitColumns
from cos2p.run_config import RunConfig

TOPICS = ("fleet", "decisions", "models")
COSTS = CostModel.of(TABLE, CONFIG)


@dataclass(frozen=True)
class Entry:
    """A record of a small topic."""

    topic: str
    offset: int
    at_s: float
    message: m.Message

    def give(self, run: RunHistory) -> None:
        value = b"x" * (self.offset % 7)
        run.take(Letter(TOPIC_OF[type(self.message)], self.offset, self.at_s, self.message, value))


class RandomRun:
    """A run of some steps; `logs` has its topics."""

    def __init__(self, seed: int, steps: int = 120, shards: int = 2) -> None:
        self.dice, self.shards = Random(seed), shards
        self.config: RunConfig = CONFIG
        self.now, self.epoch, self.version, self.plans = 100.0, 1, 0, 0
        self.logs: dict[str, list[Entry]] = {topic: [] for topic in TOPICS}
        self.handled = 0
        self.incarnations = {f"w{i}": 1 for i in (0, 1, 2, 10)}
        self.open: dict[str, m.Plan] = {}
        self.owed: list[list[tuple[int, m.Message]]] = [[] for _ in range(shards)]
        """What each shard has not written yet, each with the decisions that it obeys."""
        run = {"config": self.config, "task": "a:b", "checkpoint": REF}
        run["units"] = UnitColumns.of(TABLE)
        self.append_message(m.RunRequested, **run)
        self.handle()
        self.decide(m.EpochStarted, planner_id="p")
        self.decide(m.RunStarted, **run)
        self.owe_version(0)
        deeds = [self.hello, self.issue, self.issue, self.end, self.end, self.close, self.evaluate]
        deeds += [
            self.make,
            self.make,
            self.make,
            self.handle,
            self.leave,
            self.exclude,
            self.haunt,
        ]
        for _ in range(steps):
            self.now += self.dice.choice((0.0, 0.5, 3.0))
            self.dice.choice(deeds)()

    def append(self, topic: str, message: m.Message) -> int:
        log = self.logs[topic]
        log.append(Entry(topic, len(log), self.now, message))
        return len(log)

    def append_message(self, kind: type[m.Message], **fields: Any) -> None:
        self.append("fleet", kind.model_validate({"run_id": "r1"} | fields))

    def decide(self, kind: type[m.Decision], **fields: Any) -> int:
        stamp = {"run_id": "r1", "epoch": self.epoch, "fleet_offset": self.handled}
        stamp["at_s"] = self.now - self.dice.random()
        return self.append("decisions", kind.model_validate(stamp | fields))

    def handle(self) -> None:
        """The planner hears some more of the fleet."""
        self.handled = self.dice.randint(self.handled, len(self.logs["fleet"]))

    def hello(self) -> None:
        worker = self.dice.choice(list(self.incarnations))
        self.incarnations[worker] += self.dice.random() < 0.3
        labels = self.dice.choice((None, (3, 1), (1, 3), (0, 2)))
        profile = m.DeviceProfile(memory_bytes=self.dice.randint(1, 9), flops_per_s=1e9)
        self.append_message(
            m.Hello,
            worker_id=worker,
            incarnation=self.incarnations[worker],
            profile=profile,
            sample_count=4,
            label_counts=labels,
            units_digest=TABLE.digest,
        )

    def issue(self) -> None:
        self.plans += 1
        worker = self.dice.choice(list(self.incarnations))
        units = sorted({0, *self.dice.sample(range(1, len(TABLE)), 2)})
        plan = m.Plan(
            plan_id=f"p{self.plans}",
            worker_id=worker,
            incarnation=self.incarnations[worker],
            base_version=max(0, self.version - self.dice.randint(0, 2)),
            trained=tuple(units),
            local_steps=5,
            batch_size=1,
            learning_rate=0.1,
            seed=0,
            deadline_s=1,
            peak_bytes=7_000,
        )
        self.open[plan.plan_id] = plan
        obeys = self.decide(m.PlanIssued, plan=plan)
        for shard, owed in enumerate(self.owed):
            place = {"shard": shard, "shard_count": self.shards}
            made = {"run_id": "r1", "decisions_offset": obeys, "plan": plan}
            made |= one_blob(units, REF)
            owed.append((obeys, m.Dispatched.model_validate(place | made)))

    def end(self) -> None:
        if not self.open:
            return
        plan = self.open.pop(self.dice.choice(list(self.open)))
        who = {"plan_id": plan.plan_id, "worker_id": plan.worker_id}
        if self.dice.random() < 0.8:
            spent = {"steps_done": 5, "train_s": 2.0, "idle_s": 1.0, "upload_s": 0.5}
            self.append_message(
                m.Report, incarnation=plan.incarnation, status="done", **who, **spent
            )
        chance = self.dice.random()
        if chance < 0.6:
            late = self.dice.randint(0, 3)
            fields = {"weight": 1.0, "staleness": late, "steps_done": 5, "blob": REF}
            self.decide(m.UpdateAdmitted, **who, **fields)
        elif chance < 0.8:
            self.decide(m.UpdateRefused, outcome="stale", reason="late", **who)
        else:
            self.decide(m.PlanCancelled, outcome="expired", reason="silent", **who)
        if chance < 0.1:
            self.decide(m.UpdateRefused, outcome="duplicate", reason="twice", **who)

    def close(self) -> None:
        self.version += 1
        fields = {"reason": "count", "update_count": 1, "waited_s": 4.0, "coverage_min": 1}
        self.decide(m.RoundClosed, version=self.version, **fields)
        self.owe_version(self.version)

    def owe_version(self, version: int) -> None:
        obeys = len(self.logs["decisions"])
        for shard, owed in enumerate(self.owed):
            units = list(TABLE.owned_by(shard, self.shards))
            made = m.VersionPublished(
                run_id="r1",
                decisions_offset=obeys,
                version=version,
                shard=shard,
                shard_count=self.shards,
                digest=bytes(32),
                unit_digests=bytes(8 * len(units)),
                unit_norms=np.full(len(units), 1 + version % 3, "<f4").tobytes(),
                step_norm=self.dice.random(),
                delta_square=self.dice.random(),
            )
            owed.append((obeys, made))

    def make(self) -> None:
        """A shard writes what it owes, or writes its newest version again."""
        owed = self.dice.choice(self.owed)
        for _ in range(min(len(owed), self.dice.randint(1, 3))):
            _, made = owed.pop(0)
            self.append("models", made)
            if isinstance(made, m.VersionPublished) and self.dice.random() < 0.3:
                self.append("models", made.model_copy(update={"checkpoint": REF}))

    def evaluate(self) -> None:
        """A verdict, on a version that the decisions read so far may not have closed."""
        version = max(0, self.version + self.dice.randint(-2, 2))
        verdict = {"sample_count": 9, "loss": 1.0, "accuracy": self.dice.random()}
        self.append_message(m.Evaluated, evaluator_id="e", version=version, **verdict)

    def leave(self) -> None:
        worker = self.dice.choice(list(self.incarnations))
        self.append_message(m.Goodbye, worker_id=worker, incarnation=self.incarnations[worker])

    def exclude(self) -> None:
        worker = {"worker_id": self.dice.choice(list(self.incarnations))}
        if self.dice.random() < 0.5:
            self.decide(m.DeviceExcluded, reason="3 of its updates failed checks", **worker)
        else:
            self.decide(m.DeviceAdmitted, **worker)

    def haunt(self) -> None:
        """A planner takes over; the one before it goes on for a while."""
        if self.dice.random() < 0.2:
            self.epoch += 1
            self.decide(m.EpochStarted, planner_id="q")
            self.epoch -= 1
            self.decide(
                m.RoundClosed,
                version=999,
                reason="count",
                update_count=1,
                waited_s=1.0,
                coverage_min=1,
            )
            self.epoch += 1

    # ------------------------------------------------------------ orders

    def canonical(self) -> list[Entry]:
        """Causes as late as they may be, what the aggregator made as early."""
        return list(
            self._merged(lambda able: min(able, key=("models", "decisions", "fleet").index))
        )

    def shuffled(self, seed: int) -> list[Entry]:
        """In an order that respects causes."""
        dice = Random(seed)
        bias = [dice.random() for _ in TOPICS]
        pick = lambda able: max(able, key=lambda t: dice.random() * bias[TOPICS.index(t)])  # noqa: E731
        return list(self._merged(pick))

    def _merged(self, pick: Any) -> Iterator[Entry]:
        given = dict.fromkeys(TOPICS, 0)
        while True:
            able = [t for t in TOPICS if self._may(t, given)]
            if not able:
                return
            topic = pick(able)
            yield self.logs[topic][given[topic]]
            given[topic] += 1

    def _may(self, topic: str, given: dict[str, int]) -> bool:
        if given[topic] >= len(self.logs[topic]):
            return False
        message = self.logs[topic][given[topic]].message
        if isinstance(message, m.Decision):
            return message.fleet_offset <= given["fleet"]
        return (
            not isinstance(message, m.AggregatorMessage)
            or message.decisions_offset <= given["decisions"]
        )
