"""Strategies for requests: few ids, few keys and small vectors, so that what is generated meets what is stored."""

from __future__ import annotations

import base64
import struct
from typing import Any

from hypothesis import strategies as st

DIMENSION = 3
IDS = [*"abcdefgh", "ключ", "id with space"]
WORDS = [
    "red",
    "green",
    "Red",
    "apple",
    "Äpfel",
    "漢字かな",
    "100%",
    "a_b",
    '"quoted"',
    "🎄",
    "back\\slash",
    "new\nline",
]
# Chroma stores another float for it.
CLOCKS = [1733262915.8748221]
KEYS = ["n", "s", "f", "b", "l", "any", "ключ"]

# Eighths are exact in float32, and few: ties happen. The zero vector has no cosine distance.
vectors = st.lists(st.integers(-16, 16), min_size=DIMENSION, max_size=DIMENSION).map(
    lambda eighths: [eighth / 8 for eighth in eighths] if any(eighths) else [1.0, 0.0, 0.0]
)
wrong_vectors = st.lists(st.integers(1, 9), min_size=1, max_size=DIMENSION + 1)
texts = st.sampled_from(["", "x", "y", "Z", "значение", "🎄", "a'b\"c%_"])
integers = st.one_of(st.integers(-3, 3), st.sampled_from([2**53 + 1, 2**63 - 1, -(2**63)]))
floats = st.one_of(
    st.integers(-6, 6).map(lambda half: half / 2), st.sampled_from([0.1, 1e300, -1e-300, 1 / 3, *CLOCKS])
)
scalars = st.one_of(texts, integers, floats, st.booleans())
# Empty ones are left out: what a collection's schema learns from them is a deliberate difference.
arrays = st.one_of(*(st.lists(kind, min_size=1, max_size=3) for kind in (texts, integers, floats, st.booleans())))
_of_key = {"n": integers, "s": texts, "f": floats, "b": st.booleans(), "l": arrays}


def _values(key: str, *, delete: bool) -> st.SearchStrategy[Any]:
    values = _of_key.get(key, st.one_of(scalars, arrays))
    return st.one_of(values, values, values, st.none()) if delete else values


@st.composite
def metadata(draw: st.DrawFn, *, delete: bool = False) -> dict[str, Any]:
    """A record's metadata; with ``delete`` some values are null, which takes the key away."""
    keys = draw(st.lists(st.sampled_from(KEYS), max_size=4, unique=True))
    return {key: draw(_values(key, delete=delete)) for key in keys}


documents = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)


def encoded(rows: list[list[float] | None], *, base64_rows: bool) -> list[Any]:
    """Return vectors as arrays, or as base64 of little-endian float32."""
    if not base64_rows:
        return list(rows)
    return [row and base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode() for row in rows]


@st.composite
def columns(draw: st.DrawFn, verb: str, *, odd: bool = True) -> dict[str, Any]:
    """A body for add, upsert or update: mostly right; with ``odd`` sometimes of a wrong dimension or length."""
    update = verb == "update"
    ids = draw(st.lists(st.sampled_from(IDS), min_size=0, max_size=6))
    count = len(ids)
    rows = [draw(vectors) for _ in ids]
    # Zero is what shrinking prefers, so that a shrunk history has nothing odd that it does not need.
    fault = draw(st.integers(0, 30)) if odd else 0
    if fault == 1 and rows:
        rows[draw(st.integers(0, count - 1))] = draw(wrong_vectors)
    if fault == 2:
        rows = [draw(wrong_vectors)] * count
    if fault == 3 and ids:
        ids[0] = ""
    body: dict[str, Any] = {"ids": ids}
    optional = [row if not update or draw(st.booleans()) else None for row in rows]
    if not update or draw(st.booleans()):
        body["embeddings"] = encoded(optional, base64_rows=draw(st.booleans()))
    nullable = st.one_of(st.none(), metadata(delete=verb != "add"))
    if draw(st.booleans()):
        body["documents"] = [draw(st.one_of(st.none(), documents)) for _ in range(count + (fault == 4))]
    if draw(st.booleans()):
        body["metadatas"] = [draw(nullable) for _ in range(count + (fault == 5))]
    if draw(st.integers(0, 3)) == 0:
        body["uris"] = [draw(st.one_of(st.none(), texts)) for _ in ids]
    return body


@st.composite
def writes(draw: st.DrawFn, *, odd: bool = True) -> tuple[str, dict[str, Any]]:
    """A verb and its body."""
    verb = draw(st.sampled_from(["add", "upsert", "update"]))
    return verb, draw(columns(verb, odd=odd))


def is_uneven(body: dict[str, Any]) -> bool:
    """Whether a body for add, upsert or update has an empty id, or a column of another length than its ids."""
    columns = (body.get(name) for name in ("embeddings", "documents", "metadatas", "uris"))
    return "" in body["ids"] or any(column is not None and len(column) != len(body["ids"]) for column in columns)


