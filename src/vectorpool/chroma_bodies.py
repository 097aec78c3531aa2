"""The request bodies of Chroma's own protocol, decoded into commands. A shard does this, for a large body in a thread.

What is not JSON is a 400, JSON of another shape a 422, as with Chroma's server. Embeddings come as base64 of
little-endian float32, or as arrays of numbers. Base64 goes to bytes and never becomes a list; arrays are decoded
vector by vector, so that no single call holds the interpreter for long.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
import orjson

from vectorpool import commands
from vectorpool.chroma_older import is_no_filter, todays_configuration
from vectorpool.errors import ChromaRefusal

Operation = Literal["create-collection", "update-collection", "add", "upsert", "update", "delete", "get", "query"]
# The operations that only read. They may be sent again.
READS: Final = frozenset({"get", "query"})

_Uint32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_INT64: Final = range(-(2**63), 2**63)
_UUID: Final = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# JSON can spell half a surrogate pair; text cannot hold it.
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


# A part of a body that is left to Chroma. (In a union with None, Raw would not be kept as it came.)
_NULL: Final = msgspec.Raw(b"null")


class Target(msgspec.Struct, frozen=True):
    """The target of a body: the database, the collection's id, and whether a missing database is created."""

    operation: Operation
    database: str
    collection_id: str = ""
    make_database: bool = False
    # Whether a client before 1.0 sent it; see ``api.chroma.older_clients``.
    is_older: bool = False


class _CreateCollection(msgspec.Struct):
    name: str
    metadata: dict[str, Any] | None = None
    configuration: msgspec.Raw = _NULL
    schema: msgspec.Raw = _NULL
    get_or_create: bool = False


class _UpdateCollection(msgspec.Struct):
    new_name: str | None = None
    new_metadata: dict[str, Any] | None = None
    new_configuration: msgspec.Raw = _NULL


class _Records(msgspec.Struct, kw_only=True):
    ids: list[str]
    embeddings: msgspec.Raw = _NULL
    documents: list[str | None] | None = None
    metadatas: list[dict[str, Any] | None] | None = None
    uris: list[str | None] | None = None


class _NewRecords(_Records, kw_only=True):
    embeddings: msgspec.Raw


class _Delete(msgspec.Struct):
    ids: list[str] | None = None
    where: msgspec.Raw = _NULL
    where_document: msgspec.Raw = _NULL
    limit: _Uint32 | None = None


class _Get(msgspec.Struct):
    ids: list[str] | None = None
    where: msgspec.Raw = _NULL
    where_document: msgspec.Raw = _NULL
    limit: _Uint32 | None = None
    offset: _Uint32 | None = None
    include: tuple[commands.Include, ...] = ("documents", "metadatas")


class _Query(msgspec.Struct):
    query_embeddings: list[msgspec.Raw]
    n_results: _Uint32 | None = None
    ids: list[str] | None = None
    where: msgspec.Raw = _NULL
    where_document: msgspec.Raw = _NULL
    include: tuple[commands.Include, ...] = ("documents", "metadatas", "distances")


# --- Decoding ----------------------------------------------------------------------------------------


def decode_body(target: Target, body: bytes | bytearray) -> commands.Command:
    """Return the command of a body. Raises ChromaRefusal: 400 for no JSON, 422 for another shape."""
    command = _MAKE[target.operation](target, body)
    if target.operation != "create-collection":
        check_collection_id(target.collection_id)
    return command


def check_collection_id(collection_id: str) -> str:
    """Return the id if it is a UUID, in hexadecimal digits with or without hyphens; raise ChromaRefusal otherwise."""
    if not _UUID.fullmatch(collection_id):
        raise ChromaRefusal("Collection ID is not a valid UUIDv4", status=400)
    return collection_id


def decode_json(body: bytes | bytearray, kind: Any) -> Any:
    """Return a body as ``kind``. Raises ChromaRefusal: 400 for no JSON, 422 for another shape."""
    try:
        if _SURROGATE.search(body):
            # The stricter decoder refuses half a pair.
            orjson.loads(body)
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _wrong_shape(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, orjson.JSONDecodeError) as error:
        raise ChromaRefusal(f"Failed to parse the request body as JSON: {error}", status=400) from error


def _wrong_shape(text: str) -> ChromaRefusal:
    return ChromaRefusal(f"Failed to deserialize the JSON body into the target type: {text}", status=422)


def _json(raw: msgspec.Raw) -> str | None:
    """Return a part of a body as it came, or None for null."""
    text = bytes(raw).decode()
    return None if text.strip() == "null" else text


def _filter(target: Target, raw: msgspec.Raw) -> str | None:
    """Return a filter as it came, or None where a client before 1.0 means none."""
    text = _json(raw)
    return None if target.is_older and is_no_filter(text) else text


