"""A history that is fed message by message, as if each were appended to its topic right then."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from cos2p.history.run import RunHistory
from cos2p.log import messages as m
from cos2p.log.mailbox import Letter
from cos2p.log.topics import CATALOGUE

TOPIC_OF = {kind: topic for topic in CATALOGUE for kind in topic.messages}


class Fed(RunHistory):
    """Feed it with `apply`; a decision is made then, and has handled all of the fleet so far."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ends: Counter[str] = Counter()

    def apply(self, message: m.Message, at_s: float) -> bool:
        """Take a message as the next of its topic; whether it counts."""
        topic = TOPIC_OF[type(message)]
        if isinstance(message, m.Heartbeat):
            self.beat(message, at_s)
            return True
        if isinstance(message, m.Decision):
            update = {"at_s": at_s, "fleet_offset": self.ends["fleet"]}
            message = message.model_copy(update=update)
        self.ends[topic.name] += 1
        return self.take(Letter(topic, self.ends[topic.name] - 1, at_s, message, b"x"))


def fed(timed: Iterable[tuple[float, m.Message]], **options: Any) -> Fed:
    """The history of messages and their times."""
    run = Fed(**options)
    for at_s, message in timed:
        run.apply(message, at_s)
    return run
