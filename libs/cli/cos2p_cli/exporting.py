"""`cos2p export`: a version as safetensors, whole or as the submodel that fits a budget."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from cos2p.errors import SettingsError
from cos2p.history.follow import open_history
from cos2p.model.cost import plain_bytes
from cos2p.settings import BusSettings
from cos2p_cli import options
from cos2p_cli.pool import require_torch


@dataclass(frozen=True)
class ExportOptions:
    """What the user chose; see `cos2p_worker.export.Wish`."""

    out: Path
    version: int | None = None
    memory_bytes: int | None = None
    raw: bool = False
    task: str | None = None
    as_json: bool = False


def run(settings: BusSettings, chosen: ExportOptions) -> None:
    """Write the file and say what is in it.

    Raises:
        SettingsError: torch or safetensors is missing, or there is no such version.
        BudgetError: no submodel fits; the text says what would do.
    """
    require_torch()
    asyncio.run(_run(settings, chosen))


async def _run(settings: BusSettings, chosen: ExportOptions) -> None:
    from cos2p_worker.export import Wish, export
    from cos2p_worker.task import load_task

    async with options.opened(settings) as bus:
        known = (await open_history(bus, settings.prefix)).history
        if known.phase == "empty":
            raise SettingsError(f"there is no run under the prefix {settings.prefix!r}")
        task = load_task(chosen.task or known.task).for_run(known.config)
        wish = Wish(chosen.version, chosen.raw, chosen.memory_bytes)
        done = await export(bus, settings.prefix, wish, chosen.out, task)
    whole = len(task.units)
    if chosen.as_json:
        options.print_json(
            {
                "file": str(done.path),
                "run_id": done.run_id,
                "version": done.version,
                "state": "raw" if chosen.raw else "average",
                "units": len(done.units),
                "units_whole": whole,
                "parameters": done.parameter_count,
                "parameters_whole": task.units.parameter_count,
                "bytes": done.path.stat().st_size,
            }
        )
        return
    part = "the whole model" if len(done.units) == whole else f"{len(done.units)} of {whole} units"
    print(
        f"{done.path}: version {done.version} of run {done.run_id}, "
        f"{'raw' if chosen.raw else 'average of versions'}, {part}, "
        f"{done.parameter_count:,} parameters, {plain_bytes(done.path.stat().st_size)}"
    )
