"""The lines of the request log, made at a third of the usual cost: there is one for every request.

Python's logging looks up the calling function for each record, and splits the path of its file. The request log is
written at one place, so its records have these as constants.
"""

from __future__ import annotations

import logging
from typing import Any, Final

logger = logging.getLogger("vectorpool.http")

# The thread and the process are left out, as everywhere in the log: no format uses them.
_CONSTANT: Final = {
    **logging.LogRecord(logger.name, logging.INFO, __file__, 0, "", (), None, func="log").__dict__,
    **dict.fromkeys(("thread", "threadName", "process", "processName")),
}


class _Line(logging.LogRecord):
    """A record with the attributes of every record, most of them constant."""

    def __init__(self, now_ms: int, level: int, message: str, fields: dict[str, Any]) -> None:
        # Not the parent's: it looks the constants up.
        self.__dict__ = {
            **_CONSTANT,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": message,
            "created": now_ms / 1000,
            "msecs": now_ms % 1000,
            "fields": fields,
        }


def log(now_ms: int, level: int, message: str, fields: dict[str, Any]) -> None:
    """Log one line with its fields."""
    if logger.isEnabledFor(level):
        logger.handle(_Line(now_ms, level, message, fields))
