"""Records in the binary form of PostgreSQL's COPY, and what PostgreSQL cannot hold."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import psycopg

from vectorpool.errors import NotExportable
from vectorpool.targets.records import Collection, Float32, Records
from vectorpool.targets.values import to_json

COLUMNS: Final = "user_id, collection_id, commit, id, embedding, document, uri, metadata"
_KEY: Final = ("user_id", "collection_id", "id")
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_END: Final = struct.pack(">h", -1)
_LENGTH: Final = struct.Struct(">i")
_NULL: Final = _LENGTH.pack(-1)
_FLOAT4: Final = 700
# How a member of jsonb that has U+0000 looks as JSON text; a backslash before it makes it another text.
_ESCAPED_NUL: Final = "\\u0000"


def packed(user_id: str, collection: Collection, commit: int, records: Records, *, is_vector: bool) -> bytes:
    """Return records as a whole binary COPY into ``COLUMNS``. Raises NotExportable for texts with U+0000."""
    start = b"".join(
        (struct.pack(">h", 8), _field(user_id.encode()), _field(collection.id.encode()), _field(_eight(commit)))
    )
    parts: list[bytes | memoryview] = [_HEADER]
    columns = zip(
        records.ids,
        _vectors(records.vectors, is_vector=is_vector),
        records.documents,
        records.uris,
        records.metadatas,
        strict=True,
    )
    for record_id, vector, document, uri, metadata in columns:
        text = to_json(metadata)
        if "\0" in record_id or (document and "\0" in document) or (uri and "\0" in uri):
            _refuse_nul(collection, record_id, document, uri)
        if text is not None and _ESCAPED_NUL in text:
            check_text(f"{record_id!r} of {collection.shown}", "metadata", metadata)
        parts += (start, _text(record_id), vector, _text(document), _text(uri))
        parts.append(_NULL if text is None else _field(b"\x01" + text.encode()))
    parts.append(_END)
    return b"".join(parts)


class _Reals(NamedTuple):
    """A vector that is sent as ``real[]``, in binary."""

    vector: Float32


class _RealsDumper(psycopg.adapt.Dumper):
    format = psycopg.pq.Format.BINARY
    oid = 1021

    def dump(self, obj: _Reals) -> bytes:
        (field,) = _vectors(obj.vector.reshape(1, -1), is_vector=False)
        return bytes(field[_LENGTH.size :])


def upsert(cursor: psycopg.Cursor[Any], user_id: str, collection: Collection, commit: int, records: Records) -> int:
    """Put a few records that ``packed`` took, each in the place of an earlier one; return how many are new.

    One statement, which costs one answer of the server. Raises psycopg.Error.
    """
    columns = zip(records.ids, records.vectors, records.documents, records.uris, records.metadatas, strict=True)
    values: list[Any] = []
    for record_id, vector, document, uri, metadata in columns:
        values += (user_id, collection.id, commit, record_id, _Reals(vector), document, uri, to_json(metadata))
    cursor.adapters.register_dumper(_Reals, _RealsDumper)
    row = "(%s, %s, %s, %s, %s::real[], %s, %s, %s::jsonb)"
    updates = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS.split(", ") if name not in _KEY)
    # A row that was inserted was never updated.
    sql = (
        f"INSERT INTO vectorpool.records ({COLUMNS}) VALUES {', '.join([row] * len(records.ids))} "
        f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET {updates} RETURNING xmax = 0"
    )
    return sum(is_new for (is_new,) in cursor.execute(sql.encode(), values))


def _refuse_nul(collection: Collection, record_id: str, document: str | None, uri: str | None) -> None:
    for name, value in (("id", record_id), ("document", document), ("uri", uri)):
        check_text(f"{record_id!r} of {collection.shown}", name, value)


def check_text(what: str, name: str, value: Any) -> None:
    """Raise NotExportable if a text, or one within metadata, holds U+0000."""
    if _has_nul(value):
        raise NotExportable(
            f"The {name} of {what} holds the character U+0000, which PostgreSQL cannot store. Remove it, or name "
            "another kind of target."
        )


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(each) for key, each in value.items())
    return isinstance(value, list) and any(map(_has_nul, value))


def _field(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _eight(number: int) -> bytes:
    return struct.pack(">q", number)


def _text(text: str | None) -> bytes:
    return _NULL if text is None else _field(text.encode())


def _vectors(vectors: Float32, *, is_vector: bool) -> Iterator[memoryview]:
    """Yield each vector as a field in the binary form of ``vector`` or ``real[]``."""
    count, dimension = vectors.shape
    big = np.ascontiguousarray(vectors, ">f4")
    if is_vector:
        head = struct.pack(">hh", dimension, 0)
        body = big.view(np.uint8).reshape(count, dimension * 4)
    else:
        head = struct.pack(">iiIii", 1, 0, _FLOAT4, dimension, 1)
        pairs = np.empty((count, dimension, 2), ">i4")
        pairs[:, :, 0] = 4
        pairs[:, :, 1] = big.view(">i4")
        body = pairs.view(np.uint8).reshape(count, dimension * 8)
    head = _LENGTH.pack(len(head) + body.shape[1]) + head
    fields = np.empty((count, len(head) + body.shape[1]), np.uint8)
    fields[:, : len(head)] = np.frombuffer(head, np.uint8)
    fields[:, len(head) :] = body
    flat, width = fields.reshape(-1).data, fields.shape[1]
    return (flat[at : at + width] for at in range(0, count * width, width))
