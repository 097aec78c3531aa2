"""The lines of the request log are those that Python's logging writes, made at less cost."""

from __future__ import annotations

import io
import logging

import pytest

from vectorpool.front import request_log

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class Records(logging.Handler):
    """Keeps the records."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)


@pytest.mark.parametrize("now_ms", [0, 1_700_000_000_007, 1_700_000_000_999, 1_700_000_001_000])
def test_a_line_is_formatted_as_pythons_logging_formats_it(now_ms: int) -> None:
    """The time, the level, the name and the message are the same; so is every attribute that a record has."""
    ours, theirs = io.StringIO(), Records()
    handlers = [logging.StreamHandler(ours), theirs]
    handlers[0].setFormatter(request_log.Formatter(FORMAT))
    for handler in handlers:
        request_log.logger.addHandler(handler)
    try:
        request_log.log(now_ms, logging.WARNING, "method=%s status=%d", "GET", 200)
        request_log.log(now_ms, logging.WARNING, "no values")
    finally:
        for handler in handlers:
            request_log.logger.removeHandler(handler)
    formatter = logging.Formatter(FORMAT)
    lines = ours.getvalue().splitlines()
    assert lines == [formatter.format(record) for record in theirs.kept]
    assert [line.split(" ", 2)[2] for line in lines] == [
        "WARNING vectorpool.http method=GET status=200",
        "WARNING vectorpool.http no values",
    ]
    plain = logging.LogRecord("vectorpool.http", logging.WARNING, __file__, 1, "", (), None)
    assert plain.__dict__.keys() <= theirs.kept[0].__dict__.keys()


def test_a_line_below_the_level_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that no one wants is not made."""
    monkeypatch.setattr(request_log, "_Line", None)
    request_log.log(0, 1, "below every level")
