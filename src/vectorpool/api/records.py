"""Records: add, upsert, update, delete, get, query, count."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import msgspec
from litestar import Controller, Response, delete, get, patch, post, put

from vectorpool import answers, commands
from vectorpool.answers import Answer
from vectorpool.api.bodies import INLINE_BYTES, body_of, check_question, values_of_a_question
from vectorpool.api.call import Call
from vectorpool.api.collections import ABSENT
from vectorpool.api.documentation import documented
from vectorpool.api.embeddings import Row, for_query, to_row
from vectorpool.api.namespaces import CollectionName, Namespace, Ns
from vectorpool.api.record_bodies import read_records, records_of
from vectorpool.api.requests import (
    DeleteRecordsBody,
    GetRecordsBody,
    QueryBody,
    WriteRecordsBody,
    decode,
)
from vectorpool.api.responses import pass_on
from vectorpool.api.service import Service
from vectorpool.checks import (
    check_count,
    check_record_ids,
    check_text,
    check_where,
    check_where_document,
)
from vectorpool.context import RequestContext
from vectorpool.errors import (
    DimensionMismatch,
    EmbedderMismatch,
    EmbedderUnavailable,
    InvalidEmbedding,
    InvalidFilter,
    InvalidRequest,
    MalformedJson,
    RecordExists,
    RecordNotFound,
)
from vectorpool.names import check_collection_name
from vectorpool.outline import cut_members
from vectorpool.settings import Settings
from vectorpool.turns import at_once

_WRITE_PROBLEMS: Final = (
    MalformedJson,
    InvalidEmbedding,
    DimensionMismatch,
    *ABSENT,
    EmbedderMismatch,
    EmbedderUnavailable,
)


class _Question(msgspec.Struct):
    """A body that asks, checked. ``rows`` are the embeddings of a large query, as float32."""

    body: Any
    ids: list[str] | None
    where: dict[str, Any] | None
    where_document: dict[str, Any] | None
    rows: list[Row] | None


async def _read_question(raw: bytes | memoryview, shape: Any, service: Service, user_id: str) -> _Question:
    """Return a GetRecordsBody, QueryBody or DeleteRecordsBody, checked. Raises what the checks raise."""
    reading = _reading_question(raw, shape, service.settings)
    return at_once(reading) if len(raw) <= INLINE_BYTES else await service.turns.run(user_id, reading)


async def _question_of(request: Call) -> bytes | memoryview:
    """Return a body that asks, refused at its beginning if that has too much already."""
    return await body_of(request, lambda begun: at_once(check_question(begun, request.service.settings)))


def _reading_question(raw: bytes | memoryview, shape: Any, settings: Settings) -> Generator[None, None, _Question]:
    rows = None
    if len(raw) > INLINE_BYTES:
        yield from check_question(raw, settings)
        if shape is QueryBody:
            raw, rows = yield from _take_embeddings(raw, settings)
    body = decode(raw, shape)
    where, where_document = check_where(body.where), check_where_document(body.where_document)
    return _Question(body, _checked_ids(body.ids, settings), where, where_document, rows)


def _take_embeddings(
    raw: bytes | memoryview, settings: Settings
) -> Generator[None, None, tuple[bytes | memoryview, list[Row] | None]]:
    """Return a body with a short embedding in place of its embeddings, and those, some decoded in each step."""
    members = yield from cut_members(raw, values_of_a_question(settings), values_of_a_question(settings))
    found = members.get("embeddings")
    if found is None or not found.items:
        return raw, None
    check_count("queries", found.items, limit=settings.max_queries, limit_name="max_queries")
    rows: list[Row] = []
    for _, chunk in found.chunks():
        for embedding in decode(chunk, list[list[float]], place="embeddings"):
            rows.append(to_row(embedding, settings, of=f"query {len(rows)}"))
        yield
    start, end = found.span
    return b"".join((raw[:start], b"[[0]]", raw[end:])), rows


async def get_from(
    raw: bytes | memoryview, namespace: Namespace, service: Service, context: RequestContext, name: str
) -> Answer:
    """Answer a GetRecordsBody, as JSON, with the records of a collection."""
    question = await _read_question(raw, GetRecordsBody, service, namespace.user_id)
    body: GetRecordsBody = question.body
    if "distances" in body.include:
        raise InvalidRequest("include may not hold distances here: only a query measures them. Leave it out.")
    settings = service.settings
    limit = settings.max_results if body.limit is None else body.limit
    command = commands.GetRecords(
        avatar_id=namespace.avatar_id,
        collection=check_collection_name(name),
        ids=question.ids,
        where=question.where,
        where_document=question.where_document,
        limit=check_count("results", limit, limit=settings.max_results, limit_name="max_results"),
        offset=body.offset,
        include=body.include,
    )
    service.note_use(namespace.user_id)
    return await service.router.execute(namespace.user_id, command, context)


async def query_in(
    raw: bytes | memoryview, namespace: Namespace, service: Service, context: RequestContext, name: str
) -> Answer:
    """Answer a QueryBody, as JSON, with the nearest records of a collection."""
    question = await _read_question(raw, QueryBody, service, namespace.user_id)
    body: QueryBody = question.body
    if bool(body.texts) == bool(body.embeddings):
        raise InvalidRequest("A query needs exactly one of texts and embeddings. Send one of them, not empty.")
    for text in body.texts or ():
        check_text("A text of the query", text)
    settings = service.settings
    check_collection_name(name)
    check_count("results a query", body.n_results, limit=settings.max_results, limit_name="max_results")
    command = commands.QueryRecords(
        avatar_id=namespace.avatar_id,
        collection=name,
        vectors=await for_query(
            body.texts, question.rows or body.embeddings, service.embedder, settings, context, user_id=namespace.user_id
        ),
        n_results=body.n_results,
        ids=question.ids,
        where=question.where,
        where_document=question.where_document,
        include=body.include,
    )
    service.note_use(namespace.user_id)
    return await service.router.execute(namespace.user_id, command, context)


async def count_in(raw: bytes, namespace: Namespace, service: Service, context: RequestContext, name: str) -> Answer:
    """Answer how many records a collection has; a body says nothing here."""
    command = commands.CountRecords(avatar_id=namespace.avatar_id, collection=check_collection_name(name))
    service.note_use(namespace.user_id)
    return await service.router.execute(namespace.user_id, command, context)


async def add_to(
    raw: bytes | memoryview, namespace: Namespace, service: Service, context: RequestContext, name: str
) -> Answer:
    """Answer a WriteRecordsBody, as JSON, once its new records are in a collection."""
    return await _write(commands.AddRecords, raw, namespace, service, context, name)


async def upsert_into(
    raw: bytes | memoryview, namespace: Namespace, service: Service, context: RequestContext, name: str
) -> Answer:
    """Answer a WriteRecordsBody, as JSON, once its records are in a collection."""
    return await _write(commands.UpsertRecords, raw, namespace, service, context, name)


async def _write(
    kind: type[commands.AddRecords | commands.UpsertRecords],
    raw: bytes | memoryview,
    namespace: Namespace,
    service: Service,
    context: RequestContext,
    name: str,
) -> Answer:
    check_collection_name(name)
    records = await read_records(raw, service, context, namespace.user_id)
    command = kind(avatar_id=namespace.avatar_id, collection=name, **msgspec.structs.asdict(records))
    service.note_use(namespace.user_id)
    return await service.router.execute(namespace.user_id, command, context)


class Records(Controller):
    """The records of a collection."""

    path = "/collections/{name:str}"
    tags = ("records",)

    @post(
        "/records",
        summary="Add records",
        operation_class=documented(
            takes=WriteRecordsBody, gives=answers.Written, problems=(*_WRITE_PROBLEMS, RecordExists)
        ),
    )
    async def add_records(self, request: Call, namespace: Ns, name: CollectionName) -> Response[Any]:
        """Add records, in one commit; an id that is there already refuses the whole call."""
        check_collection_name(name)
        raw = await records_of(request)
        return pass_on(await add_to(raw, namespace, request.service, request.context, name), 201)

    @put(
        "/records",
        summary="Upsert records",
        operation_class=documented(takes=WriteRecordsBody, gives=answers.Written, problems=_WRITE_PROBLEMS),
    )
    async def upsert_records(self, request: Call, namespace: Ns, name: CollectionName) -> Response[Any]:
        """Add records, or replace those that are there, in one commit; metadata is merged."""
        check_collection_name(name)
        raw = await records_of(request)
        return pass_on(await upsert_into(raw, namespace, request.service, request.context, name))

    @patch(
        "/records",
        summary="Update records",
        operation_class=documented(
            takes=WriteRecordsBody, gives=answers.Written, problems=(*_WRITE_PROBLEMS, RecordNotFound)
        ),
    )
    async def update_records(self, request: Call, namespace: Ns, name: CollectionName) -> Response[Any]:
        """Change parts of records, in one commit; an id that is not there refuses the whole call.

        A new document is embedded anew; a metadata key of null is deleted.
        """
        check_collection_name(name)
        raw = await records_of(request)
        records = await read_records(raw, request.service, request.context, namespace.user_id, update=True)
        if not any((records.documents, records.metadatas, records.uris, records.vectors)):
            raise InvalidRequest("The records change nothing. Give a document, an embedding, metadata or a uri.")
        command = commands.UpdateRecords(
            avatar_id=namespace.avatar_id, collection=name, **msgspec.structs.asdict(records)
        )
        return pass_on(await request.execute(namespace.user_id, command))

    @delete(
        "/records",
        status_code=200,
        summary="Delete records",
        operation_class=documented(
            takes=DeleteRecordsBody, gives=answers.Deleted, problems=(MalformedJson, InvalidFilter, *ABSENT)
        ),
    )
    async def delete_records(self, request: Call, namespace: Ns, name: CollectionName) -> Response[Any]:
        """Delete records by ids or filters, in one commit; ids that are not there count nothing."""
        raw = await _question_of(request)
        question = await _read_question(raw, DeleteRecordsBody, request.service, namespace.user_id)
        body: DeleteRecordsBody = question.body
        if body.ids is None and body.where is None and body.where_document is None:
            raise InvalidRequest("The call names no records. Give ids, where or where_document.")
        command = commands.DeleteRecords(
            avatar_id=namespace.avatar_id,
            collection=check_collection_name(name),
            ids=question.ids,
            where=question.where,
            where_document=question.where_document,
        )
        return pass_on(await request.execute(namespace.user_id, command))

    @post(
        "/records/get",
        status_code=200,
        summary="Get records",
        operation_class=documented(
            takes=GetRecordsBody, gives=answers.RecordPage, problems=(MalformedJson, InvalidFilter, *ABSENT)
        ),
    )
    async def get_records(self, request: Call, namespace: Ns, name: CollectionName) -> Response[Any]:
        """Get records by ids or filters, in insertion order, a page at a time."""
        return pass_on(await get_from(await _question_of(request), namespace, request.service, request.context, name))

    @post(
        "/query",
        status_code=200,
        summary="Query a collection",
        operation_class=documented(
            takes=QueryBody,
            gives=answers.QueryResult,
            problems=(
                MalformedJson,
                InvalidFilter,
                InvalidEmbedding,
                DimensionMismatch,
                *ABSENT,
                EmbedderMismatch,
                EmbedderUnavailable,
            ),
        ),
    )
    async def query_records(self, request: Call, namespace: Ns, name: CollectionName) -> Response[Any]:
        """Find the records nearest to each text or embedding."""
        return pass_on(await query_in(await _question_of(request), namespace, request.service, request.context, name))

    @get("/count", summary="Count records", operation_class=documented(gives=answers.Count, problems=ABSENT))
    async def count_records(self, request: Call, namespace: Ns, name: CollectionName) -> Response[Any]:
        """Count the records of a collection."""
        return pass_on(await count_in(b"", namespace, request.service, request.context, name))


def _checked_ids(ids: list[str] | None, settings: Settings) -> list[str] | None:
    if ids is None:
        return None
    if not ids:
        raise InvalidRequest("ids is an empty list. Name at least one id, or leave it out.")
    return list(check_record_ids(ids, limit=settings.max_records))
