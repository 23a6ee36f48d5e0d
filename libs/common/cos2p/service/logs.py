"""Structured logs: one line per event, JSON where nobody watches.

Invariant: events are past tense and snake_case; context (role, run, worker, plan) is bound once.
"""

import logging
import sys
from typing import cast

import structlog

Log = structlog.stdlib.BoundLogger
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure_logs(level: str, form: str, **context: str) -> Log:
    """Set up logging for this process; the logger to hand on."""
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # aiokafka tells every retry twice; its causes reach the user through the Kafka bus's errors.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    return cast(Log, structlog.get_logger().bind(**context))