def _create_collection(target: Target, body: bytes | bytearray) -> commands.Command:
    asked: _CreateCollection = decode_json(body, _CreateCollection)
    return commands.ChromaCreateCollection(
        database=target.database,
        name=asked.name,
        metadata=None if asked.metadata is None else _collection_metadata(asked.metadata, "metadata"),
        configuration=todays_configuration(_json(asked.configuration)),
        schema=_json(asked.schema),
        get_or_create=asked.get_or_create,
        make_database=target.make_database,
    )


def _update_collection(target: Target, body: bytes | bytearray) -> commands.Command:
    asked: _UpdateCollection = decode_json(body, _UpdateCollection)
    metadata = asked.new_metadata
    return commands.ChromaUpdateCollection(
        database=target.database,
        collection_id=target.collection_id,
        new_name=asked.new_name,
        new_metadata=None if metadata is None else _collection_metadata(metadata, "new_metadata", nulls=True),
        new_configuration=_json(asked.new_configuration),
    )


_Write = commands.ChromaAddRecords | commands.ChromaUpsertRecords | commands.ChromaUpdateRecords


def _write(kind: type[_Write], body_kind: Any) -> Callable[[Target, bytes | bytearray], commands.Command]:
    nulls = kind is not commands.ChromaAddRecords

    def make(target: Target, body: bytes | bytearray) -> commands.Command:
        asked: _Records = decode_json(body, body_kind)
        metadatas = asked.metadatas
        if metadatas is not None:
            metadatas = [
                None if each is None else _metadata(each, f"metadatas[{at}]", nulls=nulls)
                for at, each in enumerate(metadatas)
            ]
        columns: dict[str, Any] = {"vectors": _vectors(asked.embeddings, nulls=kind is commands.ChromaUpdateRecords)}
        if kind is commands.ChromaUpdateRecords and _json(asked.embeddings) is not None:
            columns["embeddings"] = len(msgspec.json.decode(asked.embeddings, type=list[msgspec.Raw]))
        return kind(
            **columns,
            database=target.database,
            collection_id=target.collection_id,
            ids=asked.ids,
            documents=asked.documents,
            metadatas=metadatas,
            uris=asked.uris,
        )

    return make


def _delete(target: Target, body: bytes | bytearray) -> commands.Command:
    asked: _Delete = decode_json(body, _Delete)
    return commands.ChromaDeleteRecords(
        database=target.database,
        collection_id=target.collection_id,
        ids=asked.ids,
        where=_filter(target, asked.where),
        where_document=_filter(target, asked.where_document),
        limit=asked.limit,
    )


def _get(target: Target, body: bytes | bytearray) -> commands.Command:
    asked: _Get = decode_json(body, _Get)
    return commands.ChromaGetRecords(
        database=target.database,
        collection_id=target.collection_id,
        ids=asked.ids,
        where=_filter(target, asked.where),
        where_document=_filter(target, asked.where_document),
        limit=asked.limit,
        offset=asked.offset or 0,
        include=asked.include,
    )


def _query(target: Target, body: bytes | bytearray) -> commands.Command:
    asked: _Query = decode_json(body, _Query)
    rows = [_numbers(raw, f"query_embeddings[{at}]") for at, raw in enumerate(asked.query_embeddings)]
    return commands.ChromaQueryRecords(
        database=target.database,
        collection_id=target.collection_id,
        vectors=_joined(rows),
        n_results=10 if asked.n_results is None else asked.n_results,
        ids=asked.ids,
        where=_filter(target, asked.where),
        where_document=_filter(target, asked.where_document),
        include=asked.include,
    )


_MAKE: Final[dict[str, Callable[[Target, Any], commands.Command]]] = {
    "create-collection": _create_collection,
    "update-collection": _update_collection,
    "add": _write(commands.ChromaAddRecords, _NewRecords),
    "upsert": _write(commands.ChromaUpsertRecords, _NewRecords),
    "update": _write(commands.ChromaUpdateRecords, _Records),
    "delete": _delete,
    "get": _get,
    "query": _query,
}


# --- Embeddings --------------------------------------------------------------------------------------


