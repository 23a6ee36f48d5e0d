"""Whether snapshots are what they claim to be: the fold of the log up to their offsets.

Invariants: the bus is only read; the log is folded once, as a starting planner folds it, however
many snapshots there are; where it can't be folded the reason is given, and nothing is claimed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cos2p import messages as m
from cos2p.bus import Bus
from cos2p.errors import DivergedError
from cos2p.fence import EpochFence
from cos2p.mailbox import Check, Mailbox
from cos2p.snapshots import Snapshot
from cos2p.state_codec import StateError, pack, unpack
from cos2p.topics import DECISIONS, FLEET, MODELS, Topic
from cos2p_planner.canonical import Tape, Tapes
from cos2p_planner.fold import PlannerFold, PlannerState

TOPICS = (FLEET, DECISIONS, MODELS)
SIGNED = "its records are signed: set COS2P_KEYS_FILE to the register of keys"
HEADLESS = (
    "the log's start has left it (retention): this one is what the later ones are folded from"
)


@dataclass(frozen=True)
class Comparison:
    """What became of one snapshot.

    Attributes:
        number: of the snapshot.
        compared: it equals the fold of the log.
        reason: why it was not compared; empty where it was.
    """

    number: int
    compared: bool
    reason: str = ""


async def compare_snapshots(
    bus: Bus,
    prefix: str,
    snapshots: Sequence[Snapshot],
    checker: Callable[[dict[str, int]], Check] | None = None,
) -> list[Comparison]:
    """Fold the log up to each snapshot of a planner, and compare.

    Args:
        bus: where the log is.
        prefix: of the topics' names.
        snapshots: of one run, in any order.
        checker: what each record of `fleet` must pass, given the signers' last numbers.

    Returns:
        One for each snapshot, by number.

    Raises:
        DivergedError: a snapshot differs from the fold.
        What the bus raises.
    """
    ordered = sorted(snapshots, key=lambda s: s.number)
    if not ordered:
        return []
    if checker is None and any(_is_signed(s) for s in ordered):
        return [Comparison(s.number, False, SIGNED) for s in ordered]
    found: list[Comparison] = []
    known, offsets = PlannerFold(), dict.fromkeys(TOPICS, 0)
    if await _has_lost_its_start(bus, prefix):
        first, *ordered = ordered
        known = PlannerFold(unpack(PlannerState, first.state))
        offsets = {topic: first.positions[topic.name].offset for topic in TOPICS}
        found.append(Comparison(first.number, False, HEADLESS))
    run_id = snapshots[0].run_id
    tapes = _tapes(bus, prefix, run_id, known, offsets, checker)
    for snapshot in ordered:
        await _fold_to(tapes, known, snapshot)
        if pack(PlannerState, known.state) != snapshot.state:
            raise DivergedError(
                f"snapshot {snapshot.number} of run {run_id} differs from the fold of the log up "
                "to its offsets: it, or the log, was changed, or another program version wrote it; "
                "a planner started without snapshots (delete the topic) goes on from the log"
            )
        found.append(Comparison(snapshot.number, True))
    return found


async def _fold_to(tapes: Tapes, known: PlannerFold, snapshot: Snapshot) -> None:
    ends = {name: position.offset for name, position in snapshot.positions.items()}
    tapes.models.stop_at(ends[MODELS.name])
    tapes.decisions.stop_at(ends[DECISIONS.name])
    tapes.fleet.stop_at(ends[FLEET.name])
    async for topic, letter in tapes.decided():
        known.take(topic, letter.offset, letter.message, letter.timestamp_s)
    async for letter in tapes.said():
        known.take(FLEET, letter.offset, letter.message, letter.timestamp_s)


def _tapes(
    bus: Bus,
    prefix: str,
    run_id: str,
    known: PlannerFold,
    offsets: dict[Topic, int],
    checker: Callable[[dict[str, int]], Check] | None,
) -> Tapes:
    def tape(topic: Topic) -> Tape:
        check: Check = _accepted if checker is None else checker(known.sequences)
        return Tape(
            Mailbox(
                bus,
                prefix,
                topic,
                reader="replay",
                run_id=run_id,
                offset=offsets[topic],
                check=check if topic is FLEET else _accepted,
                bury_from=None,
            )
        )

    return Tapes(tape(FLEET), tape(DECISIONS), tape(MODELS), EpochFence(known.epoch))


def _accepted(record: object, message: m.Message) -> None:
    """Where nothing is signed."""


def _is_signed(snapshot: Snapshot) -> bool:
    try:
        return bool(unpack(PlannerState, snapshot.state).sequences)
    except StateError:
        return False


async def _has_lost_its_start(bus: Bus, prefix: str) -> bool:
    ends = [(await bus.end_offsets(topic.full_name(prefix)))[0] for topic in TOPICS]
    return any(end.first for end in ends)
