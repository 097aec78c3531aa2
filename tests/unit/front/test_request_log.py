"""The lines of the request log are those that Python's logging writes, made at less cost."""

from __future__ import annotations

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
    """It has every attribute that a record of Python's logging has, and its fields; time and level are its own."""
    kept = Records()
    request_log.logger.addHandler(kept)
    try:
        request_log.log(now_ms, logging.WARNING, "request", {"method": "GET"})
    finally:
        request_log.logger.removeHandler(kept)
    (record,) = kept.kept
    plain = logging.LogRecord("vectorpool.http", logging.WARNING, __file__, 1, "request", (), None)
    plain.created, plain.msecs = now_ms / 1000, now_ms % 1000
    formatter = logging.Formatter(FORMAT)
    assert formatter.format(record) == formatter.format(plain)
    assert plain.__dict__.keys() <= record.__dict__.keys()
    assert record.__dict__["fields"] == {"method": "GET"}


def test_a_line_below_the_level_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that no one wants is not made."""
    monkeypatch.setattr(request_log, "_Line", None)
    request_log.log(0, 1, "below every level", {})
