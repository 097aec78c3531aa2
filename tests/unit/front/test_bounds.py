"""The bounds stage: ambiguous paths and wrong headers end here; the read options enter the context."""

from __future__ import annotations

import pytest

from tests.unit.front.parts import Answering, Sent, nothing, scope_of
from vectorpool.commands import ReadOptions
from vectorpool.context import AS_SET
from vectorpool.front.bounds import BoundsStage
from vectorpool.front.stages import context_of


@pytest.mark.parametrize(
    ("raw_path", "is_refused"),
    [
        ("/users/42/lost", False),
        ("/users//lost", True),
        ("/users/a%2Fb/lost", True),
        ("/users/a%5cb/lost", True),
        ("/users/42/avatars/7/documents/a%2Fb.md", False),
        ("/users/4%2F2/avatars/7/documents/a.md", True),
        ("/health//live", False),
    ],
)
async def test_ambiguous_paths_are_refused(raw_path: str, is_refused: bool) -> None:
    """Empty segments and encoded slashes are refused where a path names users; a document's path may have slashes."""
    scope, sent, inner = scope_of(raw_path.replace("%2F", "/").replace("%5c", "\\")), Sent(), Answering()
    scope["raw_path"] = raw_path.encode()
    await BoundsStage(inner)(scope, nothing, sent)
    assert sent.status == (400 if is_refused else 200)
    assert len(inner.seen) == (0 if is_refused else 1)


@pytest.mark.parametrize(
    ("headers", "query", "options"),
    [
        ({}, b"", AS_SET),
        ({}, b"limit=3", AS_SET),
        ({"x_vectorpool_consistency": " local "}, b"", ReadOptions("local")),
        ({"x_vectorpool_consistency": "bounded(250)"}, b"", ReadOptions("bounded", 250)),
        ({"x_vectorpool_min_commit": "7"}, b"", ReadOptions(min_commit=7)),
        (
            {"x_vectorpool_consistency": "strong", "x_vectorpool_min_commit": "7"},
            b"",
            ReadOptions("strong", min_commit=7),
        ),
        ({}, b"limit=3&at=5", ReadOptions(at=5)),
    ],
)
async def test_read_options_enter_the_context(headers: dict[str, str], query: bytes, options: ReadOptions) -> None:
    """Headers and the query say how fresh the request's reads must be, and which commit they read."""
    scope = scope_of(query=query, **headers)
    await BoundsStage(Answering())(scope, nothing, Sent())
    assert context_of(scope).read == options


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"x_vectorpool_consistency": "sometimes"}, b""),
        ({"x_vectorpool_consistency": "local(3)"}, b""),
        ({"x_vectorpool_consistency": "bounded(99999999)"}, b""),
        ({"x_vectorpool_min_commit": "-1"}, b""),
        ({"x_vectorpool_min_commit": "9" * 14}, b""),
        ({}, b"at="),
        ({}, b"at=x"),
    ],
)
async def test_wrong_read_options_are_refused(headers: dict[str, str], query: bytes) -> None:
    """What is no consistency and no commit is a 400, and nothing is read; paths without users do not look at them."""
    sent, inner = Sent(), Answering()
    await BoundsStage(inner)(scope_of(query=query, **headers), nothing, sent)
    assert (sent.status, inner.seen) == (400, [])
    assert b"invalid-request" in sent.body
    sent = Sent()
    await BoundsStage(inner)(scope_of("/health/live", query=query, **headers), nothing, sent)
    assert sent.status == 200
