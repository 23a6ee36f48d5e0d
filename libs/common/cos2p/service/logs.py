"""Structured logs: one line per event, as JSON unless the output is a terminal.

Invariants:
Events are in the past tense and snake_case.
Context (role, run, worker, plan) is bound once.
"""

import logging
import sys
from typing import cast

import structlog

Log = structlog.stdlib.BoundLogger
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure_logs(level: str, form: str, **context: str) -> Log:
    """Set up logging for this process and return its logger.

    `level` is one of `LEVELS`. `form` is "json", "text", or "auto" for text on a terminal only.
    Every line has the values of `context`.
    """
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
    # aiokafka logs every retry twice; the Kafka bus's errors give the causes to the user.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    return cast(Log, structlog.get_logger().bind(**context))
