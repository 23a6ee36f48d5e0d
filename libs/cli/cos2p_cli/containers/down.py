"""`cos2p down`: stops one machine's ring, workers first, and leaves nothing but its log.

Invariants: every container is asked to stop before it is killed, and has its own deadline. Kafka
stops last. The volume with the log stays unless the user asks to remove it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cos2p.errors import SettingsError
from cos2p_cli import figures
from cos2p_cli.containers import specs
from cos2p_cli.containers.engine import Engine, Found
from cos2p_cli.containers.readiness import few
from cos2p_cli.containers.tell import Tell

TURNS = (("worker", "evaluator", "init"), ("planner",), ("aggregator",), ("kafka",))
"""Roles that stop together, in order: a message's receiver stops after its sender."""


@dataclass(frozen=True)
class DownOptions:
    """The options of `cos2p down`.

    Attributes:
        name: the ring's name.
        volumes: whether to remove the log too.
        patience_s: how long each container may take to stop; None is its role's own deadline.
    """

    name: str = "co-s2p"
    volumes: bool = False
    patience_s: int | None = None


@dataclass(frozen=True)
class DownResult:
    """The removed containers, and what happened to network and volume."""

    removed: tuple[str, ...]
    network: bool
    volume: Literal["kept", "removed", "absent"]

    def plain(self) -> dict[str, Any]:
        """Return the result as JSON-able values."""
        return {"containers": list(self.removed), "network": self.network, "volume": self.volume}


async def take_down(chosen: DownOptions, engine: Engine, tell: Tell) -> DownResult:
    """Stop and remove the ring's containers and its network, and the volume if asked.

    Raises:
        SettingsError: the network or the volume of that name does not belong to this ring.
        EngineError: the engine refuses.
    """
    found = await asyncio.to_thread(engine.containers, chosen.name)
    network = await _is_ours(engine, "network", chosen.name, chosen.name)
    volume = specs.volume_of(chosen.name)
    kept = await _is_ours(engine, "volume", volume, chosen.name)
    for roles in TURNS:
        turn = [f for f in found if f.role in roles]
        if turn:
            tell.waits(f"stopping {few([f.name for f in turn])}")
        await asyncio.gather(*(_leave(engine, f, chosen.patience_s) for f in turn))
        for f in turn:
            tell.did(f"removed   {f.name}")
    if network:
        await asyncio.to_thread(engine.remove, "network", chosen.name)
        tell.did(f"removed   network {chosen.name}")
    if kept and chosen.volumes:
        await asyncio.to_thread(engine.remove, "volume", volume)
        tell.did(f"removed   volume {volume}")
    _sum_up(chosen, found, kept, volume, tell)
    state: Literal["kept", "removed", "absent"] = "kept" if kept else "absent"
    return DownResult(
        tuple(f.name for f in found), network, "removed" if kept and chosen.volumes else state
    )


def _sum_up(
    chosen: DownOptions, found: Sequence[Found], kept: bool, volume: str, tell: Tell
) -> None:
    if not found:
        tell.did(f"no container of {chosen.name} was there")
    else:
        tell.did(f"{figures.count(len(found), 'container')} removed")
    if kept and not chosen.volumes:
        tell.did(
            f"kept      volume {volume}: the log of its runs. `cos2p up` goes on from there, "
            "`cos2p down --volumes` removes it"
        )


async def _is_ours(
    engine: Engine, kind: Literal["network", "volume"], name: str, site: str
) -> bool:
    labels = await asyncio.to_thread(engine.labels_of, kind, name)
    if labels is not None and labels.get(specs.NAME) != site:
        raise SettingsError(f"the {kind} {name} is not of this ring: it is left alone")
    return labels is not None


async def _leave(engine: Engine, found: Found, patience_s: int | None) -> None:
    if found.status in ("running", "restarting", "paused"):
        await asyncio.to_thread(engine.stop, found.name, patience_s)
    await asyncio.to_thread(engine.remove, "container", found.name)
