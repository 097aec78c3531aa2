"""What became of a document: whether its records are those of its bytes, and its passages."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar import Response
from litestar.params import QueryParameter

from vectorpool import answers
from vectorpool.api.call import Call
from vectorpool.api.responses import respond
from vectorpool.api.views import DocumentPassages, Passage
from vectorpool.commands import FindChunks, GetRecords, KnownChunks, KnownDocument, ListRestored, PipelineChoice
from vectorpool.errors import (
    AvatarNotFound,
    DocumentMissing,
    DocumentNotFound,
    NotFound,
    TryAgain,
    UnsupportedFormat,
    UserNotFound,
)

STEP_HEADER: Final = "X-Vectorpool-In-Step"

Chunks = Annotated[bool, QueryParameter(description="Return the document's passages instead of its bytes.")]


def passage_of(match: answers.Match | answers.Record) -> Passage:
    """Return a record of the documents' collection as a passage."""
    metadata = match.metadata or {}
    return Passage(
        id=match.id,
        path=str(metadata.get("path", "")),
        text=match.document or "",
        chunk=_whole(metadata.get("chunk")),
        start=_whole(metadata.get("start")),
        end=_whole(metadata.get("end")),
        distance=getattr(match, "distance", None) or 0.0,
        heading=metadata.get("heading"),
        metadata=metadata,
        page=metadata.get("page"),
        sheet=metadata.get("sheet"),
        member=metadata.get("member"),
    )


def _whole(value: Any) -> int:
    # Records that callers put into the documents' collection themselves need not have these.
    return value if isinstance(value, int) else 0


async def _known(
    request: Call, user_id: str, avatar_id: str, path: str
) -> tuple[KnownDocument | None, PipelineChoice, int]:
    """Return what the registry has of a document, how it is cut, and the commit that says so."""
    try:
        answer = await request.execute(user_id, FindChunks(avatar_id=avatar_id, path=path, digest=""))
    except NotFound as error:
        return None, PipelineChoice(), error.extra.get("commit", 0)
    found = msgspec.json.decode(answer.body, type=KnownChunks)
    return (found.documents[0] if found.documents else None), found.choice, answer.commit


def _in_step(request: Call, known: KnownDocument | None, choice: PipelineChoice, path: str, etag: str) -> bool:
    if known is None:
        return False
    ingestor, row = request.service.ingestor, known.document
    try:
        wanted = (etag, ingestor.recipe(path, choice), request.service.settings.documents_collection)
    except UnsupportedFormat:
        return False
    return not row.restored and (row.etag, row.recipe, row.collection) == wanted


async def step_header(request: Call, user_id: str, avatar_id: str, path: str, etag: str) -> dict[str, str]:
    """Return the header that says whether a document is in step; none while its vectorstore cannot say so.

    The bytes do not depend on the vectorstore, so they are answered without it.
    """
    try:
        known, choice, _ = await _known(request, user_id, avatar_id, path)
    except TryAgain:
        return {}
    return {STEP_HEADER: "true" if _in_step(request, known, choice, path, etag) else "false"}


async def passages_of(request: Call, user_id: str, avatar_id: str, path: str, limit: int, offset: int) -> Response[Any]:
    """Return a page of a document's passages. Raises DocumentNotFound if it was not ingested."""
    known, choice, commit = await _known(request, user_id, avatar_id, path)
    if known is None:
        raise DocumentNotFound(f"The document {path!r} was not ingested, so it has no passages. POST .../ingest first.")
    try:
        etag = (await request.context.within(request.service.library.head(user_id, avatar_id, path))).etag
    except DocumentNotFound:
        etag = ""
    ids = known.ids[offset : offset + limit]
    passages: list[Passage] = []
    if ids:
        command = GetRecords(avatar_id=avatar_id, collection=known.document.collection, ids=ids)
        page = msgspec.json.decode((await request.execute(user_id, command)).body, type=answers.RecordPage)
        found = {record.id: passage_of(record) for record in page.records}
        passages = [found[record_id] for record_id in ids if record_id in found]
    in_step = bool(etag) and _in_step(request, known, choice, path, etag)
    return respond(DocumentPassages(path, in_step, known.document.recipe, len(known.ids), passages), commit=commit)


async def restored_of(request: Call, user_id: str, command: ListRestored) -> list[answers.RestoredDocument]:
    """Return what a restore or fork brought; nothing for a user or an avatar that is not there."""
    try:
        answer = await request.execute(user_id, command)
    except (UserNotFound, AvatarNotFound):
        return []
    return msgspec.json.decode(answer.body, type=answers.RestoredPage).documents


async def refuse_missing(request: Call, user_id: str, avatar_id: str, path: str) -> None:
    """Raise DocumentMissing if a restore or fork brought the records of a document that is not in the bucket."""
    command = ListRestored(avatar_id=avatar_id, path=path, limit=1)
    if await restored_of(request, user_id, command):
        raise DocumentMissing(
            f"The document {path!r} is missing: a restore or fork brought its records, and its bytes are not kept. Put "
            "it again, or delete it to delete its records."
        )
