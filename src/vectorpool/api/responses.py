"""Responses: a shard's answer byte for byte, or a struct of the front, with the commit that was seen."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response

from vectorpool.answers import Answer
from vectorpool.api.problems import COMMIT_HEADER

_JSON = "application/json"


def pass_on(answer: Answer, status: int = 200) -> Response[Any]:
    """Return a shard's answer as the response, byte for byte."""
    return Response(
        content=answer.body, status_code=status, media_type=_JSON, headers={COMMIT_HEADER: str(answer.commit)}
    )


def respond(body: msgspec.Struct, *, commit: int | None = None, status: int = 200) -> Response[Any]:
    """Return a struct as the response. ``commit`` is None if it is not about a vectorstore."""
    headers = {} if commit is None else {COMMIT_HEADER: str(commit)}
    return Response(content=msgspec.json.encode(body), status_code=status, media_type=_JSON, headers=headers)
