"""What an operator asks the planner of a run for: `cos2p stop`, `cos2p admit`.

Invariant: a request is appended to `fleet`, and the planner decides; a run that is not there or has
ended is refused here, with the reason.
"""

import asyncio

from cos2p.errors import SettingsError
from cos2p.history.follow import open_history
from cos2p.history.run import RunHistory
from cos2p.log.bus import Bus
from cos2p.log.mailbox import Outbox
from cos2p.log.messages import AdmitRequested, StopRequested
from cos2p.log.topics import FLEET
from cos2p.settings import BusSettings
from cos2p_cli import options


def stop(settings: BusSettings, *, reason: str, as_json: bool) -> None:
    """Ask for the run's end.

    Raises:
        SettingsError: there is no run, or it has ended.
    """
    asyncio.run(_stop(settings, reason=reason, as_json=as_json))


def admit(settings: BusSettings, worker_id: str, *, as_json: bool) -> None:
    """Ask to forgive a device the updates that failed checks.

    Raises:
        SettingsError: there is no run, it has ended, or it has no such device.
    """
    asyncio.run(_admit(settings, worker_id, as_json=as_json))


async def _stop(settings: BusSettings, *, reason: str, as_json: bool) -> None:
    async with options.opened(settings) as bus:
        run = await _running(bus, settings.prefix)
        request = StopRequested(run_id=run.run_id, reason=reason)
        await Outbox(bus, settings.prefix, FLEET).send(request)
    if as_json:
        options.print_json({"run_id": run.run_id, "version": run.version, "asked": True})
    else:
        print(
            f"asked run {run.run_id} to stop at version {run.version}; "
            "the last version is published first: watch with `cos2p status --follow`"
        )


async def _admit(settings: BusSettings, worker_id: str, *, as_json: bool) -> None:
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
            f"asked run {run.run_id} to admit {worker_id} again, which was excluded: "
            f"{device.excluded}\nIts failed updates are forgotten; any other reason stays until "
            "the device no longer gives it"
        )
    else:
        print(f"{worker_id} is not excluded; the updates of it that failed checks are forgotten")


async def _running(bus: Bus, prefix: str) -> RunHistory:
    run = (await open_history(bus, prefix)).history
    if run.phase == "empty":
        raise SettingsError(f"there is no run under the prefix {prefix!r}")
    if run.over:
        raise SettingsError(
            f"run {run.run_id} has ended already at version {run.version} ({run.end_reason})"
        )
    return run
