"""Large bodies of Chroma's protocol, cut into members, are the commands and the refusals of small ones."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import msgspec
import numpy as np
import pytest

from vectorpool import chroma_bodies, outline
from vectorpool.chroma_bodies import Target, decode_body, decoding
from vectorpool.errors import VectorpoolError
from vectorpool.settings import Settings
from vectorpool.turns import at_once

SETTINGS = Settings(max_records=40, max_queries=5, max_dimension=8)
COLLECTION = "0a1b2c3d-0000-4000-8000-000000000000"


@pytest.fixture(autouse=True)
def _cut_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies of any size are cut, and their lists into short chunks."""
    monkeypatch.setattr(chroma_bodies, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(outline, "_CHUNK_BYTES", 40)


def _write(dice: random.Random) -> dict[str, Any]:
    count = dice.randrange(1, 12)
    packed = dice.random() < 0.3
    rows = [[dice.random() for _ in range(4)] for _ in range(count)]
    texts = ["", 'a "b" \\', "[1,2],{", "\u00e9", None]
    body: dict[str, Any] = {
        "ids": [f"r{at}" for at in range(count)],
        "embeddings": [base64.b64encode(np.array(row, "<f4").tobytes()).decode() for row in rows] if packed else rows,
    }
    if dice.random() < 0.7:
        body["documents"] = [dice.choice(texts) for _ in range(count)]
    if dice.random() < 0.7:
        body["metadatas"] = [dice.choice([None, {"k": 1, "l": ["a", "b"]}, {"t": "},{"}]) for _ in range(count)]
    if dice.random() < 0.3:
        body["uris"] = None
    if dice.random() < 0.3:
        body["unknown"] = {"x": [1, {"ids": 2}]}
    names = list(body)
    dice.shuffle(names)
    return {name: body[name] for name in names}


def _asked(dice: random.Random) -> tuple[str, dict[str, Any]]:
    where = dice.choice([None, {"k": 1}, {"$or": [{"k": {"$in": [1, 2, 3]}}, {"t": "x,y"}]}])
    ids = dice.choice([None, ["a", "b"], [f"r{at}" for at in range(60)]])
    ways: list[tuple[str, dict[str, Any]]] = [
        ("get", {"ids": ids, "where": where, "limit": 3, "include": ["documents", "embeddings"]}),
        ("delete", {"ids": ids, "where": where}),
        ("query", {"query_embeddings": [[1, 2.5], [3, 4]], "n_results": 4, "where": where, "ids": ids}),
        ("update-collection", {"new_name": "abc", "new_metadata": {"a": [1][0]}}),
        ("create-collection", {"name": "abc", "metadata": {"a": "b"}, "get_or_create": True}),
    ]
    return dice.choice(ways)


def _outcome(make: Any) -> Any:
    try:
        return make()
    except VectorpoolError as error:
        return type(error), error.status


def _same(operation: Any, body: dict[str, Any] | bytes) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    target = Target(operation, "default_database", COLLECTION)
    whole = _outcome(lambda: decode_body(target, raw, SETTINGS))
    assert _outcome(lambda: at_once(decoding(target, bytearray(raw), SETTINGS))) == whole, raw
    return whole


def test_commands_are_the_same() -> None:
    """Random writes and questions, in any order of their members."""
    dice = random.Random(5)
    for _ in range(300):
        operation = dice.choice(["add", "upsert", "update"])
        assert isinstance(_same(operation, _write(dice)), msgspec.Struct)
        assert isinstance(_same(*_asked(dice)), msgspec.Struct)


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("add", {"ids": [f"r{at}" for at in range(41)], "embeddings": [[1]] * 41}),
        ("add", {"ids": ["a"], "embeddings": [[1] * 9]}),
        ("add", {"ids": ["a"], "embeddings": [[]]}),
        ("add", {"ids": ["a", "b"], "embeddings": [[1, 2], [1]]}),
        ("add", {"ids": ["a"], "embeddings": [1]}),
        ("add", {"ids": ["a"], "embeddings": {"a": 1}}),
        ("add", {"ids": ["a"]}),
        ("add", {"ids": None, "embeddings": [[1]]}),
        ("add", {"ids": ["x" * 1000], "embeddings": [[1]]}),
        ("add", {"ids": ["a"], "embeddings": [[1]], "documents": [1]}),
        ("add", {"ids": ["a"], "embeddings": [[1]], "metadatas": [[]]}),
        ("add", {"ids": ["a"], "embeddings": [[1]], "metadatas": [{str(at): 1 for at in range(300)}]}),
        ("query", {"query_embeddings": None}),
        ("query", {"query_embeddings": [[1]] * 6}),
        ("query", {"query_embeddings": [["x"]]}),
        ("get", {"ids": [1]}),
        ("get", {"limit": -1}),
        ("get", b'{"ids":["a" "b"]}'),
        ("get", b'{"ids":["a"],"ids":["b"],"limit":tru}'),
        ("add", b'{"ids":["a"],"embeddings":[[1]],"documents":["\xff"]}'),
    ],
)
def test_refusals_are_the_same(operation: str, body: dict[str, Any] | bytes) -> None:
    """The status and the kind of a refusal do not depend on the size of a body."""
    assert isinstance(_same(operation, body), tuple)


def test_a_refusal_names_the_item() -> None:
    """The place in a refusal counts from the first item of the list, not of a chunk."""
    documents: list[Any] = ["some text"] * 30
    documents[27] = 5
    body = {"ids": [f"r{at}" for at in range(30)], "embeddings": [[1]] * 30, "documents": documents}
    with pytest.raises(VectorpoolError, match=r"\$\[27\]"):
        at_once(decoding(Target("add", "default_database", COLLECTION), json.dumps(body).encode(), SETTINGS))


def test_a_huge_body_is_refused_by_its_outline() -> None:
    """Millions of keys, values or items are refused, and so is a member of one name with megabytes of text."""
    target = Target("upsert", "default_database", COLLECTION)
    for body in (
        b'{"ids":["x"],"embeddings":[[1]],"metadatas":[{' + b'"k":1,' * 300_000 + b'"k":1}]}',
        b'{"ids":[' + b'"x",' * 100_000 + b'"x"]}',
        b'{"ids":["x"],"embeddings":[[' + b"1," * 300_000 + b"1]]}",
    ):
        with pytest.raises(VectorpoolError) as caught:
            at_once(decoding(target, body, SETTINGS))
        assert caught.value.status == 413
    named = Target("create-collection", "default_database")
    with pytest.raises(VectorpoolError) as caught:
        at_once(decoding(named, b'{"name":"' + b"x" * 9_000_000 + b'"}', SETTINGS))
    assert caught.value.status == 413
