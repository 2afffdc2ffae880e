"""Log lines: one JSON object each on standard error, ours and the libraries', without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from finetune_operator.observed import Key

HIDDEN = "[hidden]"
_SECRET_NAMES = re.compile(r"token|password|passwd|secret|authorization|credential", re.IGNORECASE)
_SECRET_TEXTS = re.compile(
    r"(?i)(bearer\s+)[\w.~+/=-]+|(://[^/\s:@]+:)[^@\s/]+(?=@)|\b(hf_)[A-Za-z0-9]{8,}"
)
QUIET = ("kopf", "kubernetes", "aiohttp", "asyncio")
"""Libraries whose messages below a warning say nothing about our objects, or print bodies."""

NO_FAILURES = ("; will re", "request_cancel_callback")
"""What kopf says of a request that it repeats by itself, and of one under way when its watch is to
end: kopf 1.45 looks for a task to cancel where there is none, and the request ends by itself."""

Line = MutableMapping[str, Any]


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send everything through one chain to `stream`; call once, before the first message."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named_key,
        structlog.processors.format_exc_info,
        redacted,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redacted,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(_no_failures_are_warnings)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _no_failures_are_warnings(record: logging.LogRecord) -> bool:
    """Lower what is said as an error while nothing has failed."""
    if record.levelno == logging.ERROR and any(one in record.getMessage() for one in NO_FAILURES):
        record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        record.exc_info = record.exc_text = None
    return True


def redacted(_logger: Any, _method: str, line: Line) -> Line:
    """Hide values of fields named like secrets, and what looks like one in any text."""
    for name, value in line.items():
        if _SECRET_NAMES.search(name):
            line[name] = HIDDEN
        elif isinstance(value, str):
            line[name] = _SECRET_TEXTS.sub(_hide, value)
    return line


def _hide(found: re.Match[str]) -> str:
    kept = next((group for group in found.groups() if group), "")
    return f"{kept}{HIDDEN}"


def _named_key(_logger: Any, _method: str, line: Line) -> Line:
    """Spread a key into the fields people search by."""
    if isinstance(key := line.get("key"), Key):
        line["key"] = f"{key.kind}/{key.namespace}/{key.name}"
    return line
