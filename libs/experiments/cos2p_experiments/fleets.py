"""Fleets of unequal devices, by name: memory, speed and link of each, and which data it holds.

Invariants: memory and speed are independent (a board may be rich in the one and poor in the other);
a fleet is the same for every policy; with the seed only the data that each device holds change.

Sources. Memory, cores and clocks: the maker's data sheets of the modules. Speed is 2 * CUDA cores *
clock in FP32 relative to AGX Orin (5.3 TFLOPS at 2048 cores, 1.3 GHz). Usable memory is an
assumption: the total less 1.8 GB (4 GB boards), 2.5 GB (8 GB) or 3 to 4 GB (larger) for system,
loader and CUDA context. Links are presets, of no board in particular: 100 Mbit/s Ethernet and
50 Mbit/s Wi-Fi. The mix is ours; the paper (arXiv 2410.08457) does not give its own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from cos2p.errors import SettingsError
from cos2p.model.cost import CostModel
from cos2p.model.units import UnitTable

ETHERNET, WIFI = 1.0, 0.5
"""Links relative to 100 Mbit/s."""


@dataclass(frozen=True)
class Board:
    """A class of devices.

    Attributes:
        name: of the class.
        usable_gb: memory that training may use, GB.
        speed: training speed relative to AGX Orin.
        source: where the figures come from.
    """

    name: str
    usable_gb: float
    speed: float
    source: str


NANO = Board("nano", 2.2, 0.04, "4 GB, 128 Maxwell cores at 0.921 GHz: 0.24 TFLOPS")
TX2 = Board("tx2", 5.5, 0.13, "8 GB, 256 Pascal cores at 1.30 GHz: 0.67 TFLOPS")
XAVIER_NX = Board("xavier-nx", 5.5, 0.16, "8 GB, 384 Volta cores at 1.1 GHz: 0.84 TFLOPS")
AGX_XAVIER = Board("agx-xavier", 28.0, 0.27, "32 GB, 512 Volta cores at 1.38 GHz: 1.41 TFLOPS")
ORIN_NANO = Board("orin-nano", 5.5, 0.24, "8 GB, 1024 Ampere cores at 0.625 GHz: 1.28 TFLOPS")
ORIN_NX = Board("orin-nx", 13.0, 0.35, "16 GB, 1024 Ampere cores at 0.918 GHz: 1.88 TFLOPS")
AGX_ORIN = Board("agx-orin", 60.0, 1.0, "64 GB, 2048 Ampere cores at 1.3 GHz: 5.3 TFLOPS")

SIXTEEN: tuple[Board, ...] = (
    *(NANO,) * 4,
    *(TX2,) * 3,
    *(XAVIER_NX,) * 3,
    *(AGX_XAVIER,) * 2,
    ORIN_NANO,
    *(ORIN_NX,) * 2,
    AGX_ORIN,
)


@dataclass(frozen=True)
class FleetPlan:
    """A fleet, before it is scaled to a model.

    Attributes:
        name: what a suite calls it.
        boards: the class of each device.
        need_gb: what training the whole model is taken to need; a device's budget fraction r is
            usable_gb / need_gb, cut at `cap`.
        cap: largest r.
    """

    name: str
    boards: tuple[Board, ...]
    need_gb: float
    cap: float = 1.0

    def budget(self, board: Board) -> float:
        """r: the fraction of the prunable cost that a board may hold."""
        return min(self.cap, board.usable_gb / self.need_gb)


JETSON16 = FleetPlan("jetson16", SIXTEEN, need_gb=8.8)
"""r: Nano 0.25; the 8 GB boards 0.625; Orin NX 16 GB and both AGX 1."""
JETSON16_WEAK = FleetPlan("jetson16-weak", SIXTEEN, need_gb=11.0, cap=0.65)
"""No device fits the whole model: Nano 0.2; the 8 GB boards 0.5; the others 0.65."""
FLEETS: Mapping[str, FleetPlan] = MappingProxyType({f.name: f for f in (JETSON16, JETSON16_WEAK)})
EVEN = re.compile(r"even-(\d{1,4})-(\d(?:\.\d{1,4})?)")


@dataclass(frozen=True)
class Scale:
    """From relative figures to virtual seconds.

    Attributes:
        step_s: seconds of one local step of the whole model on AGX Orin.
        transfer_steps: the whole model takes so many of these steps over a 100 Mbit/s link, one
            way. A model of 0.11 B parameters (440 MB) takes 35 s, some forty steps of 0.8 s; a real
            local round has a few hundred steps, ours ten or twenty, so a quarter keeps the shares.
    """

    step_s: float = 0.1
    transfer_steps: float = 10.0


@dataclass(frozen=True)
class Member:
    """One device of a scaled fleet.

    Attributes:
        worker_id: its name.
        index: its number in the fleet; seeds its jitter.
        shard: which part of the data it holds.
        board: its class.
        budget: r.
        memory_bytes: peak bytes that its training may use.
        flops_per_s: training speed.
        bytes_per_s: of its link, either way.
    """

    worker_id: str
    index: int
    shard: int
    board: Board
    budget: float
    memory_bytes: int
    flops_per_s: float
    bytes_per_s: float


def fleet_named(name: str) -> FleetPlan:
    """The fleet of a name; ``even-N-R`` is of N equal devices that may hold the fraction R each.

    Raises:
        SettingsError: there is none; the text lists the names.
    """
    if name in FLEETS:
        return FLEETS[name]
    match = EVEN.fullmatch(name)
    if match is not None and int(match[1]) > 0 and 0 < float(match[2]) <= 1:
        device = Board("even", float(match[2]), 1.0, "made up: as fast as AGX Orin")
        return FleetPlan(name, (device,) * int(match[1]), need_gb=1.0)
    raise SettingsError(
        f"no fleet is named {name!r}: take one of {', '.join(sorted(FLEETS))}, or even-N-R for N "
        "equal devices that may hold the fraction R of the model each (even-8-0.5)"
    )


def members(
    plan: FleetPlan, cost: CostModel, scale: Scale, *, seed: int, margin: float
) -> tuple[Member, ...]:
    """The fleet's devices, scaled to a model.

    Args:
        plan: the fleet.
        cost: of the model with the task's own settings, so that every policy gets the same devices.
        scale: to virtual seconds.
        seed: of which device holds which shard.
        margin: share of a device's memory that the planner leaves unplanned: on top of r.
    """
    whole = cost.batch_size * cost.training_flops(range(len(cost.table)))
    shards = np.random.default_rng([seed, 7]).permutation(len(plan.boards))
    found = []
    for index, board in enumerate(plan.boards):
        budget = plan.budget(board)
        link = ETHERNET if index % 2 else WIFI
        found.append(
            Member(
                worker_id=f"worker-{index:02d}",
                index=index,
                shard=int(shards[index]),
                board=board,
                budget=budget,
                memory_bytes=-int(-cost.memory_for_fraction(budget) // (1 - margin)),
                flops_per_s=board.speed * whole / scale.step_s,
                bytes_per_s=link * model_bytes(cost.table) / (scale.transfer_steps * scale.step_s),
            )
        )
    return tuple(found)


def model_bytes(table: UnitTable) -> int:
    """Bytes of the whole model on the wire."""
    return 4 * table.parameter_count
