"""Asking a service's probes, for tests of real processes."""

import asyncio
import contextlib
import itertools
import socket

import aiohttp


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def get(port: int, path: str) -> tuple[int, str]:
    """Status and text of one answer."""
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
        session.get(path) as answer,
    ):
        return answer.status, await answer.text()


async def up(port: int) -> None:
    """Wait until a service answers."""
    async with asyncio.timeout(40):
        for pause_s in itertools.repeat(0.2):
            with contextlib.suppress(aiohttp.ClientConnectorError):
                await get(port, "/healthz")
                return
            await asyncio.sleep(pause_s)


async def hindrance(port: int) -> str:
    """Why a service is not ready, once it is not."""
    async with asyncio.timeout(40):
        for pause_s in itertools.repeat(0.2):
            status, text = await get(port, "/readyz")
            if status == 503:
                return text
            await asyncio.sleep(pause_s)
    raise AssertionError("unreachable")
