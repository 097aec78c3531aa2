"""Log lines: their two forms, and what nobody can put into them."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import unicodedata
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorpool import logs
from vectorpool.settings import Settings

SECRET = "a-secret-of-the-settings"


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _same_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def written(form: str = "json", *, stream: io.StringIO | None = None, shard: str | None = None) -> io.StringIO:
    """Log to a stream from now on."""
    stream = io.StringIO() if stream is None else stream
    settings = msgspec.convert(
        {"log_format": form, "admin_key": SECRET, "token_secret": f"one:{SECRET}2 two:{SECRET}3"}, Settings
    )
    logs.configure(settings, shard=shard, stream=stream)
    return stream


def test_a_line_is_one_object() -> None:
    """Time, level, logger and message; the fields of a record; the shard that wrote it."""
    stream = written(shard="1")
    logging.getLogger("vectorpool.http").info("request", extra={"fields": {"status": 200, "parts": {"engine": 0.5}}})
    logging.getLogger("vectorpool.pool").warning("%d vectorstores", 3)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z") and first == {
        "level": "info",
        "logger": "vectorpool.http",
        "event": "request",
        "shard": "1",
        "status": 200,
        "parts": {"engine": 0.5},
    }
    assert (second["level"], second["event"]) == ("warning", "3 vectorstores")


def test_the_form_follows_the_stream() -> None:
    """A terminal gets lines for people, in colour; another stream gets JSON; the setting decides where it is given."""
    for form, stream, is_json, has_colour in (
        ("auto", io.StringIO(), True, False),
        ("auto", Terminal(), False, True),
        ("console", io.StringIO(), False, False),
        ("json", Terminal(), True, False),
    ):
        written(form, stream=stream)
        logging.getLogger("vectorpool.http").info("request", extra={"fields": {"status": 200}})
        line = stream.getvalue()
        assert line.startswith("{") == is_json and ("\x1b[" in line) == has_colour, (form, line)
        assert "request" in line and "200" in line


@pytest.mark.parametrize("form", ["json", "console"])
@given(text=st.text(st.characters(), max_size=60))
def test_no_text_forges_a_line(form: str, text: str) -> None:
    """Whatever a message, a field or an error holds, only the first column of a true line begins one."""
    for hostile in (text, f"{text}\n2026-11-28T00:00:00.000Z [error    ] forged\r\x1b[2K\x85\u2028\ud800{text}"):
        stream = written(form)
        logger = logging.getLogger("vectorpool.test")
        logger.info("a path: %s", hostile)
        try:
            raise ValueError(hostile)
        except ValueError:
            logger.exception("it failed", extra={"fields": {"name": hostile}})
        shown = stream.getvalue()
        shown.encode()
        lines = shown.split("\n")[:-1]
        assert not {unicodedata.category(each) for line in lines for each in line} & {"Cc", "Zl", "Zp", "Cs"}, lines
        begun = [line for line in lines if not line.startswith("    ")]
        assert len(begun) == 2, lines
        if form == "json":
            assert [json.loads(line)["event"][:7] for line in lines] == ["a path:", "it fail"]


def test_lines_are_bounded() -> None:
    """A message of a megabyte is cut, and says so."""
    stream = written()
    logging.getLogger("vectorpool.test").info("%s", "x" * 1_000_000)
    assert len(stream.getvalue()) < logs.MOST_CHARACTERS + 500 and "1000000 characters" in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_do_not_appear(form: str) -> None:
    """A secret of the settings is replaced in messages, fields and tracebacks, also one of several."""
    stream = written(form)
    for secret in (SECRET, f"{SECRET}2", f"{SECRET}3"):
        try:
            raise ValueError(f"refused {secret}")
        except ValueError:
            logging.getLogger("vectorpool.test").exception("with %s", secret, extra={"fields": {"key": secret}})
    assert SECRET not in stream.getvalue() and stream.getvalue().count("***") >= 9


def test_levels_are_those_of_the_settings() -> None:
    """Lines below the level are not written; libraries that log URLs are held to warnings."""
    stream = io.StringIO()
    logs.configure(Settings(log_level="warning"), stream=stream)
    logging.getLogger("vectorpool.test").info("no")
    logging.getLogger("vectorpool.test").warning("yes")
    logs.configure(Settings(log_level="debug"), stream=stream)
    logging.getLogger("httpx").info("GET http://user:password@host")
    assert "yes" in stream.getvalue() and '"no"' not in stream.getvalue() and "password" not in stream.getvalue()


CODE = """
import logging, sys
from vectorpool import logs
from vectorpool.settings import Settings
logs.configure(Settings(log_format="json"))
logging.getLogger("vectorpool.http").info("request", extra={"fields": {"status": 200}})
early = "structlog" in sys.modules
logging.getLogger("vectorpool.pool").info("a line")
print(early, "structlog" in sys.modules, "rich" in sys.modules)
"""


def test_the_library_is_imported_by_the_first_line_that_needs_it() -> None:
    """A process that logs only requests does not load it, and none loads rich for it."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "True", "False"]
