"""The read options of a request, from its headers and its query: consistency, least commit, past commit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from vectorpool.commands import ReadOptions
from vectorpool.errors import InvalidRequest
from vectorpool.names import MAX_SEQ, excerpt

CONSISTENCY_HEADER: Final = "X-Vectorpool-Consistency"
MIN_COMMIT_HEADER: Final = "X-Vectorpool-Min-Commit"
# A query parameter of reads: the past commit to read from.
AT_PARAMETER: Final = "at"

_CONSISTENCY_NAME: Final = CONSISTENCY_HEADER.lower().encode()
_MIN_COMMIT_NAME: Final = MIN_COMMIT_HEADER.lower().encode()
_MAX_BOUND_MS: Final = 86_400_000
_CONSISTENCY = re.compile(r"(strong|local|bounded)(?:\(([0-9]{1,8})\))?")


def read_options_of(fields: Mapping[bytes, bytes], query: bytes) -> ReadOptions | None:
    """Return the read options of raw headers, by their names in lower case, and of a raw query string.

    Returns None if they ask for nothing. Raises InvalidRequest.
    """
    consistency, least, at = fields.get(_CONSISTENCY_NAME), fields.get(_MIN_COMMIT_NAME), None
    if query:
        at = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)).get(AT_PARAMETER)
    if consistency is None and least is None and at is None:
        return None
    if at is not None:
        return ReadOptions(at=_commit_number(AT_PARAMETER, at))
    options = ReadOptions() if consistency is None else _consistency(consistency.decode("latin-1").strip())
    if least is None:
        return options
    return ReadOptions(
        options.consistency, options.bound_ms, _commit_number(MIN_COMMIT_HEADER, least.decode("latin-1"))
    )


def _commit_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:13]) <= MAX_SEQ):
        raise InvalidRequest(
            f"{name} is {excerpt(text)}. Send the number of a commit, as a response carried it in X-Vectorpool-Commit."
        )
    return int(text)


def _consistency(text: str) -> ReadOptions:
    match = _CONSISTENCY.fullmatch(text)
    if match is None or (match[2] and match[1] != "bounded") or (match[2] and int(match[2]) > _MAX_BOUND_MS):
        raise InvalidRequest(
            f"{CONSISTENCY_HEADER} is {excerpt(text)}. Send strong, local, bounded, or bounded(milliseconds) with at "
            f"most {_MAX_BOUND_MS}."
        )
    name = match[1]
    if name == "strong":
        return ReadOptions("strong")
    if name == "local":
        return ReadOptions("local")
    return ReadOptions("bounded", int(match[2]) if match[2] else None)
