"""The lines of the request log, made at a third of the usual cost: there is one for every request.

Python's logging looks up the calling function for each record, and splits the path of its file. The request log is
written at one place, so its records have these as constants. The time of a line is formatted once a second.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final

logger = logging.getLogger("vectorpool.http")

# The thread and the process are left out, as everywhere in the log: no format uses them.
_CONSTANT: Final = {
    **logging.LogRecord(logger.name, logging.INFO, __file__, 0, "", (), None, func="log").__dict__,
    **dict.fromkeys(("thread", "threadName", "process", "processName")),
}


class _Line(logging.LogRecord):
    """A record with the attributes of every record, most of them constant."""

    def __init__(self, now_ms: int, level: int, template: str, values: tuple[Any, ...]) -> None:
        # Not the parent's: it looks the constants up.
        self.__dict__ = {
            **_CONSTANT,
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": template,
            "args": values,
            "created": now_ms / 1000,
            "msecs": now_ms % 1000,
        }


def log(now_ms: int, level: int, template: str, *values: Any) -> None:
    """Log one line; ``template`` has a place for each value, as in Python's logging."""
    if logger.isEnabledFor(level):
        logger.handle(_Line(now_ms, level, template, values))


class Formatter(logging.Formatter):
    """Formats the time of a line as its parent does, but only once a second."""

    _second = -1
    _text = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the local time of a record, with milliseconds."""
        if datefmt is not None:
            return super().formatTime(record, datefmt)
        second = int(record.created)
        if second != self._second:
            self._second, self._text = second, time.strftime(self.default_time_format, time.localtime(second))
        return f"{self._text},{int(record.msecs):03d}"
