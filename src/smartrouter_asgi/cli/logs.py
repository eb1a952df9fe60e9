"""What `serve` logs and how: text for people or one JSON object a line, each record on one line."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..config import LoggingSettings

_MODULE = __name__


def logging_config(settings: LoggingSettings) -> dict[str, Any]:
    """Return the `logging.config.dictConfig` of the settings.

    The router's own loggers follow the level; those of libraries speak from WARNING on, and the HTTP client's never
    below it: its lines hold URLs.
    """
    quiet = max(logging.WARNING, logging.getLevelNamesMapping()[settings.level])
    formatter = "JSONFormatter" if settings.format == "json" else "TextFormatter"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": f"{_MODULE}.{formatter}"}},
        "filters": {"stopping": {"()": f"{_MODULE}.StoppingFilter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["stopping"]}},
        "loggers": {
            "smartrouter_asgi": {"level": settings.level},
            **{name: {"level": quiet} for name in ("uvicorn", "uvicorn.error", "httpx", "httpcore")},
        },
        "root": {"level": quiet, "handlers": ["stderr"]},
    }


class TextFormatter(logging.Formatter):
    """One line for people; only a traceback takes more."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Write the record's line, without the line breaks a message may hold."""
        return _on_one_line(super().formatMessage(record))


class JSONFormatter(logging.Formatter):
    """One JSON object a line: `time` (UTC), `level`, `logger`, `message`, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class StoppingFilter(logging.Filter):
    """Drops the tracebacks of requests that were cut off at the end of the drain: one line says so already."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to log a record."""
        return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _on_one_line(text: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
