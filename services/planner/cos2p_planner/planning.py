"""Makes a plan: the device's units (held for some plans, then chosen again), steps and deadline.

Invariants: a plan's forecast peak is within the device's budget. Everything in it is a function of
the log and the devices' messages. Its seed is a function of the run's seed and the plan's number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blake3 import blake3

from cos2p.log import messages as m
from cos2p.model.basket import Choice
from cos2p.model.cost import Workload
from cos2p_planner.rules.closing import Closing, OpenRound, closing_of
from cos2p_planner.state.device import Device, Speed
from cos2p_planner.state.fleet import Fleet
from cos2p_planner.state.importance import Importance, ImportanceState
from cos2p_planner.state.ledger import Ledger
from cos2p_planner.state.run import Run
from cos2p_planner.submodel_choice import Chooser

SEED_MAX = 2**62 - 1


def plan_seed(run_seed: int, plan_number: int) -> int:
    """Return the seed of a plan: the same run, settings and number give the same one."""
    digest = blake3(f"{run_seed}:{plan_number}".encode()).digest(length=8)
    return int.from_bytes(digest, "little") & SEED_MAX


@dataclass(frozen=True)
class Rules:
    """The rules that a run's settings give for choosing, valuing and closing."""

    chooser: Chooser
    importance: Importance
    closing: Closing

    @classmethod
    def of(cls, run: Run, known: ImportanceState | None = None) -> "Rules":
        """Return the rules of a run, with what a snapshot held of the units' values.

        Raises:
            SettingsError: the run names a policy that does not exist.
        """
        importance = Importance(run.table, run.config, known)
        closing = closing_of(run.config.rounds, run.config.local)
        return cls(Chooser(run, importance), importance, closing)


def speed_of(device: Device, run: Run, choice: Choice) -> Speed:
    """Return how fast a device trains these units."""
    step = Workload(
        run.costs.training_flops(choice.trained, choice.frozen),
        run.costs.batch_size,
        1,
        run.costs.weight_bytes(choice.trained + choice.frozen),
        run.costs.weight_bytes(choice.trained),
    )
    return device.speed(step)


def issue(
    recipients: Sequence[Device],
    trainable: Sequence[Device],
    state: OpenRound,
    by: Rules,
    ledger: Ledger,
    fleet: Fleet,
) -> Iterator[m.Plan]:
    """Make plans for the asked devices, one by one: each must be in the ledger before the next."""
    assert ledger.run is not None
    run, config = ledger.run, ledger.run.config
    progress = run.progress(state.version, state.now)
    for device in recipients:
        others = [d.worker_id for d in trainable if d is not device]
        limit_s = by.closing.limit_s(state)
        choice = by.chooser.choose(
            device, ledger, fleet, others, limit_s=limit_s, progress=progress
        )
        if choice is None:
            continue
        number = ledger.plan_count + 1
        terms = by.closing.terms(speed_of(device, run, choice), number, state)
        yield m.Plan(
            plan_id=f"p{number:06d}",
            worker_id=device.worker_id,
            incarnation=device.incarnation,
            base_version=state.version,
            trained=choice.trained,
            frozen=choice.frozen,
            local_steps=terms.steps,
            batch_size=config.local.batch_size,
            learning_rate=config.local.learning_rate_at(progress),
            progress=progress,
            seed=plan_seed(config.seed, number),
            deadline_s=terms.deadline_s,
            group=terms.group,
            peak_bytes=run.costs.peak_bytes(choice.trained, choice.frozen),
        )
