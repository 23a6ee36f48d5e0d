"""The lifecycle of a long-running role: start, run, and stop within a deadline.

Invariants:
A first signal only sets an event.
A second signal, or the deadline, ends the process at once.
An expected error becomes one line on standard error and its exit code.
Any other error becomes a traceback and exit code 1.
A role that stays after its run's end only answers probes.
"""

import argparse
import asyncio
import contextlib
import math
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from cos2p.clock import Clock, SystemClock
from cos2p.errors import Cos2pError, ExitCode, RunFailedError, TopicMissingError
from cos2p.log.bus import Bus
from cos2p.log.topics import MODELS
from cos2p.monitoring.monitor import Monitor
from cos2p.monitoring.server import served
from cos2p.monitoring.watch import Watch
from cos2p.service.logs import Log, configure_logs
from cos2p.service.open_bus import open_bus
from cos2p.service.role import RoleContext
from cos2p.settings import ServiceSettings, load_settings

TOPICS_POLL_S = 1.0
WAIT_LOG_S = 60.0
"""Seconds between two log lines about the same wait."""

Body = Callable[[RoleContext], Awaitable[None]]
"""A role's coroutine; it returns when its work is done, or soon after `stop` is set."""
S = TypeVar("S", bound=ServiceSettings)


def role_parser(role: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Make the parser of a role's command line, with the options that all roles share."""
    parser = argparse.ArgumentParser(
        f"cos2p-{role}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bus", help="kafka://HOST:PORT[,HOST:PORT] or sqlite:PATH (COS2P_BUS)")
    parser.add_argument("--prefix", help="prefix of the topics' names (COS2P_PREFIX)")
    parser.add_argument("--run-id", help="serve this run only (COS2P_RUN_ID)")
    return parser


def run_role(
    role: str,
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    kind: type[S],
    serve: Callable[[S], int],
) -> int:
    """Read the settings, serve, and return the process's exit code.

    The parser's options are fields of `kind`. No arguments are those of the process itself. `serve`
    may raise Cos2pError before the role starts.
    """
    given = vars(parser.parse_args(arguments))
    try:
        return serve(load_settings(kind, **given))
    except Cos2pError as error:
        return fail(role, error)


def run_service(role: str, settings: ServiceSettings, body: Body) -> int:
    """Run a role to its end and return the process's exit code."""
    log = configure_logs(settings.log_level, settings.log_format, role=role)
    try:
        asyncio.run(_serve(role, settings, body, log))
    except Cos2pError as error:
        return fail(role, error)
    except Exception:  # noqa: BLE001 - the one place that turns a bug into exit code 1
        traceback.print_exc()
        return int(ExitCode.BUG)
    return int(ExitCode.OK)


def fail(program: str, error: Cos2pError) -> int:
    """Print an error as one line on standard error, and return its exit code."""
    text = " ".join(str(error).split())
    print(f"{program}: {text}", file=sys.stderr, flush=True)
    return int(error.exit_code)


async def _serve(role: str, settings: ServiceSettings, body: Body, log: Log) -> None:
    stop = asyncio.Event()
    _handle_signals(stop, settings.shutdown_deadline_s, log)
    clock = SystemClock()
    bus = open_bus(settings, clock)
    watch = Watch()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(bus.close)
        if settings.health_file is not None:
            health_task = asyncio.create_task(_touch_health_file(settings.health_file, clock))
            stack.callback(health_task.cancel)
        if settings.metrics_port is not None:
            watch = monitor = Monitor(role, metadata.version("cos2p"), settings.prefix, clock)
            bus = monitor.metered(bus)
            place = served(monitor, settings.metrics_host, settings.metrics_port)
            log.info("metrics_served", address=await stack.enter_async_context(place))
        log.info("service_started")
        if settings.stay:
            await _await_topics(bus, settings.prefix, clock, log, stop)
        try:
            await body(RoleContext(bus, clock, log, settings.prefix, stop, settings.run_id, watch))
        except RunFailedError as error:
            if settings.stay:
                log.error("run_failed", reason=str(error))
                watch.blocked("run", str(error))
                await stop.wait()
            raise
        if settings.stay and not stop.is_set():
            log.info("idle", reason="the run has ended")
            await stop.wait()
    log.info("service_stopped")


async def _await_topics(bus: Bus, prefix: str, clock: Clock, log: Log, stop: asyncio.Event) -> None:
    """Wait until the run's topics exist; the check uses `models`, which every role may read."""
    name, logged_at = MODELS.full_name(prefix), -math.inf
    while not stop.is_set():
        try:
            await bus.end_offsets(name)
        except TopicMissingError:
            if clock.now() - logged_at >= WAIT_LOG_S:
                logged_at = clock.now()
                log.info("waited_for_topics", topic=name)
            await clock.sleep(TOPICS_POLL_S)
        else:
            return


def _handle_signals(stop: asyncio.Event, deadline_s: float, log: Log) -> None:
    loop = asyncio.get_running_loop()

    def on_signal(name: str) -> None:
        if stop.is_set():
            os._exit(int(ExitCode.FORCED))
        stop.set()
        log.info("stop_requested", signal=name)
        loop.call_later(deadline_s, lambda: os._exit(int(ExitCode.DEADLINE)))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)


async def _touch_health_file(path: Path, clock: Clock) -> None:
    while True:
        path.touch()
        await clock.sleep(1.0)
