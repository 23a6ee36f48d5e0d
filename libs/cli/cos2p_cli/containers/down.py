"""`cos2p down`: stops one machine's ring, workers first, and leaves nothing but its log.

Invariants: every container is asked to stop before it is killed, and has its own deadline. Kafka
stops last. The volume with the log stays unless the user asks to remove it.
"""

from asyncio import gather, to_thread
from typing import Any

from cos2p_cli import figures
from cos2p_cli.containers import specs
from cos2p_cli.containers.engine import DockerEngine, ExistingContainer
from cos2p_cli.containers.readiness import short_list
from cos2p_cli.containers.steps import StepPrinter

TURNS = (("worker", "evaluator", "init"), ("planner",), ("aggregator",), ("kafka",))
"""Roles that stop together, in order: a message's receiver stops after its sender."""


async def take_down(
    name: str,
    engine: DockerEngine,
    steps: StepPrinter,
    *,
    volumes: bool = False,
    patience_s: int | None = None,
) -> dict[str, Any]:
    """Stop and remove the ring's containers and its network, and return what was removed.

    With `volumes` the log is removed too. Each container may take `patience_s` to stop; None is
    its role's own deadline.

    Raises:
        SettingsError: the network or the volume of that name does not belong to this ring.
        EngineError: the engine refuses.
    """
    found = await to_thread(engine.containers, name)
    network = await to_thread(engine.owns, "network", name, name)
    volume = specs.volume_of(name)
    has_volume = await to_thread(engine.owns, "volume", volume, name)
    for roles in TURNS:
        turn = [f for f in found if f.role in roles]
        if turn:
            steps.waiting(f"stopping {short_list([f.name for f in turn])}")
        await gather(*(_stop_and_remove(engine, f, patience_s) for f in turn))
        for f in turn:
            steps.done(f"removed   {f.name}")
    if network:
        await to_thread(engine.remove, "network", name)
        steps.done(f"removed   network {name}")
    if has_volume and volumes:
        await to_thread(engine.remove, "volume", volume)
        steps.done(f"removed   volume {volume}")
    if found:
        steps.done(f"{figures.count(len(found), 'container')} removed")
    else:
        steps.done(f"{name} has no containers")
    if has_volume and not volumes:
        steps.done(
            f"kept      volume {volume}: the log of its runs. `cos2p up` continues from there, "
            "`cos2p down --volumes` removes it"
        )
    state = ("removed" if volumes else "kept") if has_volume else "absent"
    return {"containers": [f.name for f in found], "network": network, "volume": state}


async def _stop_and_remove(
    engine: DockerEngine, found: ExistingContainer, patience_s: int | None
) -> None:
    if found.status in ("running", "restarting", "paused"):
        await to_thread(engine.stop, found.name, patience_s)
    await to_thread(engine.remove, "container", found.name)
