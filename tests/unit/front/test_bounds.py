"""The bounds stage: ambiguous paths and wrong headers end here; the read options enter the context."""

from __future__ import annotations

import json
from urllib.parse import unquote_to_bytes

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


@pytest.mark.parametrize(
    ("raw_path", "query", "code"),
    [
        (b"/users/J%F6rg", b"", b"invalid-id"),
        (b"/users/J%E4rg/collections", b"", b"invalid-id"),
        (b"/users/42/avatars/7/documents/%ff.txt", b"", b"invalid-id"),
        (b"/users/%ed%a0%80", b"", b"invalid-id"),
        (b"/users/%c0%af", b"", b"invalid-id"),
        (b"/users/J\xf6rg", b"", b"invalid-id"),
        (b"/health/%ff", b"", b"invalid-id"),
        (b"/nonesuch/%ff", b"", b"invalid-id"),
        (b"/users/42/avatars/7/documents", b"after=%fe.txt", b"invalid-request"),
        (b"/users/42/avatars/7/documents", b"%fe=1", b"invalid-request"),
        (b"/users/J%C3%B6rg", b"after=%C3%B6&x=a+b%25ff", None),
        (b"/users/J\xc3\xb6rg", b"", None),
        (b"/users/100%", b"", None),
    ],
)
async def test_bytes_that_are_not_utf8_are_refused(raw_path: bytes, query: bytes, code: bytes | None) -> None:
    """Such bytes, in the path or in the query, are a 400 wherever the path leads; two users never become one."""
    path = unquote_to_bytes(raw_path).decode("utf-8", "replace")
    scope, sent, inner = scope_of(path, query=query), Sent(), Answering()
    scope["raw_path"] = raw_path
    await BoundsStage(inner)(scope, nothing, sent)
    assert sent.status == (200 if code is None else 400)
    assert len(inner.seen) == (1 if code is None else 0)
    assert code is None or code in sent.body


async def test_bytes_that_are_not_utf8_are_refused_in_chromas_form() -> None:
    """Below /api the refusal is Chroma's JSON."""
    scope, sent = scope_of("/api/v2/tenants/J\ufffdrg"), Sent()
    scope["raw_path"] = b"/api/v2/tenants/J%F6rg"
    await BoundsStage(Answering())(scope, nothing, sent)
    assert (sent.status, json.loads(sent.body)["error"]) == (400, "InvalidArgumentError")
