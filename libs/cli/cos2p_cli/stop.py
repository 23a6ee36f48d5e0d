"""`cos2p stop`: ask the planner to end a run."""

import asyncio

from cos2p.errors import SettingsError
from cos2p.history.follow import open_history
from cos2p.mailbox import Outbox
from cos2p.messages import StopRequested
from cos2p.settings import BusSettings
from cos2p.topics import FLEET
from cos2p_cli import options


def stop(settings: BusSettings, *, reason: str, as_json: bool) -> None:
    """Append the request.

    Raises:
        SettingsError: there is no run, or it has ended.
    """
    asyncio.run(_stop(settings, reason=reason, as_json=as_json))


async def _stop(settings: BusSettings, *, reason: str, as_json: bool) -> None:
    async with options.opened(settings) as bus:
        known = (await open_history(bus, settings.prefix)).history
        if known.phase == "empty":
            raise SettingsError(f"there is no run under the prefix {settings.prefix!r}")
        if known.over:
            raise SettingsError(
                f"run {known.run_id} has ended already at version {known.version} "
                f"({known.end_reason})"
            )
        request = StopRequested(run_id=known.run_id, reason=reason)
        await Outbox(bus, settings.prefix, FLEET).send(request)
    if as_json:
        options.print_json({"run_id": known.run_id, "version": known.version, "asked": True})
    else:
        print(
            f"asked run {known.run_id} to stop at version {known.version}; "
            "the last version is published first: watch with `cos2p status --follow`"
        )
