"""Log lines, JSON or for people, of this code and of the libraries alike. The only importer of structlog.

Code logs with the standard library's loggers. A record's ``fields`` (``extra={"fields": {...}}``) become the line's.

- A line cannot be forged: control characters and what is no character are escaped in every text, and what follows a
  first line (a traceback) is indented.
- A line is bounded, whatever a message holds.
- No secret of the settings appears in a line.

structlog is imported with the first line that needs it, without rich, which it would take 10 MB and a quarter of a
second to import for tracebacks that no line has. The line of a request in JSON is made without it: it is
the one line that every request pays for.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Literal, TextIO, TypeAlias

import msgspec

from vectorpool.settings import Settings

# Most characters of a message or a value, and of a traceback.
MOST_CHARACTERS: Final = 4096
MOST_TRACEBACK: Final = 32_768
_INDENT: Final = "    "
# Secrets that are shorter would be found in innocent words.
_SHORTEST_SECRET: Final = 6
# What ends a line or moves a terminal's cursor, and what cannot be encoded. A tab is one too: it may hide a column.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)

Fields: TypeAlias = MutableMapping[str, Any]
_Render: TypeAlias = Callable[[Fields, logging.LogRecord], str]

_encode: Final = msgspec.json.Encoder(enc_hook=repr).encode


def configure(settings: Settings, *, shard: str | None = None, stream: TextIO | None = None) -> None:
    """Format and filter every line of this process from now on. ``shard`` is put into each line, if it is given."""
    stream = sys.stderr if stream is None else stream
    form: Literal["console", "json"] = (
        settings.log_format if settings.log_format != "auto" else "console" if stream.isatty() else "json"
    )
    # A secret of tokens may be several, as KEY-ID:SECRET.
    secrets = [pair.rpartition(":")[2] for pair in (settings.token_secret or "").split()]
    for secret in (
        settings.admin_key,
        settings.openai_api_key,
        settings.s3_secret_access_key,
        settings.log_key,
        settings.webhook_secret,
        settings.service_token,
    ):
        if secret is not None:
            secrets.append(secret)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(form, has_colours=stream.isatty(), shard=shard, secrets=secrets))
    root = logging.getLogger()
    for former in root.handlers[:]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    # They log every request with its URL, and a URL may hold credentials.
    for name in ("httpx", "urllib3", "opentelemetry"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # No line has any of them, and the logger would look them up for every line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def plain(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return a text that is one line, printable and bounded: what is not is escaped or cut."""
    if len(text) > most:
        text = text[:most] + f"... ({len(text)} characters)"
    return text if text.isprintable() else _UNPRINTABLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


class LineFormatter(logging.Formatter):
    """Turns a record into its line."""

    def __init__(
        self,
        form: Literal["console", "json"],
        *,
        has_colours: bool = False,
        shard: str | None = None,
        secrets: list[str] | None = None,
    ) -> None:
        super().__init__()
        self._form = form
        self._has_colours = has_colours
        self._shard = shard
        self._secrets = [secret for secret in secrets or [] if len(secret) >= _SHORTEST_SECRET]
        self._render: _Render | None = None
        self._second = 0
        self._shown_second = ""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or the lines of a traceback, the first of which alone begins in the first column."""
        fields: Fields = {
            "time": self._time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": self._cleaned(record.getMessage()),
        }
        if self._shard is not None:
            fields["shard"] = self._shard
        if (more := getattr(record, "fields", None)) is not None:
            # They are this code's own names, with numbers and short texts.
            fields.update(more)
            if self._form == "json" and not record.exc_info:
                return _encode(fields).decode()
        if self._render is None:
            self._render = self._renderer()
        return self._render(fields, record)

    def _time(self, created_s: float) -> str:
        second = int(created_s)
        if second != self._second:
            self._second, self._shown_second = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._shown_second}.{int((created_s - second) * 1000):03d}Z"

    def _cleaned(self, text: str, most: int = MOST_CHARACTERS) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, "***")
        return plain(text, most)

    def _traceback(self, record: logging.LogRecord) -> str | None:
        if not record.exc_info:
            return None
        lines = self.formatException(record.exc_info)[-MOST_TRACEBACK:].split("\n")
        return "\n".join(_INDENT + self._cleaned(line) for line in lines)

    def _renderer(self) -> _Render:
        structlog = _structlog()
        if self._form == "json":
            last: Any = structlog.processors.JSONRenderer(serializer=lambda fields, **_: _encode(fields).decode())
        else:
            last = structlog.dev.ConsoleRenderer(
                colors=self._has_colours,
                exception_formatter=structlog.dev.plain_traceback,
                timestamp_key="time",
            )

        def render(fields: Fields, record: logging.LogRecord) -> str:
            for name, value in fields.items():
                if isinstance(value, str) and name != "event":
                    fields[name] = self._cleaned(value)
            if (trace := self._traceback(record)) is not None:
                fields["exception"] = trace
            line: str = last(None, record.levelname.lower(), fields)
            return line

        return render


def _structlog() -> Any:
    """Return the library, imported without rich unless something else has imported it already."""
    names = [] if "rich" in sys.modules else ["rich"]
    for name in names:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("structlog")
    finally:
        for name in names:
            del sys.modules[name]
