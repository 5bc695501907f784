"""Logs: one JSON object a line, with the request and the operation it belongs to.

Values of keys that name a secret are never written (RELIABILITY S35).
"""

import contextvars
import logging
import re
import sys
import traceback
from typing import TextIO

import msgspec

from kilonova.common.clock import iso_micro
from kilonova.common.errors import KilonovaError

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
operation_id: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "operation_id", default=None
)

SECRET_KEY = re.compile(
    r"pass(word|wd)?$|secret|token|private_key|user_data|credential|fernet|adminpass", re.IGNORECASE
)
_RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def get_logger(name: str) -> logging.Logger:
    """Return a logger; pass facts by ``extra={...}``, never inside the text when they may be secret."""
    return logging.getLogger(name)


class JsonFormatter(logging.Formatter):
    """Write a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": iso_micro(record.created) + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (rid := request_id.get()) is not None:
            line["request_id"] = rid
        if (oid := operation_id.get()) is not None:
            line["operation_id"] = oid
        for key, value in vars(record).items():
            if key not in _RESERVED:
                line[key] = "***" if SECRET_KEY.search(key) else value
        if record.exc_info and record.exc_info[1] is not None:
            exc = record.exc_info[1]
            line["exception"] = "".join(traceback.format_exception(exc))
            if isinstance(exc, KilonovaError):
                line["facts"] = {
                    k: "***" if SECRET_KEY.search(k) else v for k, v in exc.facts.items()
                }
        return msgspec.json.encode(line, enc_hook=str).decode()


def set_up(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send every log line to ``stream`` (stderr if None) as JSON. Doing it again replaces the handler."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # says things of TLS that are none of ours
    for noisy in ("alembic", "cheroot", "sqlalchemy", "pyroute2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
