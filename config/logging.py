"""Logs go to stderr, as text for people or as one JSON object a line for machines. No secret is ever handed to it."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

logger = logging.getLogger(__name__)

# Which request is being answered; set by the API, empty everywhere else.
request_id: ContextVar[str] = ContextVar("request_id", default="")
_worker: list[int] = []  # which one of several this process is, if it is one

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and whatever was passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update({name: value for name, value in vars(record).items() if name not in _STANDARD})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class TextFormatter(logging.Formatter):
    """A line for people; at its end stands the request that it is about, or the worker that it comes from, if any."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the parent's name
        """The line, without a traceback."""
        line = super().formatMessage(record)
        for what, field in (("request", "request_id"), ("worker", "worker")):
            if (value := getattr(record, field, None)) is not None:
                line = f"{line} ({what} {value})"
        return line


def name_worker(number: int) -> None:
    """From now on each line says that it comes from this worker; several write into one log."""
    _worker[:] = [number]


def _note_origin(record: logging.LogRecord) -> bool:
    request = request_id.get()
    if request:
        record.request_id = request
    for number in _worker:
        record.worker = number
    return True


def tell(text: str) -> None:
    """One line on stderr from a command to the person who called it; a JSON object once the log is one."""
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers):
        logger.error("%s", text)
    else:
        sys.stderr.write(f"wattline: {text}\n")


def configure_logging(level: str, log_format: Literal["text", "json"]) -> None:
    """Send every logger of this process to stderr, in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_note_origin)
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(
            TextFormatter("%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
        )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # psycopg reports each failed attempt of a pool on its own; the callers say it once, in our words.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    # "Started server process" says nothing that our own line with the address does not.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