def _vectors(raw: msgspec.Raw, *, nulls: bool) -> commands.Vectors | None:
    """Return the embeddings of a write; ``nulls`` allows records without one, and none at all."""
    if nulls and _json(raw) is None:
        return None
    try:
        items = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except msgspec.ValidationError as error:
        raise _no_variant() from error
    kinds = {bytes(memoryview(item)[:1]) for item in items}
    if nulls:
        kinds.discard(b"n")
    if len(kinds) > 1 or not kinds <= {b'"', b"["}:
        raise _no_variant()
    rows: list[bytes] = []
    positions: list[int] = []
    for at, item in enumerate(items):
        if bytes(memoryview(item)[:1]) != b"n":
            rows.append(_numbers(item, None) if kinds == {b"["} else _packed(item))
            positions.append(at)
    if any(not row for row in rows):
        raise ChromaRefusal("Validation error: embeddings: Each embedding must have at least 1 dimension")
    joined = _joined(rows)
    return commands.Vectors(joined.dimension, joined.data, None, positions if nulls else None)


def _no_variant() -> ChromaRefusal:
    return _wrong_shape("embeddings: data did not match any variant of untagged enum EmbeddingsPayload")


def _numbers(raw: msgspec.Raw, place: str | None) -> bytes:
    try:
        numbers = msgspec.json.decode(raw, type=list[float])
    except msgspec.ValidationError as error:
        if "out of range" in str(error):
            raise _out_of_range() from error
        raise (_no_variant() if place is None else _wrong_shape(f"{place}: {error}")) from error
    except msgspec.DecodeError as error:
        raise ChromaRefusal(f"Failed to parse the request body as JSON: {error}", status=400) from error
    if any(math.isinf(number) for number in numbers):
        raise _out_of_range()
    with np.errstate(over="ignore"):
        return np.array(numbers, "<f4").tobytes()


def _out_of_range() -> ChromaRefusal:
    return ChromaRefusal("Failed to parse the request body as JSON: number out of range")


def _why_not_base64(text: str) -> str:
    symbol = re.search(r"[^A-Za-z0-9+/=]", text)
    if symbol is None:
        return f"Invalid input length: {len(text)}"
    return f"Invalid symbol {ord(symbol[0])}, offset {symbol.start()}."


def _packed(raw: msgspec.Raw) -> bytes:
    text = msgspec.json.decode(raw, type=str)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ChromaRefusal(f"Invalid base64 string: {_why_not_base64(text)}") from error
    if len(data) % 4:
        raise ChromaRefusal(
            f"Invalid byte length: {len(data)} bytes cannot be converted to f32 values (must be divisible by 4)"
        )
    numbers = np.frombuffer(data, "<f4")
    if not np.isfinite(numbers).all():
        place = int(np.flatnonzero(~np.isfinite(numbers))[0])
        bad = numbers[place]
        shown = "NaN" if np.isnan(bad) else "inf" if bad > 0 else "-inf"
        raise ChromaRefusal(f"Non-finite float value at embedding index {place}: {shown}")
    return data


def _joined(rows: list[bytes]) -> commands.Vectors:
    if not rows:
        return commands.Vectors(1, b"")
    dimension = len(rows[0]) // 4
    if any(len(row) != len(rows[0]) for row in rows):
        raise ChromaRefusal("Inconsistent dimensions in provided embeddings")
    return commands.Vectors(dimension, b"".join(rows))


# --- Metadata ----------------------------------------------------------------------------------------


def _metadata(metadata: dict[str, Any], place: str, *, nulls: bool) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for key, value in metadata.items():
        one = _value(value, f"{place}.{key}", key, nulls=nulls)
        if value == [] and isinstance(value, list):
            # No value: in an update it deletes the key.
            if nulls:
                checked[key] = None
            continue
        checked[key] = one
    return checked


def _collection_metadata(metadata: dict[str, Any], place: str, *, nulls: bool = False) -> dict[str, Any]:
    checked = {key: _value(value, f"{place}.{key}", key, nulls=nulls) for key, value in metadata.items()}
    for key, value in checked.items():
        if isinstance(value, list):
            # Chroma's server stops working on it.
            raise ChromaRefusal(
                f"Validation error: {place}: A collection's metadata cannot hold an array, as under {key[:80]!r}",
                status=400,
            )
    return checked


def _value(value: Any, place: str, key: str, *, nulls: bool) -> Any:
    """Return a metadata value as Chroma takes it: integers beyond 64 bits and mixed arrays of numbers are floats."""
    if value is None and nulls:
        return None
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if value in _INT64 else float(value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, dict) and value.get("#type") == "sparse_vector":
        raise ChromaRefusal(f"Unimplemented: Sparse vector is not supported for local chroma: {key}", status=501)
    if isinstance(value, list):
        kinds = {type(item) for item in value}
        if len(kinds) <= 1 and kinds <= {bool, str, float}:
            return value
        if kinds <= {int, float}:
            whole = kinds == {int} and all(item in _INT64 for item in value)
            return value if whole else [float(item) for item in value]
    kind = "UpdateMetadataValue" if nulls else "MetadataValue"
    raise _wrong_shape(f"{place}: data did not match any variant of untagged enum {kind}")
