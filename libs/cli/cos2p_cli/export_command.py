"""`cos2p export`: a version as safetensors, whole or as the submodel that fits a budget."""

from pathlib import Path

from cos2p.model.cost import plain_bytes
from cos2p.settings import BusSettings
from cos2p_cli import options
from cos2p_cli.pool import require_torch


@options.blocking
async def run(
    settings: BusSettings,
    out: Path,
    *,
    version: int | None,
    memory_bytes: int | None,
    raw: bool,
    task_name: str | None,
    as_json: bool,
) -> None:
    """Write the file and print what it contains.

    Raises:
        SettingsError: torch or safetensors is missing, or there is no such version.
        BudgetError: no submodel fits. The text names a budget that would.
    """
    require_torch()
    from cos2p_worker.export import ExportRequest, export
    from cos2p_worker.task import load_task

    async with options.opened(settings) as bus:
        known = await options.history_of(bus, settings.prefix)
        task = load_task(task_name or known.task).for_run(known.config)
        done = await export(
            bus, settings.prefix, ExportRequest(version, raw, memory_bytes), out, task
        )
    whole = len(task.units)
    if as_json:
        options.print_json(
            {
                "file": str(done.path),
                "run_id": done.run_id,
                "version": done.version,
                "state": "raw" if raw else "average",
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
        f"{'raw' if raw else 'average of versions'}, {part}, "
        f"{done.parameter_count:,} parameters, {plain_bytes(done.path.stat().st_size)}"
    )
