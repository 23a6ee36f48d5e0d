"""Writes docs/metrics.md from the list of metrics: `make docs`."""

from collections.abc import Iterator, Sequence

from cos2p.monitoring.metrics import OF_DEVICES, OF_RUNS, OF_SERVICES, Metric

HEAD = """# Metrics and probes

Generated from `libs/common/cos2p/monitoring/metrics.py` by `make docs`; a test fails when it is
out of date.

With `COS2P_METRICS_PORT` set, a service answers on `COS2P_METRICS_HOST` (127.0.0.1 unless said
otherwise):

| path | answers |
|---|---|
| `/healthz` | 200 as long as the event loop turns: for liveness. It asks nothing of the bus |
| `/readyz` | 200, or 503 with a line per cause (below) |
| `/metrics` | Prometheus's text format |

Causes: `bus`, until it has answered once and while calls fail; `run`, at the planner, when no
version has come for `liveness.warn_after_s` (the line names who is waited for), or the run has
failed. A service that waits for its run is ready.

The planner shows the run and its devices, from what it reads and decides anyway; every service
shows itself. The packages are in the extra
`metrics` ([install](install_on_a_device.md)).
"""
SECTIONS: tuple[tuple[str, Sequence[Metric]], ...] = (
    ("Of every service", OF_SERVICES),
    ("Of the run (the planner)", OF_RUNS),
    ("Of each device (the planner)", OF_DEVICES),
)


def page() -> Iterator[str]:
    """The page, line by line."""
    yield HEAD
    for title, metrics in SECTIONS:
        yield f"## {title}\n"
        yield "| metric | kind | labels | meaning |"
        yield "|---|---|---|---|"
        for metric in metrics:
            labels = ", ".join(f"`{name}`" for name in metric.labels)
            yield f"| `{metric.shown}` | {metric.kind} | {labels} | {metric.about} |"
        yield ""


if __name__ == "__main__":
    print("\n".join(page()).rstrip())
