"""An avatar's source documents: bytes by path, their ingestion, and questions about them."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from litestar import Controller, Response, delete, get, head, post, put
from litestar.params import PathParameter, QueryParameter

from vectorpool import answers, commands
from vectorpool.api.bodies import body_of, decode_bounded
from vectorpool.api.call import Call
from vectorpool.api.collections import PageOffset
from vectorpool.api.documentation import documented
from vectorpool.api.durations import INGEST_S
from vectorpool.api.jobs import WaitSeconds, answered, finished, location_of, runner_of
from vectorpool.api.namespaces import Namespace, Ns
from vectorpool.api.passages import Chunks, passage_of, passages_of, refuse_missing, restored_of, step_header
from vectorpool.api.preconditions import plain, preconditions_of
from vectorpool.api.requests import IngestBody, PassageQueryBody
from vectorpool.api.responses import respond
from vectorpool.api.scheduling import schedule_sync
from vectorpool.api.views import PassagePage
from vectorpool.checks import check_count, check_text, check_where, check_where_document
from vectorpool.documents.library import Document, DocumentPage
from vectorpool.documents.missing import with_missing
from vectorpool.documents.questions import naming_documents
from vectorpool.errors import (
    AvatarNotFound,
    DimensionMismatch,
    DocumentConflict,
    DocumentMissing,
    DocumentNotFound,
    EmbedderMismatch,
    EmbedderUnavailable,
    InvalidFilter,
    InvalidId,
    InvalidRequest,
    JobsNotInstalled,
    JobsUnavailable,
    LimitExceeded,
    MalformedJson,
    NotFound,
    PathTaken,
    PreconditionFailed,
    QueueFull,
    StoreUnavailable,
    UnsupportedFormat,
    UserNotFound,
)
from vectorpool.extraction.formats import content_type_of
from vectorpool.jobs.protocol import Enqueue
from vectorpool.jobs.views import FINISHED, Job
from vectorpool.names import check_document_path
from vectorpool.telemetry.parts import EMBED

_BYTES = "application/octet-stream"
_LARGEST_PAGE = 1000
# How often a document that others change meanwhile is looked at again.
_LOOKS = 4

DocumentPath = Annotated[
    PurePosixPath,
    PathParameter(description="The document's path: segments of text, at most 1,024 bytes with the ids before them."),
]
PageSize = Annotated[int, QueryParameter(ge=1, le=_LARGEST_PAGE, description="The most documents to return.")]
After = Annotated[str | None, QueryParameter(description="Return the documents after this path.")]


def _path(path: PurePosixPath) -> str:
    return check_document_path(str(path).removeprefix("/"))


def _changing(path: str) -> DocumentConflict:
    return DocumentConflict(f"Others keep changing the document {path!r}. Nothing was changed; send the request again.")


def _avatar(namespace: Namespace) -> str:
    assert namespace.avatar_id is not None, "documents are an avatar's"
    return namespace.avatar_id


def _headers(path: str, etag: str, size: int) -> dict[str, str]:
    # A browser keeps a document, and never shows it as a page of this service: a caller may have put any HTML.
    name = quote(path.rpartition("/")[2], safe="")
    return {
        "ETag": f'"{plain(etag)}"',
        "Content-Length": str(size),
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
    }


def _unchanged(etag: str) -> Response[Any]:
    return Response(b"", status_code=304, media_type=_BYTES, headers={"ETag": f'"{plain(etag)}"'})


class Documents(Controller):
    """The source documents of an avatar."""

    path = ""
    tags = ("documents",)

    @get(
        "/documents",
        summary="List documents",
        operation_class=documented(
            gives=DocumentPage, problems=(InvalidId, UserNotFound, AvatarNotFound, StoreUnavailable), with_commit=False
        ),
    )
    async def list_documents(
        self, request: Call, namespace: Ns, limit: PageSize = _LARGEST_PAGE, after: After = None
    ) -> Response[Any]:
        """List documents by path, including those that other programs put there, and those that are missing.

        A document is ``missing`` if a restore or fork brought its records and its bytes are not kept. Put it again, or
        delete it. ``refused`` names objects among them that no request can name. They are not ingested; rename them
        where they are, or delete the avatar with ``documents=true``.
        """
        avatar_id = _avatar(namespace)
        listing = request.service.library.list_documents(namespace.user_id, avatar_id, limit=limit, after=after)
        page = await request.context.within(listing)
        place = None if after is None else (avatar_id, after)
        # One more than is shown says whether there is another page.
        command = commands.ListRestored(avatar_id=avatar_id, after=place, limit=limit + 1)
        page = with_missing(page, await restored_of(request, namespace.user_id, command), limit)
        if not page.documents and not page.refused and after is None:
            # An avatar without documents may still have collections; one without either is not there.
            await request.execute(namespace.user_id, commands.GetAvatar(avatar_id=avatar_id))
        return respond(page)

    @put(
        "/documents/{path:path}",
        status_code=200,
        summary="Put a document",
        operation_class=documented(
            takes=_BYTES,
            gives=Document,
            problems=(
                InvalidId,
                LimitExceeded,
                DocumentConflict,
                PathTaken,
                PreconditionFailed,
                StoreUnavailable,
                UnsupportedFormat,
            ),
            with_commit=False,
        ),
    )
    async def put_document(self, request: Call, namespace: Ns, path: DocumentPath) -> Response[Any]:
        """Put the bytes of a document: 201 if it is new, 200 if it replaces another. It is ingested in the background.

        With ``If-None-Match: *`` only a new one; with ``If-Match`` only in place of the one with that ETag. What it
        replaces is kept for ``retention_s``, so that a restore or a fork can bring it back.
        """
        name, avatar_id = _path(path), _avatar(namespace)
        conditions = preconditions_of(request.headers)
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            raise UnsupportedFormat(
                "The body is a form (multipart), and its envelope would become a part of the document. Send the bytes "
                "alone: curl --data-binary @FILE, or curl -T FILE."
            )
        data = await request.body()
        library = request.service.library
        of = (namespace.user_id, avatar_id, name)
        for _ in range(_LOOKS):
            found = await self._etag(request, namespace, name)
            conditions.check(found)
            async with request.service.allowances.room_for_document(namespace.user_id, request.context, found is None):
                if conditions.is_empty:
                    writing: Coroutine[Any, Any, str | None] = library.put(*of, data)
                else:
                    # The store compares again, with what the conditions were compared with.
                    writing = library.create(*of, data) if found is None else library.replace(*of, data, found)
                etag = await request.context.within(writing, changes=True)
            if etag is not None:
                break
        else:
            raise _changing(name)
        document = await request.context.within(library.head(namespace.user_id, avatar_id, name))
        schedule_sync(request, namespace.user_id, avatar_id, name)
        return respond(document, status=201 if found is None else 200)

    async def _etag(self, request: Call, namespace: Namespace, name: str) -> str | None:
        """Return the ETag of a document, None if there is none."""
        head = request.service.library.head(namespace.user_id, _avatar(namespace), name)
        try:
            return (await request.context.within(head)).etag
        except DocumentNotFound:
            return None

    @get(
        "/documents/{path:path}",
        summary="Get a document",
        operation_class=documented(
            gives=_BYTES,
            problems=(InvalidId, DocumentNotFound, DocumentMissing, PreconditionFailed, StoreUnavailable),
            with_commit=False,
        ),
    )
    async def get_document(
        self,
        request: Call,
        namespace: Ns,
        path: DocumentPath,
        chunks: Chunks = False,
        limit: PageSize = 100,
        offset: PageOffset = 0,
    ) -> Response[Any]:
        """Get the bytes of a document, with its ETag, and a content type by its suffix; 304 by ``If-None-Match``.

        ``X-Vectorpool-In-Step`` says whether its records are those of these bytes. With ``chunks=true`` the answer is
        a page of its passages instead, with their places (DocumentPassages).
        """
        name, avatar_id = _path(path), _avatar(namespace)
        if chunks:
            return await passages_of(request, namespace.user_id, avatar_id, name, limit, offset)
        conditions = preconditions_of(request.headers)
        etag = None if conditions.is_empty else await self._etag(request, namespace, name)
        if etag is not None and not conditions.check(etag, is_read=True):
            return _unchanged(etag)
        try:
            body = await request.context.within(request.service.library.get(namespace.user_id, avatar_id, name))
        except DocumentNotFound:
            await refuse_missing(request, namespace.user_id, avatar_id, name)
            raise
        headers = _headers(name, body.etag, len(body.data))
        headers |= await step_header(request, namespace.user_id, avatar_id, name, body.etag)
        return Response(body.data, media_type=body.content_type, headers=headers)

    @head(
        "/documents/{path:path}",
        summary="Look at a document",
        operation_class=documented(
            problems=(InvalidId, DocumentNotFound, DocumentMissing, StoreUnavailable), with_commit=False
        ),
    )
    async def head_document(self, request: Call, namespace: Ns, path: DocumentPath) -> Response[None]:
        """Get the size, ETag and content type of a document without its bytes."""
        name, avatar_id = _path(path), _avatar(namespace)
        try:
            document = await request.context.within(request.service.library.head(namespace.user_id, avatar_id, name))
        except DocumentNotFound:
            await refuse_missing(request, namespace.user_id, avatar_id, name)
            raise
        if not preconditions_of(request.headers).check(document.etag, is_read=True):
            return _unchanged(document.etag)
        # The framework makes a body of None for texts only, and takes no other annotation than None for HEAD.
        nothing: Any = b""
        headers = _headers(name, document.etag, document.size)
        headers |= await step_header(request, namespace.user_id, avatar_id, name, document.etag)
        return Response(nothing, media_type=content_type_of(name), headers=headers)

    @delete(
        "/documents/{path:path}",
        status_code=200,
        summary="Delete a document",
        operation_class=documented(
            gives=answers.Deleted, problems=(DocumentNotFound, DocumentConflict, PreconditionFailed)
        ),
    )
    async def delete_document(self, request: Call, namespace: Ns, path: DocumentPath) -> Response[Any]:
        """Delete a document and forget its chunks; answers how many chunks there were, 0 if it was not ingested.

        Its bytes are kept for ``retention_s``, so that a restore or a fork can bring them back. A missing document is
        deleted like any other.
        """
        name, avatar_id = _path(path), _avatar(namespace)
        conditions = preconditions_of(request.headers)
        missing: DocumentNotFound | None = None
        try:
            for _ in range(_LOOKS):
                found = None if conditions.is_empty else await self._etag(request, namespace, name)
                if not conditions.is_empty:
                    conditions.check(found)
                deleting = request.service.library.delete(namespace.user_id, avatar_id, name, etag=found)
                if await request.context.within(deleting, changes=True):
                    break
            else:
                raise _changing(name)
        except DocumentNotFound as error:
            # Its bytes may have gone in an earlier call that could not forget the chunks.
            missing = error
        else:
            request.service.allowances.documents.give_back(namespace.user_id)
        deleted, commit, was_ingested = 0, 0, False
        try:
            answer = await request.service.ingestor.forget(namespace.user_id, avatar_id, name, context=request.context)
        except NotFound:
            # It was never ingested, or what was made of it is forgotten already.
            pass
        else:
            commit, was_ingested = answer.commit, True
            deleted = msgspec.json.decode(answer.body, type=answers.Deleted).deleted
        if missing is not None and not was_ingested:
            raise missing
        # A sync that had read it before may be about to commit it.
        schedule_sync(request, namespace.user_id, avatar_id, name)
        return respond(answers.Deleted(deleted), commit=commit)

    @post(
        "/ingest",
        status_code=202,
        summary="Ingest documents",
        operation_class=documented(
            takes=IngestBody,
            gives=Job,
            problems=(MalformedJson, AvatarNotFound, QueueFull, JobsNotInstalled, JobsUnavailable),
            with_commit=False,
        ),
    )
    async def ingest_documents(self, request: Call, namespace: Ns, wait_s: WaitSeconds = 0.0) -> Response[Any]:
        """Bring the avatar's records up to its documents, as a job: 202 and its place in ``Location``.

        With ``wait_s`` it answers 200 with the job once it is finished, and 202 if it is not by then. A document that
        fails, with its reason, does not stop the others.
        """
        raw = await body_of(request)
        body = await decode_bounded(raw, IngestBody, request.service, namespace.user_id) if raw else IngestBody()
        avatar_id, user_id = _avatar(namespace), namespace.user_id
        if body.paths is not None:
            check_count("paths", len(body.paths), limit=request.service.settings.max_records, limit_name="max_records")
            for path in body.paths:
                check_document_path(path)
        else:
            page = await request.context.within(request.service.library.list_documents(user_id, avatar_id, limit=1))
            if not page.documents and not page.refused:
                # Records may be left of documents that are gone; an avatar without either is not there.
                await request.execute(user_id, commands.GetAvatar(avatar_id=avatar_id))
        jobs = runner_of(request, user_id)
        choice = None if body.pipeline is None else body.pipeline.choice()
        asked = Enqueue(jobs.number(), user_id, avatar_id, "ingest", body.paths, body.force, choice)
        answer = await request.context.within(jobs.request(asked), changes=True)
        job = msgspec.json.decode(answer, type=Job)
        status = 202
        if wait_s:
            request.context.allow(INGEST_S)
            answer = await finished(request, user_id, job, wait_s)
            status = 200 if msgspec.json.decode(answer, type=Job).state in FINISHED else 202
        return answered(answer, status=status, location=location_of(user_id, job))

    @post(
        "/query",
        status_code=200,
        summary="Ask an avatar's documents",
        operation_class=documented(
            takes=PassageQueryBody,
            gives=PassagePage,
            problems=(
                MalformedJson,
                InvalidFilter,
                UserNotFound,
                AvatarNotFound,
                DocumentNotFound,
                DimensionMismatch,
                EmbedderMismatch,
                EmbedderUnavailable,
            ),
        ),
    )
    async def query_documents(
        self,
        request: Call,
        namespace: Ns,
    ) -> Response[Any]:
        """Find the passages of the avatar's documents that answer a question best."""
        body = await decode_bounded(await body_of(request), PassageQueryBody, request.service, namespace.user_id)
        if (body.text is None) == (not body.texts):
            raise InvalidRequest("A question needs exactly one of text and texts. Send one of them, not empty.")
        texts = [body.text] if body.text is not None else list(body.texts or ())
        settings = request.service.settings
        check_count("queries", len(texts), limit=settings.max_queries, limit_name="max_queries")
        check_count("results a query", body.n_results, limit=settings.max_results, limit_name="max_results")
        for text in texts:
            check_text("A question", text)
        command = commands.QueryRecords(
            avatar_id=_avatar(namespace),
            collection=settings.documents_collection,
            n_results=body.n_results,
            where=check_where(body.where),
            where_document=check_where_document(body.where_document),
            vectors=request.service.ingestor.as_vectors(
                await request.context.within(request.service.embedder.embed(texts, namespace.user_id), part=EMBED)
            ),
        )
        with naming_documents(_avatar(namespace)):
            answer = await request.execute(namespace.user_id, command)
        found = msgspec.json.decode(answer.body, type=answers.QueryResult)
        passages = [[passage_of(match) for match in matches] for matches in found.results]
        page = PassagePage(passages, found.assumed_embedder)
        return respond(page, commit=answer.commit)
