"""How a planner reads its topics: what a signed site checks, and what is logged about refusals.

Invariants: a record is counted and logged once, however often it is read. The first refusals of a
writer are logged one by one, later ones more and more rarely. So a device that is never understood
can't fill a log.
"""

from collections.abc import Callable
from pathlib import Path

from cos2p.log import messages as m
from cos2p.log.bus import Record
from cos2p.log.mailbox import DEAD_LETTERS_MAX, Check, Mailbox, Refusal
from cos2p.log.topics import FLEET, HEARTBEATS, Topic
from cos2p.service.open_bus import signing_packages
from cos2p.service.role import RoleContext

CheckerFactory = Callable[[dict[str, int]], Check]
"""Makes the check that each record of a topic must pass, given the last number of each signer."""


def checker_of(keys_file: Path | None, kept: Callable[[str], None]) -> CheckerFactory | None:
    """Return the check of a register of keys (COS2P_KEYS_FILE); None where there is no register.

    `kept` gets the reason when a changed register can't be read and the old one stays.

    Raises:
        SettingsError: the register can't be read, or its packages are missing.
    """
    if keys_file is None:
        return None
    with signing_packages("COS2P_KEYS_FILE"):
        from cos2p.signing.keys import Register
        from cos2p.signing.verifier import Verifier
    register = Register(keys_file, kept)
    return lambda sequences: Verifier(register.find, sequences)


def unchecked(record: Record, message: m.Message) -> None:
    """Accept every record, where nothing is signed."""


class Refusals:
    """Counts and logs refusals: call it with each refusal of a topic, in the log's order.

    A second reading of the same records may follow.
    """

    def __init__(self, topic: Topic, context: RoleContext) -> None:
        self._topic, self._watch, self._log = topic.name, context.watch, context.log
        self._next_offset = 0

    def __call__(self, refusal: Refusal) -> None:
        """Count and log a refusal."""
        if refusal.offset < self._next_offset:
            return
        self._next_offset = refusal.offset + 1
        self._watch.refused(self._topic)
        number = refusal.number
        if number <= DEAD_LETTERS_MAX or number.bit_count() == 1:  # 16, 32, 64, ...
            self._log.warning(
                "record_refused", topic=self._topic, reason=refusal.reason, number=number
            )


class Intake:
    """What one planner reads.

    Args:
        context: the planner's context.
        checker: makes the check that each record of `fleet` must pass; None accepts all.
    """

    def __init__(self, context: RoleContext, checker: CheckerFactory | None = None) -> None:
        self.context = context
        self._checker = checker or (lambda sequences: unchecked)
        self._refused = {topic: Refusals(topic, context) for topic in (FLEET, HEARTBEATS)}

    def open_mailbox(
        self,
        topic: Topic,
        *,
        run_id: str | None = None,
        offset: int = 0,
        dead_letters_from: int | None = 0,
        sequences: dict[str, int] | None = None,
    ) -> Mailbox:
        """Read what devices and operators write, with this planner's checks."""
        return Mailbox(
            self.context.bus,
            self.context.prefix,
            topic,
            reader="planner",
            run_id=run_id,
            offset=offset,
            check=self._checker({} if sequences is None else sequences),
            dead_letters_from=dead_letters_from,
            refused=self._refused[topic],
        )

    def read(self, topic: Topic, run_id: str | None = None, offset: int = 0) -> Mailbox:
        """Read what planners and aggregators write."""
        bus, prefix = self.context.bus, self.context.prefix
        return Mailbox(bus, prefix, topic, reader="planner", run_id=run_id, offset=offset)
