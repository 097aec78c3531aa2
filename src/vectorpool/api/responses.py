"""How a shard's answer leaves: its bytes as they are, with the commit that it saw."""

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
    """Return a struct made here as the response; ``commit`` None: it is not about a vectorstore."""
    headers = {} if commit is None else {COMMIT_HEADER: str(commit)}
    return Response(content=msgspec.json.encode(body), status_code=status, media_type=_JSON, headers=headers)
