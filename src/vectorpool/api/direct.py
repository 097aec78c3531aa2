"""Upload and ingest in one request: a form with a file, and how to cut it."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Controller, Response, post

from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.durations import INGEST_S
from vectorpool.api.forms import Form, form_of
from vectorpool.api.jobs import WaitSeconds, answered, finished, location_of, runner_of
from vectorpool.api.namespaces import Ns
from vectorpool.api.requests import PipelineBody
from vectorpool.commands import PipelineChoice
from vectorpool.errors import (
    DocumentNotFound,
    InvalidId,
    InvalidRequest,
    JobsNotInstalled,
    JobsUnavailable,
    LimitExceeded,
    QueueFull,
    QuotaExceeded,
    StoreUnavailable,
    UnsupportedFormat,
)
from vectorpool.jobs.protocol import Enqueue
from vectorpool.jobs.views import FINISHED, Job, JobOptions
from vectorpool.names import check_document_path


async def put_and_enqueue(
    request: Call,
    of: tuple[str, str],
    path: str,
    data: bytes,
    choice: PipelineChoice | None,
    options: JobOptions | None = None,
    *,
    is_numbered: bool = False,
) -> Job:
    """Put a document of (user, avatar), and return the job that ingests it.

    Raises UnsupportedFormat for one that is not read by its name, InvalidId, and what the store and the worker raise.
    """
    runner_of(request, of[0])
    check_document_path(path)
    request.service.ingestor.recipe(path, choice)
    await _put(request, of, path, data)
    return await enqueue(request, of, path, choice, options, is_numbered=is_numbered)


async def enqueue(
    request: Call,
    of: tuple[str, str],
    path: str,
    choice: PipelineChoice | None,
    options: JobOptions | None = None,
    *,
    is_numbered: bool = False,
) -> Job:
    """Return the job that ingests a document of (user, avatar) that is in the bucket."""
    jobs = runner_of(request, of[0])
    asked = Enqueue(
        jobs.number(), *of, kind="ingest", paths=[path], choice=choice, options=options, is_numbered=is_numbered
    )
    return msgspec.json.decode(await request.context.within(jobs.request(asked), changes=True), type=Job)


async def _put(request: Call, of: tuple[str, str], path: str, data: bytes) -> None:
    library = request.service.library
    try:
        await request.context.within(library.head(*of, path))
        is_new = False
    except DocumentNotFound:
        is_new = True
    async with request.service.allowances.room_for_document(of[0], request.context, is_new):
        await request.context.within(library.put(*of, path, data), changes=True)


class DirectIngest(Controller):
    """A file in, records out."""

    path = "/embed"
    tags = ("documents",)

    @post(
        status_code=202,
        summary="Upload and ingest a document",
        operation_class=documented(
            takes="multipart/form-data",
            gives=Job,
            problems=(
                InvalidRequest,
                InvalidId,
                LimitExceeded,
                QuotaExceeded,
                UnsupportedFormat,
                QueueFull,
                JobsNotInstalled,
                JobsUnavailable,
                StoreUnavailable,
            ),
            with_commit=False,
        ),
    )
    async def embed_document(self, request: Call, namespace: Ns, wait_s: WaitSeconds = 0.0) -> Response[Any]:
        """Put the ``file`` of a form as a document, and ingest it as a job: 202 and its place in ``Location``.

        Fields beside it: ``path`` (the file's name without it), ``strategy``, ``chunk_size`` and ``chunk_overlap`` in
        tokens: how to cut this time; without them, as the avatar does. With ``wait_s`` it answers 200 with the job once
        it is finished.
        """
        form = await form_of(request)
        files = form.files_of("file")
        if len(files) != 1:
            raise InvalidRequest(f"The form has {len(files)} files in its field file. Send one.")
        path = form.fields.get("path") or files[0].name
        assert namespace.avatar_id is not None, "documents are an avatar's"
        of = (namespace.user_id, namespace.avatar_id)
        job = await put_and_enqueue(request, of, path, bytes(files[0].data), _choice(form))
        answer, status = msgspec.json.encode(job), 202
        if wait_s:
            request.context.allow(INGEST_S)
            answer = await finished(request, namespace.user_id, job, wait_s)
            status = 200 if msgspec.json.decode(answer, type=Job).state in FINISHED else 202
        return answered(answer, status=status, location=location_of(namespace.user_id, job))


_FIELDS = {"strategy": "strategy", "chunk_size": "chunk_tokens", "chunk_overlap": "chunk_overlap_tokens"}


def _choice(form: Form) -> PipelineChoice | None:
    given = {name: form.fields[field] for field, name in _FIELDS.items() if form.fields.get(field)}
    if not given:
        return None
    try:
        return msgspec.convert(given, PipelineBody, strict=False).choice()
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            f"The form says how to cut in a way that is not known: {error}. strategy, chunk_size and chunk_overlap "
            "are as in PUT .../pipeline."
        ) from None
