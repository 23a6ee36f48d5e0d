"""Requests of an operator to the planner of a run: `cos2p stop`, `cos2p admit`.

Invariants: a request is appended to `fleet`, and the planner decides. A request for a run that does
not exist or has ended is refused here, with the reason.
"""

from cos2p.errors import SettingsError
from cos2p.history.run import RunHistory
from cos2p.log.bus import Bus
from cos2p.log.mailbox import Outbox
from cos2p.log.messages import AdmitRequested, StopRequested
from cos2p.log.topics import FLEET
from cos2p.settings import BusSettings
from cos2p_cli import options


@options.blocking
async def stop(settings: BusSettings, *, reason: str, as_json: bool) -> None:
    """Request the end of a run.

    Raises:
        SettingsError: there is no run, or it has ended.
    """
    async with options.opened(settings) as bus:
        run = await _running(bus, settings.prefix)
        request = StopRequested(run_id=run.run_id, reason=reason)
        await Outbox(bus, settings.prefix, FLEET).send(request)
    if as_json:
        options.print_json({"run_id": run.run_id, "version": run.version, "asked": True})
    else:
        print(
            f"requested that run {run.run_id} stops at version {run.version}; "
            "the last version is published first: watch with `cos2p status --follow`"
        )


@options.blocking
async def admit(settings: BusSettings, worker_id: str, *, as_json: bool) -> None:
    """Request that the planner forgets a device's updates that failed checks.

    Raises:
        SettingsError: there is no run, it has ended, or it has no such device.
    """
    async with options.opened(settings) as bus:
        run = await _running(bus, settings.prefix)
        device = run.state.devices.get(worker_id)
        if device is None:
            known = ", ".join(run.state.devices) or "none"
            raise SettingsError(
                f"run {run.run_id} has no device {worker_id!r}; it has: {known[:500]}"
            )
        request = AdmitRequested(run_id=run.run_id, worker_id=worker_id)
        await Outbox(bus, settings.prefix, FLEET).send(request)
    if as_json:
        options.print_json(
            {"run_id": run.run_id, "worker_id": worker_id, "excluded": device.excluded}
        )
    elif device.excluded:
        print(
            f"requested that run {run.run_id} admits {worker_id}, excluded because "
            f"{device.excluded}\nIts failed updates are forgotten; any other reason stays until "
            "the device no longer gives it"
        )
    else:
        print(f"{worker_id} is not excluded; its updates that failed checks are forgotten")


async def _running(bus: Bus, prefix: str) -> RunHistory:
    run = await options.history_of(bus, prefix)
    if run.over:
        raise SettingsError(
            f"run {run.run_id} has ended already at version {run.version} ({run.end_reason})"
        )
    return run
