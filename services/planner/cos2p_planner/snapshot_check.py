"""Whether snapshots are what they claim to be: the folds of the log up to their offsets.

Invariants: the bus is only read. The log is folded once, as a starting planner folds it, for any
number of snapshots. Where it can't be folded the reason is given, and nothing is claimed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cos2p.errors import DivergedError
from cos2p.history.read import RunLog, Tape
from cos2p.history.state import HistoryState
from cos2p.log.bus import Bus
from cos2p.log.mailbox import Mailbox
from cos2p.log.snapshots import Fold, Snapshot
from cos2p.log.state_codec import has_shape, unpack
from cos2p.log.topics import DECISIONS, FLEET, MODELS, Topic
from cos2p_planner.fold import Folds, PlannerFold, PlannerState
from cos2p_planner.intake import CheckerFactory, unchecked

STATES: dict[Fold, type] = {"planner": PlannerState, "history": HistoryState}
TOPICS = (DECISIONS, FLEET, MODELS)
SIGNED = "its records are signed: set COS2P_KEYS_FILE to the register of keys"
OTHER = "it is of a program with other fields: a start passes it over"
HEADLESS = "retention took the start of the log: later ones are folded from this one"


@dataclass(frozen=True)
class Comparison:
    """What became of one snapshot.

    Attributes:
        of: the fold whose state it holds.
        number: the snapshot's number.
        compared: whether it equals the fold of the log.
        reason: why it was not compared; empty where it was.
    """

    of: Fold
    number: int
    compared: bool
    reason: str = ""


async def compare_snapshots(
    bus: Bus, prefix: str, snapshots: Sequence[Snapshot], checker: CheckerFactory | None = None
) -> list[Comparison]:
    """Fold the log up to each snapshot, and compare.

    Args:
        bus: the bus that holds the log.
        prefix: prefix of the topics' names.
        snapshots: snapshots of one run, in any order.
        checker: makes the check that each record of `fleet` must pass.

    Returns:
        One comparison for each snapshot, in the order of the log.

    Raises:
        DivergedError: a snapshot differs from the fold.
        StateError: a snapshot can't be read by this program.
        What the bus raises.
    """
    ordered = sorted(snapshots, key=_place)
    others = [s for s in ordered if not has_shape(STATES[s.of], s.state)]
    ordered = [s for s in ordered if s not in others]
    if checker is None and any(_is_signed(s) for s in ordered):
        return [Comparison(s.of, s.number, False, SIGNED) for s in [*others, *ordered]]
    found = [Comparison(s.of, s.number, False, OTHER) for s in others]
    folds, offsets = Folds(), dict.fromkeys(TOPICS, 0)
    if ordered and await _has_lost_its_start(bus, prefix):
        oldest = ordered[0]
        for snapshot in [s for s in ordered if s.number == oldest.number]:
            folds.begin_with(snapshot)
            found.append(Comparison(snapshot.of, snapshot.number, False, HEADLESS))
        ordered = [s for s in ordered if s.number > oldest.number]
        offsets = {topic: oldest.positions[topic.name].offset for topic in TOPICS}
    log = _log(bus, prefix, folds.known, offsets, checker)
    for snapshot in ordered:
        await _fold_to(log, folds, snapshot)
        if folds.packed(snapshot.of) != snapshot.state:
            raise DivergedError(
                f"snapshot {snapshot.number} of the {snapshot.of} of run {snapshot.run_id} differs "
                "from the fold of the log up to its offsets: it or the log was changed, or another "
                "program version wrote it. A start without snapshots folds the log: empty the topic"
            )
        found.append(Comparison(snapshot.of, snapshot.number, True))
    return found


def _place(snapshot: Snapshot) -> tuple[tuple[int, ...], int, str]:
    """Return a snapshot's place in the log; in this order the log can be folded once."""
    ends = tuple(snapshot.positions[topic.name].offset for topic in TOPICS)
    return ends, snapshot.number, snapshot.of


async def _fold_to(log: RunLog, folds: Folds, snapshot: Snapshot) -> None:
    ends = {name: position.offset for name, position in snapshot.positions.items()}
    log.models.stop_at(ends[MODELS.name])
    log.decisions.stop_at(ends[DECISIONS.name])
    log.fleet.stop_at(ends[FLEET.name])
    for letters in (log.decided(), log.fleet_letters()):
        async for letter in letters:
            folds.known.take(letter)
            folds.history.take(letter)


def _log(
    bus: Bus,
    prefix: str,
    known: PlannerFold,
    offsets: dict[Topic, int],
    checker: CheckerFactory | None,
) -> RunLog:
    fleet = Mailbox(
        bus,
        prefix,
        FLEET,
        reader="replay",
        offset=offsets[FLEET],
        check=unchecked if checker is None else checker(known.sequences),
        dead_letters_from=None,
    )
    decisions, models = (
        Tape.of(bus, prefix, topic, offset=offsets[topic]) for topic in (DECISIONS, MODELS)
    )
    return RunLog(Tape(fleet), decisions, models, known.epoch)


def _is_signed(snapshot: Snapshot) -> bool:
    return snapshot.of == "planner" and bool(unpack(PlannerState, snapshot.state).sequences)


async def _has_lost_its_start(bus: Bus, prefix: str) -> bool:
    ends = [(await bus.end_offsets(topic.full_name(prefix)))[0] for topic in TOPICS]
    return any(end.first for end in ends)
