"""Fleets of unequal devices, by name: memory, speed and link of each, and which data it holds.

Invariants: memory and speed are independent: a board may have much of the one and little of the
other. A fleet is the same for every policy. The seed changes only which data each device holds.

Sources. Memory, cores and clocks come from the maker's data sheets of the modules. Speed is
2 * CUDA cores * clock in FP32 relative to AGX Orin (5.3 TFLOPS at 2048 cores, 1.3 GHz). Usable
memory is an assumption. It is the total less 1.8 GB (4 GB boards), 2.5 GB (8 GB) or 3 to 4 GB
(larger boards) for system, loader and CUDA context. Links are presets that belong to no specific
board: 100 Mbit/s Ethernet and 50 Mbit/s Wi-Fi. The mix is ours, because the paper
(arXiv 2410.08457) does not give its own.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field

from cos2p.errors import SettingsError
from cos2p.model.cost import CostModel

ETHERNET, WIFI = 1.0, 0.5
"""Speeds of links relative to 100 Mbit/s."""


@dataclass(frozen=True)
class Board:
    """A class of devices, with the memory that training may use.

    Its speed is relative to AGX Orin.
    """

    name: str
    usable_gb: float
    speed: float


NANO = Board("nano", 2.2, 0.04)  # 4 GB, 128 Maxwell cores at 0.921 GHz: 0.24 TFLOPS
TX2 = Board("tx2", 5.5, 0.13)  # 8 GB, 256 Pascal cores at 1.30 GHz: 0.67 TFLOPS
XAVIER_NX = Board("xavier-nx", 5.5, 0.16)  # 8 GB, 384 Volta cores at 1.1 GHz: 0.84 TFLOPS
AGX_XAVIER = Board("agx-xavier", 28.0, 0.27)  # 32 GB, 512 Volta cores at 1.38 GHz: 1.41 TFLOPS
ORIN_NANO = Board("orin-nano", 5.5, 0.24)  # 8 GB, 1024 Ampere cores at 0.625 GHz: 1.28 TFLOPS
ORIN_NX = Board("orin-nx", 13.0, 0.35)  # 16 GB, 1024 Ampere cores at 0.918 GHz: 1.88 TFLOPS
AGX_ORIN = Board("agx-orin", 60.0, 1.0)  # 64 GB, 2048 Ampere cores at 1.3 GHz: 5.3 TFLOPS

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
        boards: the class of each device.
        need_gb: the memory that training the whole model is assumed to need. A device's budget
            fraction r is usable_gb / need_gb, at most `cap`.
        cap: the largest r.
    """

    name: str
    boards: tuple[Board, ...]
    need_gb: float
    cap: float = 1.0

    def budget(self, board: Board) -> float:
        """Return r, the fraction of the prunable cost that a board may hold."""
        return min(self.cap, board.usable_gb / self.need_gb)


JETSON16 = FleetPlan("jetson16", SIXTEEN, need_gb=8.8)
"""r: Nano 0.25; the 8 GB boards 0.625; Orin NX 16 GB and both AGX 1."""
JETSON16_WEAK = FleetPlan("jetson16-weak", SIXTEEN, need_gb=11.0, cap=0.65)
"""No device fits the whole model: Nano 0.2; the 8 GB boards 0.5; the others 0.65."""
FLEETS: Mapping[str, FleetPlan] = MappingProxyType({f.name: f for f in (JETSON16, JETSON16_WEAK)})
EVEN = re.compile(r"even-(\d{1,4})-(\d(?:\.\d{1,4})?)")


@dataclass(frozen=True)
class Scale:
    """The scale from relative figures to virtual seconds.

    Attributes:
        step_s: seconds of one local step of the whole model on AGX Orin.
        transfer_steps: the time of one transfer of the whole model over a 100 Mbit/s link, in such
            steps. A model of 0.11 B parameters (440 MB) takes 35 s, about forty steps of 0.8 s. A
            real local round has a few hundred steps, ours ten or twenty. A quarter of the forty
            steps therefore keeps the shares.
    """

    step_s: Annotated[float, Field(gt=0)] = 0.1
    transfer_steps: Annotated[float, Field(gt=0)] = 10.0
    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Member:
    """One device of a scaled fleet.

    Attributes:
        index: the device's number in the fleet. It seeds the jitter.
        shard: the number of the data shard that the device holds.
        budget: r, the fraction of the prunable cost that the device may hold.
        memory_bytes: the peak bytes that training may use.
        bytes_per_s: the speed of the link, in each direction.
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
    """Return a fleet by name. ``even-N-R`` has N equal devices that may hold the fraction R each.

    Raises:
        SettingsError: no fleet has this name. The text lists the names.
    """
    if name in FLEETS:
        return FLEETS[name]
    match = EVEN.fullmatch(name)
    if match is not None and int(match[1]) > 0 and 0 < float(match[2]) <= 1:
        device = Board("even", float(match[2]), speed=1.0)
        return FleetPlan(name, (device,) * int(match[1]), need_gb=1.0)
    raise SettingsError(
        f"no fleet is named {name!r}: take one of {', '.join(sorted(FLEETS))}, or even-N-R for N "
        "equal devices that may hold the fraction R of the model each (even-8-0.5)"
    )


def members(
    plan: FleetPlan, cost: CostModel, scale: Scale, *, seed: int, margin: float
) -> tuple[Member, ...]:
    """Return the fleet's devices, scaled to a model. The seed deals the shards to them.

    The cost model is that of the task's settings, so that every policy has the same devices.
    `margin` is the share of a device's memory that the planner leaves unplanned. A device gets it
    on top of r.
    """
    whole = cost.batch_size * cost.whole_flops
    model_bytes = cost.weight_bytes(range(len(cost.table)))
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
                # Rounded up, so that the share under the margin still holds the fraction r.
                memory_bytes=-int(-cost.memory_for_fraction(budget) // (1 - margin)),
                flops_per_s=board.speed * whole / scale.step_s,
                bytes_per_s=link * model_bytes / (scale.transfer_steps * scale.step_s),
            )
        )
    return tuple(found)
