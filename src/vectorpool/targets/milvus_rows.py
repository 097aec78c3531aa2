"""A record as a row of Milvus, and a long one as an array of texts; the fields of both kinds of collections."""

from __future__ import annotations

import uuid
from typing import Any, Final

import msgspec

from vectorpool.errors import NotExportable
from vectorpool.targets.milvus_connection import Field
from vectorpool.targets.records import Collection
from vectorpool.targets.values import encode

_SPACE: Final = uuid.UUID("0c1b6f5e-86a1-5e0e-8e7a-3b6f0f0a9d52")
# Bytes of a text or a JSON value, and texts of an array.
_MOST_BYTES: Final = 65_535
_MOST_PIECES: Final = 4096
_KEY: Final = Field("key", "VARCHAR", {"is_primary": True, "max_length": 64})
_TEXT: Final = {"max_length": _MOST_BYTES}
_PIECES: Final = {"element_type": "VARCHAR", "max_capacity": _MOST_PIECES, **_TEXT}
# Milvus has no collection without a vector.
STATE_FIELDS: Final = (_KEY, Field("value", "ARRAY", _PIECES), Field("vector", "FLOAT_VECTOR", {"dim": 2}))
RECORD_FIELDS: Final = (
    _KEY,
    Field("id", "VARCHAR", _TEXT),
    Field("document", "VARCHAR", _TEXT),
    Field("uri", "VARCHAR", _TEXT),
    Field("metadata", "JSON", {}),
    Field("has_document", "BOOL", {}),
    Field("has_uri", "BOOL", {}),
    Field("has_metadata", "BOOL", {}),
    Field("is_long", "BOOL", {}),
    Field("rest", "ARRAY", _PIECES),
)
# All but the vector, and what only long records have.
READ: Final = tuple(each.name for each in RECORD_FIELDS if each.name not in ("key", "rest"))
_ENCODER: Final = msgspec.json.Encoder()


class Record(msgspec.Struct):
    """A record without its vector; one that is longer than Milvus's fields is JSON of this."""

    id: str
    document: str | None = None
    uri: str | None = None
    metadata: dict[str, Any] | None = None


def key_of(text: str) -> str:
    """Return the primary key of an id: hexadecimal digits, which need no quotes in an expression."""
    return uuid.uuid5(_SPACE, text).hex


def row_of(collection: Collection, record: Record) -> tuple[dict[str, Any], int]:
    """Return a record as a row without its vector, and its bytes."""
    metadata = None if record.metadata is None else encode(record.metadata)
    row: dict[str, Any] = {
        "key": key_of(record.id),
        "id": record.id,
        "document": record.document or "",
        "uri": record.uri or "",
        "metadata": metadata or {},
        "has_document": record.document is not None,
        "has_uri": record.uri is not None,
        "has_metadata": metadata is not None,
        "is_long": False,
        "rest": [],
    }
    texts = [len(each.encode()) for each in (row["id"], row["document"], row["uri"])]
    size = sum(texts) + (0 if metadata is None else len(_ENCODER.encode(metadata)))
    if max(*texts, size - sum(texts)) > _MOST_BYTES:
        record.metadata = metadata
        whole = _ENCODER.encode(record)
        row["rest"] = pieces(whole.decode(), f"The record {record.id[:80]!r} of {collection.shown}")
        row |= {"is_long": True, "metadata": {}}
        row |= {name: row[name].encode()[:_MOST_BYTES].decode(errors="ignore") for name in ("id", "document", "uri")}
        size = len(whole) + 3 * _MOST_BYTES
    return row, size


def pieces(text: str, what: str) -> list[str]:
    """Return a text in pieces that Milvus takes, cut between characters; raise NotExportable for too long a one."""
    data, found, start = text.encode(), list[str](), 0
    while start < len(data):
        end = min(start + _MOST_BYTES, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        found.append(data[start:end].decode())
        start = end
    if len(found) > _MOST_PIECES:
        raise NotExportable(f"{what} is longer than Milvus can hold: {len(data)} bytes. Make it shorter.")
    return found
