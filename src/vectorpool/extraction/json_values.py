"""JSON and JSON lines: a line for each value, with the names that lead to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from vectorpool.errors import DocumentUnreadable
from vectorpool.extraction.extracts import Composer, Extract
from vectorpool.extraction.plain_text import decode_text

_DEPTH = 64


def lines_of(value: Any, trail: str = "", depth: int = 0) -> Iterator[str]:
    """Yield ``name.name: value`` for each value below, in order. Below 64 levels the JSON is left as it is."""
    if isinstance(value, dict) and depth < _DEPTH:
        for name, member in value.items():
            yield from lines_of(member, f"{trail}.{name}" if trail else str(name), depth + 1)
    elif isinstance(value, list) and depth < _DEPTH:
        if all(isinstance(member, (str, int, float)) for member in value):
            if value:
                yield f"{trail}: {', '.join(map(_shown, value))}" if trail else ", ".join(map(_shown, value))
            return
        for member in value:
            yield from lines_of(member, trail, depth + 1)
            yield ""
    elif value is not None and value != "":
        yield f"{trail}: {_shown(value)}" if trail else _shown(value)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _decode(text: str, where: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        reason = str(error)[:200].rstrip(".")
        raise DocumentUnreadable(f"{where} is not valid JSON: {reason}. Correct it, and put it again.") from None


def extract_json(data: bytes) -> Extract:
    """Return a JSON document; each name of an outermost object is a heading."""
    value = _decode(decode_text(data), "The document")
    composer = Composer()
    if isinstance(value, dict):
        for name, member in value.items():
            composer.add("\n".join(lines_of(member, name)), heading=name[:200] or None)
    else:
        composer.add("\n".join(lines_of(value)))
    return composer.extract()


def extract_json_lines(data: bytes) -> Extract:
    """Return the values of JSON lines, each a paragraph."""
    parts = []
    for number, line in enumerate(decode_text(data).split("\n"), start=1):
        if line.strip():
            parts.append("\n".join(lines_of(_decode(line, f"Line {number}"))))
    composer = Composer()
    composer.add("\n\n".join(parts))
    return composer.extract()
