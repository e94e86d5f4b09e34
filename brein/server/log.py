"""The log: one JSON object a line on standard error, the request's id in each line of a request."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from pydantic_core import to_json
from structlog.typing import Processor


def configure(level: int = logging.INFO) -> None:
    """Have structlog and the standard library's logging write to standard error from now on."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    told = structlog.processors.format_exc_info
    structlog.configure(
        processors=[*shared, told, structlog.processors.JSONRenderer(_line)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    lines = logging.StreamHandler(sys.stderr)
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    lines.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[strip, told, structlog.processors.JSONRenderer()]
        )
    )
    logging.basicConfig(handlers=[lines], level=max(level, logging.WARNING), force=True)


def logger() -> Any:
    """The log of the service."""
    return structlog.get_logger()


def _line(event: dict[str, Any], **options: Any) -> bytes:
    return to_json(event, fallback=repr, inf_nan_mode="constants")  # in a tenth of the time of `json`