@st.composite
def crossed(draw: st.DrawFn) -> dict[str, Any]:
    """A condition that compares floats with integers too, by value here and not so by the reference."""
    operator = draw(st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"]))
    operand = draw(st.lists(floats, min_size=1, max_size=2) if "in" in operator else floats)
    return {draw(st.sampled_from(["n", "f", "any"])): {operator: operand}}


@st.composite
def _condition(draw: st.DrawFn) -> dict[str, Any]:
    key = draw(st.sampled_from([*KEYS, "missing"]))
    values = _of_key.get(key, scalars) if key != "l" else scalars
    kinds = ["plain", "one", "ordered", "listed", "contains", "document", "crossed"]
    kind = draw(st.sampled_from([*kinds, *kinds, *kinds, "odd"]))
    match kind:
        case "plain":
            return {key: draw(values)}
        case "one":
            return {key: {draw(st.sampled_from(["$eq", "$ne"])): draw(values)}}
        case "ordered":
            return {key: {draw(st.sampled_from(["$gt", "$gte", "$lt", "$lte"])): draw(st.one_of(integers, floats))}}
        case "listed":
            listed = draw(st.one_of(*(st.lists(of, min_size=1, max_size=3) for of in (values, integers, texts))))
            return {key: {draw(st.sampled_from(["$in", "$nin"])): listed}}
        case "contains":
            return {key: {draw(st.sampled_from(["$contains", "$not_contains"])): draw(scalars)}}
        case "crossed":
            return draw(crossed())
        case "document":
            return {"#document": draw(_text_condition)}
    return draw(
        st.sampled_from([{}, {"n": {"$nope": 1}}, {"n": None}, {"n": 1, "s": "x"}, {"n": {"$in": []}}, {"": 1}])
    )


_patterns = st.sampled_from(
    ["^red", "apple$", "[gG]reen", "(?i)RED", "r.d", "漢.*な", "a_b|100%", "\\d+", "\\bred\\b", "x*", "("]
)
_parts = st.one_of(st.sampled_from([*WORDS, "", "pp", "re", "e", "字か", "%", "_", "D"]), documents)
_text_condition = st.one_of(
    st.builds(lambda name, text: {name: text}, st.sampled_from(["$contains", "$not_contains"]), _parts),
    st.builds(lambda name, text: {name: text}, st.sampled_from(["$regex", "$not_regex"]), _patterns),
)


def _joined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda name, parts: {name: parts}, st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=0, max_size=3)
    )


wheres = st.one_of(_condition(), _condition(), st.recursive(_condition(), _joined, max_leaves=5))
where_documents = st.one_of(
    _text_condition,
    st.recursive(_text_condition, _joined, max_leaves=4),
    _text_condition,
    st.recursive(st.one_of(_text_condition, st.sampled_from([{}, {"$nope": "x"}])), _joined, max_leaves=4),
)
some_ids = st.lists(st.sampled_from(IDS), max_size=4)
pages = st.one_of(st.none(), st.none(), st.integers(0, 5))
includes = st.lists(st.sampled_from(["documents", "embeddings", "metadatas", "uris"]), max_size=4, unique=True)
collection_metadata = st.dictionaries(st.sampled_from(KEYS), scalars, max_size=3)


@st.composite
def filters(draw: st.DrawFn) -> dict[str, Any]:
    """The members that choose records: any of ids, where and where_document, or none."""
    body: dict[str, Any] = {}
    if draw(st.integers(0, 3)) == 0:
        body["ids"] = draw(some_ids)
    if draw(st.booleans()):
        body["where"] = draw(wheres)
    if draw(st.integers(0, 2)) == 0:
        body["where_document"] = draw(where_documents)
    return body


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """A collection's configuration; low thresholds bring its vectors into HNSW's files at once."""
    hnsw: dict[str, Any] = {}
    if draw(st.booleans()):
        hnsw["space"] = draw(st.sampled_from(["l2", "cosine", "ip"]))
    if draw(st.booleans()):
        hnsw["sync_threshold"] = draw(st.sampled_from([2, 5, 10]))
    if draw(st.booleans()):
        hnsw["batch_size"] = draw(st.sampled_from([2, 5]))
    return {"hnsw": hnsw} if hnsw else {}


@st.composite
def gets(draw: st.DrawFn) -> dict[str, Any]:
    """A body for get."""
    body = draw(filters())
    more = {"limit": draw(pages), "offset": draw(pages), "include": draw(st.one_of(st.none(), includes))}
    return body | {key: value for key, value in more.items() if value is not None}


@st.composite
def queries(draw: st.DrawFn) -> dict[str, Any]:
    """A body for query, which always asks for the distances."""
    odd = draw(st.integers(0, 15)) == 1
    embeddings = draw(st.lists(wrong_vectors if odd else vectors, min_size=0 if odd else 1, max_size=3))
    body = {**draw(filters()), "query_embeddings": embeddings, "include": [*draw(includes), "distances"]}
    # Asked for none, the reference panics once a record was deleted: see ``test_deliberate``.
    n_results = draw(st.one_of(st.none(), st.sampled_from([1, 2, 3, 100])))
    return body if n_results is None else {**body, "n_results": n_results}


@st.composite
def collection_requests(draw: st.DrawFn) -> tuple[str, dict[str, Any] | None]:
    """A method and a body: a collection is made, changed, deleted or only read."""
    method = draw(st.sampled_from(["GET", "POST", "POST", "PUT", "PUT", "DELETE"]))
    if method == "POST":
        metadata = draw(st.one_of(st.none(), collection_metadata))
        return method, {
            "metadata": metadata,
            "configuration": draw(configurations()),
            "get_or_create": draw(st.booleans()),
        }
    if method == "PUT":
        body: dict[str, Any] = {}
        if draw(st.booleans()):
            body["new_metadata"] = draw(collection_metadata)
        if draw(st.booleans()):
            body["new_configuration"] = {"hnsw": {"ef_search": draw(st.integers(1, 50))}}
        return method, body
    return method, None
