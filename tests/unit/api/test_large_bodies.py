"""Large bodies of the native API are counted, and then decoded to what small ones are."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from tests.unit.api.parts import FakeRouter, application, talk
from vectorpool.settings import Settings

NOTES = "/users/42/collections/notes"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/records/get", b'{"where":{"$and":[' + b"[]," * 100_000 + b"[]]}}"),
        ("POST", "/records/get", b'{"ids":[' + b"0," * 5_000_000 + b"0]}"),
        ("POST", "/query", b'{"embeddings":[' + b"[]," * 100_000 + b"[]]}"),
        ("DELETE", "/records", b'{"where":{"k":{"$in":[' + b"0," * 5_000_000 + b"0]}}}"),
        ("PATCH", "", b'{"metadata":{"k":[' + b"{}," * 100_000 + b"1]}}"),
    ],
)
async def test_other_bodies_are_bounded_too(method: str, path: str, body: bytes) -> None:
    """Questions and small bodies may hold so many values and containers, and no more."""
    router = FakeRouter()
    async with talk(application(router)) as client:
        answer = await client.request(method, NOTES + path, content=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "limit-exceeded")
    assert router.commands == []


async def _asked(path: str, body: Any) -> Any:
    router = FakeRouter()
    async with talk(application(router)) as client:
        answer = await client.post(NOTES + path, content=json.dumps(body).encode())
    assert answer.status_code == 200, answer.text
    ((_, command),) = router.commands
    return command


async def test_the_largest_query_is_read() -> None:
    """A hundred embeddings of the largest dimension arrive as they were sent, with what stands around them."""
    dice = random.Random(3)
    for count, members in (
        (100, ["embeddings", "n_results", "where"]),
        (7, ["where", "n_results", "embeddings"]),
    ):
        vectors = [[dice.random()] * 8192 for _ in range(count)]
        body = {"embeddings": vectors, "n_results": 7, "where": {"k": "embeddings"}}
        command = await _asked("/query", {name: body[name] for name in members})
        assert command.vectors.data == np.array(vectors, "<f4").tobytes()
        assert (command.vectors.dimension, command.n_results, command.where) == (8192, 7, body["where"])


async def test_a_large_filter_is_read() -> None:
    """Long lists in one filter."""
    where = {"$and": [{"k": {"$in": list(range(10_000))}} for _ in range(15)]}
    assert (await _asked("/records/get", {"where": where})).where == where


@pytest.mark.parametrize(
    ("embeddings", "code"),
    [
        ([[0.5] * 9000] * 3, "limit-exceeded"),
        ([[0.5] * 2000] * 101, "limit-exceeded"),
        ([[0.5] * 9000, [0.5] * 8000], "limit-exceeded"),
        ([[0.5] * 8000, [0.5] * 7999], "invalid-embedding"),
        ([[1e39] * 8000] * 2, "invalid-embedding"),
        ([["x"] * 8000] * 2, "malformed-json"),
        ("x" * 100_000, "malformed-json"),
    ],
)
async def test_large_queries_are_checked(embeddings: Any, code: str) -> None:
    """What a small query is refused for, a large one is refused for."""
    async with talk(application(FakeRouter(), Settings())) as client:
        answer = await client.post(f"{NOTES}/query", content=json.dumps({"embeddings": embeddings}).encode())
    assert answer.status_code in (400, 413, 422) and answer.json()["code"] == code, answer.text
