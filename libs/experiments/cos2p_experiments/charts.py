"""Charts of cells over time: the devices' work, and which units were trained when.

Invariants: those of `plots`. Cells in one figure share their scales.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cos2p_experiments.plots import INK, STYLE, WIDTH_IN, styled
from cos2p_experiments.result import CellDevice, CellResult

WORK_COLOURS = {"train": "#009e73", "fetch": "#56b4e9", "upload": "#e69f00"}
IDLE_COLOUR = "#e4e4e8"
PLANS_SHOWN = 4
"""A Gantt chart shows about this many plans of the slowest device."""


def gantt(cells: Sequence[CellResult]) -> Figure | None:
    """Draw the devices' work in the first part of each cell; a thin line marks a closed version."""
    cells = [c for c in cells if c.segments]
    if not cells:
        return None
    end = min(min(c.ended_s for c in cells), max(map(_slowest_s, cells)) * PLANS_SHOWN)
    rows = sum(len(c.devices) for c in cells)
    with matplotlib.rc_context(STYLE):
        figure = styled(WIDTH_IN, 0.7 + 0.45 * len(cells) + 0.155 * rows)
        heights = [len(c.devices) for c in cells]
        panels = figure.subplots(
            len(cells), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for axes, cell in zip(panels[:, 0], cells, strict=True):
            _work(axes, cell, end)
        bottom = panels[-1, 0]
        bottom.set_xlim(0, end)
        bottom.set_xlabel("virtual time in s; a thin line closes a version")
        for kind, colour in [*WORK_COLOURS.items(), ("idle", IDLE_COLOUR)]:
            bottom.plot([], [], color=colour, lw=6, label=kind)
        figure.legend(loc="outside upper right", ncols=4, handlelength=1.2, fontsize=9)
        return figure


def coverage(cells: Sequence[CellResult]) -> Figure | None:
    """Draw the merged updates of every prunable unit over virtual time, cells side by side."""
    cells = [c for c in cells if any(c.coverage.prunable) and len(c.coverage.edges_s) > 1]
    if not cells:
        return None
    maps = [np.array(c.coverage.counts)[np.array(c.coverage.prunable)] for c in cells]
    most = max(1, *(int(m.max()) for m in maps))
    with matplotlib.rc_context(STYLE):
        figure = styled(WIDTH_IN, min(5.5, 2.0 + 0.03 * max(len(m) for m in maps)))
        panels = figure.subplots(1, len(cells), sharey=True, squeeze=False)[0]
        for axes, cell, counts in zip(panels, cells, maps, strict=True):
            image = axes.imshow(
                counts,
                aspect="auto",
                interpolation="nearest",
                cmap="viridis",
                vmin=0,
                vmax=most,
                extent=(0, cell.coverage.edges_s[-1], len(counts) - 0.5, -0.5),
            )
            _name_blocks(axes, cell)
            axes.set_title(_name(cell))
            axes.set_xlabel("virtual time in s")
        bar = figure.colorbar(image, ax=list(panels), pad=0.01, aspect=30)
        width = cells[0].coverage.edges_s[1] - cells[0].coverage.edges_s[0]
        bar.set_label(f"updates merged in {width:.3g} s")
        bar.locator = MaxNLocator(integer=True)
        bar.update_ticks()
        return figure


def _work(axes: Axes, cell: CellResult, end: float) -> None:
    devices = sorted(cell.devices, key=lambda d: (d.flops_per_s, d.worker_id))
    row_of = {d.worker_id: i for i, d in enumerate(devices)}
    axes.barh(range(len(devices)), end, 0.8, color=IDLE_COLOUR)
    for kind, colour in WORK_COLOURS.items():
        for worker, row in row_of.items():
            bars = [
                (s.start_s, s.end_s - s.start_s)
                for s in cell.segments
                if (s.worker_id, s.activity) == (worker, kind) and s.start_s < end
            ]
            axes.broken_barh(bars, (row - 0.4, 0.8), color=colour, lw=0)
    for closed in cell.rounds:
        if closed.closed_s < end:
            axes.axvline(closed.closed_s, color=INK, lw=0.5, alpha=0.6)
    axes.set_title(f"{_name(cell)}: busy {100 * cell.busy_share:.0f} % of the whole run")
    axes.set_ylim(len(devices) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(*_class_ticks(devices), fontsize=9)
    axes.spines["left"].set_visible(False)


def _class_ticks(devices: Sequence[CellDevice]) -> tuple[list[float], list[str]]:
    """Return a tick in the middle of each group of neighbours of one class."""
    places: list[list[int]] = []
    for i, device in enumerate(devices):
        if i and device.device_class == devices[i - 1].device_class:
            places[-1].append(i)
        else:
            places.append([i])
    return [float(np.mean(p)) for p in places], [devices[p[0]].device_class for p in places]


def _slowest_s(cell: CellResult) -> float:
    """Return the length of the longest span of training."""
    return max((s.end_s - s.start_s for s in cell.segments if s.activity == "train"), default=0.0)


def _name(cell: CellResult) -> str:
    identity = cell.identity
    return f"{identity.policy}, {identity.setting}, seed {identity.seed}"


def _name_blocks(axes: Axes, cell: CellResult) -> None:
    """Write the blocks' names on the axis, because hundreds of units' names don't fit."""
    pairs = zip(cell.coverage.units, cell.coverage.prunable, strict=True)
    blocks = [unit.split(".")[0] for unit, prunable in pairs if prunable]
    firsts = [i for i, b in enumerate(blocks) if not i or blocks[i - 1] != b]
    ends = [*firsts[1:], len(blocks)]
    middles = [(a + b - 1) / 2 for a, b in zip(firsts, ends, strict=True)]
    axes.set_yticks(middles, [blocks[i] for i in firsts])
    axes.tick_params(axis="y", length=0)
    for first in firsts[1:]:
        axes.axhline(first - 0.5, color="white", lw=0.8)
