"""The records of a body that writes: decoded, checked and embedded, as columns."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, Final, cast

import msgspec

from vectorpool import commands
from vectorpool.api.bodies import INLINE_BYTES, body_of, values_of_a_record
from vectorpool.api.call import Call
from vectorpool.api.embeddings import Row, embed_missing, to_row
from vectorpool.api.requests import RawWriteRecordsBody, RecordBody, decode
from vectorpool.api.service import Service
from vectorpool.checks import check_count, check_document, check_metadata, check_record_ids, check_text
from vectorpool.context import RequestContext
from vectorpool.errors import InvalidRequest
from vectorpool.names import excerpt
from vectorpool.outline import check_beginning, cut_records
from vectorpool.settings import Settings
from vectorpool.turns import at_once

# Bytes of records that are decoded in one step: about a millisecond.
_SLICE_BYTES: Final = 256 * 1024


class RecordColumns(msgspec.Struct):
    """The columns of one write, checked. ``vectors`` is None if no record has an embedding."""

    ids: list[str]
    documents: list[str | None] | None
    metadatas: list[dict[str, Any] | None] | None
    uris: list[str | None] | None
    vectors: commands.Vectors | None


async def records_of(request: Call) -> bytes | memoryview:
    """Return a body of records, refused at its beginning if that has too many already."""
    return await body_of(request, partial(check_beginning, most=request.service.settings.max_records))


async def read_records(
    raw: bytes | memoryview, service: Service, context: RequestContext, user_id: str, *, update: bool = False
) -> RecordColumns:
    """Return the records of a body, embedded where they bring text only; ``update`` allows parts of records."""
    settings = service.settings
    reading = _reading(raw, settings, update=update)
    read = at_once(reading) if len(raw) <= INLINE_BYTES else await service.turns.run(user_id, reading)
    ids = [body.id for body in read.bodies]
    check_record_ids(ids, limit=settings.max_records)
    documents = [body.document for body in read.bodies]
    uris = [body.uri for body in read.bodies]
    names = [f"record {excerpt(an_id)}" for an_id in ids]
    vectors = await embed_missing(read.rows, documents, names, service.embedder, context, user_id=user_id)
    return RecordColumns(ids, _column(documents), _column(read.metadatas), _column(uris), vectors)


class _Read(msgspec.Struct):
    """Records as they were read: their texts, their embeddings, their metadata."""

    bodies: list[RecordBody] = []
    rows: list[Row | None] = []
    metadatas: list[dict[str, Any] | None] = []


def _reading(body: bytes | memoryview, settings: Settings, *, update: bool) -> Generator[None, None, _Read]:
    """Read the records of a body, some at a time."""
    pieces: list[msgspec.Raw] | list[memoryview]
    if len(body) <= INLINE_BYTES:
        pieces = decode(body, RawWriteRecordsBody).records
    else:
        pieces = yield from cut_records(body, settings, values_of_a_record(settings))
    if not pieces:
        raise InvalidRequest("The call carries no records. Send at least one.")
    check_count("records", len(pieces), limit=settings.max_records, limit_name="max_records")
    read, since = _Read(), 0
    for at, piece in enumerate(cast(list[Any], pieces)):
        _read_record(piece, at, read, settings, update=update)
        since += len(memoryview(piece))
        if since >= _SLICE_BYTES:
            since = 0
            yield
    return read


def _read_record(piece: msgspec.Raw | memoryview, at: int, read: _Read, settings: Settings, *, update: bool) -> None:
    body = decode(piece, RecordBody, place=f"records[{at}]")
    name = f"record {excerpt(body.id)}"
    read.metadatas.append(check_metadata(body.metadata, of=name, nulls=update))
    read.rows.append(None if body.embedding is None else to_row(body.embedding, settings, of=name))
    if body.document is not None:
        check_document(f"The document of {name}", body.document)
    elif body.embedding is None and not update:
        raise InvalidRequest(f"{name[0].upper()}{name[1:]} has neither a document nor an embedding. Send one.")
    if body.uri is not None:
        check_text(f"The uri of {name}", body.uri)
    # Keep the columns, not the lists of Python floats.
    read.bodies.append(RecordBody(id=body.id, document=body.document, uri=body.uri))


def _column(values: Sequence[Any]) -> list[Any] | None:
    return list(values) if any(value is not None for value in values) else None
