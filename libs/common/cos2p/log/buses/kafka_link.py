"""Opens and closes aiokafka's clients.

It retries while brokers start, but not if the settings are wrong.

Invariants:
A client that failed to start is closed before anything else happens.
Errors give the cause without aiokafka's logs, which do not reach a terminal by accident.
A running client shows the newest password when it connects again.
"""

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)

from cos2p.errors import BusUnreachableError
from cos2p.log.buses.kafka_access import Access
from cos2p.log.buses.kafka_errors import Cause, find_cause, one_line

BACKOFF_S = 0.1
RETRY_MS = 50
"""Pause between attempts inside a client, in milliseconds."""
BACKOFF_S_MAX = 2.0
STOP_S = 5.0
"""Time limit of each attempt to close a client."""
NOT_ALLOWED = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError)


class Client(Protocol):
    """The interface that consumers, producers and admin clients share."""

    async def start(self) -> None:
        """Connect."""
        ...


C = TypeVar("C", bound=Client)


class Link:
    """The connection to one cluster, shared by all clients of a bus.

    `patience_s` is how long attempts are repeated, in seconds.
    """

    def __init__(self, access: Access, patience_s: float) -> None:
        self.access = access
        self.patience_s = patience_s
        self._clients: weakref.WeakSet[Any] = weakref.WeakSet()
        # Without a handler, Python prints a library's warnings: here two lines for each retry.
        logger = logging.getLogger("aiokafka")
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())

    @property
    def options(self) -> dict[str, Any]:
        """Arguments for every client.

        A request times out at half of `patience_s`. So if a broker vanishes without closing the
        connection, there is time left for its successor.
        """
        return {
            **self.access.client,
            "request_timeout_ms": int(self.patience_s * 500),
            "retry_backoff_ms": RETRY_MS,
        }

    async def open(self, make: Callable[[], C]) -> C:
        """Start a client; if no broker answers, retry for `patience_s`.

        Raises:
            BusUnreachableError: the text gives the cause; it is raised at once if only other
                settings would help.
            ClusterAuthorizationFailedError: the client connected, but may not do anything.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience_s
        pause_s = BACKOFF_S
        while True:
            client = make()
            try:
                async with asyncio.timeout_at(deadline):
                    await client.start()
            except (KafkaError, OSError, TimeoutError, KeyError) as error:
                await stop(client)
                if isinstance(error, ClusterAuthorizationFailedError):
                    raise
                cause = await self.cause()
                if (cause is not None and cause.final) or loop.time() + pause_s > deadline:
                    raise self._unreachable(cause.text if cause else one_line(error)) from error
            except BaseException:
                await stop(client)
                raise
            else:
                self._clients.add(client)
                return client
            await self.rest(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_S_MAX)

    def renew(self) -> None:
        """Give running clients the current password, for their next connection."""
        if self.access.password is not None:
            password = self.access.password()
            for client in self._clients:
                # aiokafka has no public way to change a running client's password.
                inner_client(client)._sasl_plain_password = password

    async def rest(self, seconds: float = BACKOFF_S) -> None:
        """Wait between attempts."""
        await asyncio.sleep(seconds)

    async def cause(self) -> Cause | None:
        """Why there is no connection; None if there is one."""
        cause = await find_cause(self.access)
        # aiokafka closes a failed connection in the background: give it time to do so.
        await self.rest()
        return cause

    async def unreachable(self, error: BaseException | None) -> BusUnreachableError:
        """Make the error to raise when a running client had no answer for too long."""
        cause = await self.cause()
        if cause is not None:
            return self._unreachable(cause.text)
        why = f": {one_line(error)}" if error is not None else ""
        return BusUnreachableError(
            f"Kafka at {self.access.address} answers, but the partition's leader did not for "
            f"{self.patience_s:g} s{why}"
        )

    def _unreachable(self, text: str) -> BusUnreachableError:
        place = "" if self.access.hosts[0][0] in text else f"{self.access.address}: "
        return BusUnreachableError(f"can't reach Kafka at {place}{text}")


async def stop(client: Any) -> None:
    """Close a client of any kind, in any state.

    It runs in its own task, because aiokafka's `stop` can leak the cancellation of inner tasks.
    """
    closer = getattr(client, "stop", None) or client.close
    task = asyncio.ensure_future(closer())
    await asyncio.wait({task}, timeout=STOP_S)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=STOP_S)
    clean = task.done() and not task.cancelled() and task.exception() is None
    if not clean:
        with contextlib.suppress(KafkaError, OSError, asyncio.CancelledError):
            await inner_client(client).close()


def inner_client(client: Any) -> Any:
    """The inner object that holds the connections of a client of any kind."""
    return getattr(client, "_client", None) or getattr(client, "client", client)
