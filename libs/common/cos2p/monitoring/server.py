"""The HTTP server of one service, with /metrics, /healthz and /readyz.

It runs on the service's own event loop.

Invariants:
An answer of /healthz means only that the event loop runs.
Nothing here blocks the role for longer than one scrape takes to write.
The packages that the server needs are imported when it starts.
"""

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from cos2p.errors import SettingsError
from cos2p.monitoring.metrics import METRICS, Metric
from cos2p.monitoring.monitor import Monitor
from cos2p.monitoring.samples import Sample

if TYPE_CHECKING:
    from aiohttp import web

TEXT = "text/plain; version=0.0.4; charset=utf-8"


@contextlib.asynccontextmanager
async def served(monitor: Monitor, host: str, port: int) -> AsyncIterator[str]:
    """Serve a service's state and give the server's address; port 0 takes a free one.

    Raises:
        SettingsError: a package is missing, or the address can't be used.
    """
    try:
        import prometheus_client  # noqa: F401 - fails now if missing, not at the first scrape
        from aiohttp import web
    except ImportError as error:
        raise SettingsError(
            f"COS2P_METRICS_PORT needs {error.name}: install Co-S2P's extra `metrics`"
        ) from error
    runner = web.AppRunner(_application(monitor), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise SettingsError(
                f"COS2P_METRICS_PORT: can't listen on {host}:{port}: {error.strerror}"
            ) from error
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def exposition(samples: Iterable[Sample]) -> bytes:
    """Write samples in Prometheus's text format."""
    from prometheus_client import CollectorRegistry, generate_latest

    class Families(CollectorRegistry):
        def collect(self) -> Iterator[Any]:
            found: dict[Metric, list[Sample]] = {}
            for sample in samples:
                found.setdefault(sample.metric, []).append(sample)
            return (_family(metric, found[metric]) for metric in METRICS if metric in found)

    return generate_latest(Families())


def _family(metric: Metric, samples: list[Sample]) -> Any:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.about, labels=metric.labels)
        for sample in samples:
            histogram.add_metric(sample.labels, list(sample.buckets), sum_value=sample.value)
        return histogram
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = make(metric.name, metric.about, labels=metric.labels)
    for sample in samples:
        family.add_metric(sample.labels, sample.value)
    return family


def _application(monitor: Monitor) -> "web.Application":
    from aiohttp import web

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=exposition(monitor.samples()), headers={"Content-Type": TEXT})

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        lines = [f"{cause}: {text}\n" for cause, text in sorted(monitor.blockers.items())]
        return web.Response(text="".join(lines) or "ok\n", status=503 if lines else 200)

    application = web.Application()
    application.add_routes(
        [web.get("/metrics", metrics), web.get("/healthz", health), web.get("/readyz", ready)]
    )
    return application
