"""Log lines: a record in; a line for people, or one JSON object for machines, out.

Both carry the id of the request that was being answered, where there was one.
"""

from __future__ import annotations

import json
import logging
import time
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being answered here."""

FIELDS = "fields"
"""Attribute of a log record with values by name, given as `extra={FIELDS: {...}}`."""


class TextFormatter(logging.Formatter):
    """Time, level, message, then `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it if there is one."""
        fields = _fields(record)
        parts = [f"{name}={value}" for name, value in fields.items()]
        moment = _second(int(record.created), False)
        lines = [
            " ".join(
                [f"{moment},{int(record.msecs):03d}", record.levelname, record.getMessage(), *parts]
            )
        ]
        if record.exc_info:
            lines.append(self.formatException(record.exc_info))
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        moment = _second(int(record.created), True)
        entry: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def configure_logs(form: str) -> None:
    """Send the logs of this process to stderr, as `text` or `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


@lru_cache(2)
def _second(since: int, utc: bool) -> str:
    """A second since 1970 as text: many lines share one."""
    if utc:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = dict(getattr(record, FIELDS, {}))
    request = REQUEST_ID.get()
    if request:
        fields.setdefault("request_id", request)
    return fields
