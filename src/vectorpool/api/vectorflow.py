"""VectorFlow's protocol for one avatar, so that its Python client works unchanged with another ``base_url``.

Files become documents of the avatar, and a job ingests each. The model that embeds and the place of the records (the
collection of the avatar's documents) are this service's own, so keys of other services and ``VectorDBMetadata`` are
taken and not used. A webhook gets the records too, not instead.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import unquote, urlsplit

import msgspec
from litestar import Controller, Response, get, post
from litestar.params import PathParameter
from msgspec import Meta

from vectorpool.api.bodies import body_of, decode_bounded
from vectorpool.api.call import Call
from vectorpool.api.direct import enqueue, put_and_enqueue
from vectorpool.api.documentation import documented
from vectorpool.api.forms import Form, form_of
from vectorpool.api.jobs import jobs_of
from vectorpool.api.namespaces import Namespace, Ns
from vectorpool.api.responses import respond
from vectorpool.api.vectorflow_shapes import (
    VectorFlowJob,
    VectorFlowJobs,
    VectorFlowJobsBody,
    VectorFlowStatus,
    VectorFlowUploads,
)
from vectorpool.commands import PipelineChoice
from vectorpool.errors import (
    UNDECODABLE,
    Forbidden,
    InvalidRequest,
    JobNotFound,
    JobsNotInstalled,
    JobsUnavailable,
    LimitExceeded,
    MalformedJson,
    QueueFull,
    StoreUnavailable,
    UnsupportedFormat,
    WebhookRefused,
)
from vectorpool.jobs.protocol import FindJobs
from vectorpool.jobs.views import Job, JobOptions, JobPage
from vectorpool.names import parse_document_key
from vectorpool.settings.words import ChunkStrategy
from vectorpool.webhooks.addresses import AddressGuard
from vectorpool.webhooks.download import download

_LONGEST_NAME: Final = 1024
_CHARACTERS_OF_A_TOKEN: Final = 4
_STRATEGIES: Final[dict[str, ChunkStrategy]] = {
    "EXACT": "tokens",
    "PARAGRAPH": "markdown",
    "SENTENCE": "sentences",
    "CUSTOM": "auto",
}
_STATES: Final = {
    "queued": "NOT_STARTED",
    "running": "IN_PROGRESS",
    "done": "COMPLETED",
    "failed": "FAILED",
    "cancelled": "FAILED",
}

Number = Annotated[int, PathParameter(description="The JobID of an answer.", ge=0)]


class _Metadata(msgspec.Struct):
    """What a client says of chunks; it says more of models, which is not read."""

    chunk_size: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    chunk_overlap: Annotated[int, Meta(ge=0, le=1_000_000)] = 128
    chunk_strategy: str = "EXACT"


def _choice(form: Form) -> PipelineChoice:
    text = form.fields.get("EmbeddingsMetadata")
    if not text:
        raise InvalidRequest("Missing required fields: the form has no EmbeddingsMetadata.")
    try:
        wanted = msgspec.json.decode(text, type=_Metadata)
    except UNDECODABLE as error:
        raise MalformedJson(f"EmbeddingsMetadata is not what VectorFlow's client sends: {error}.") from None
    name = wanted.chunk_strategy.upper()
    divisor = _CHARACTERS_OF_A_TOKEN if name.endswith("_BY_CHARACTERS") else 1
    strategy = _STRATEGIES.get(name.removesuffix("_BY_CHARACTERS"))
    if strategy is None:
        raise InvalidRequest(f"chunk_strategy {wanted.chunk_strategy!r} is not known. Send {', '.join(_STRATEGIES)}.")
    # Within what a pipeline may have; the model's own bound is applied where text is cut.
    tokens = min(max(wanted.chunk_size // divisor, 16), 8192)
    return PipelineChoice(strategy, tokens, min(wanted.chunk_overlap // divisor, tokens // 2))


def _options(request: Call, form: Form) -> JobOptions:
    """Return what others are to be told. Raises InvalidRequest, WebhookRefused for URLs that no webhook may have."""
    webhook, check = form.fields.get("WebhookURL") or None, form.fields.get("ChunkValidationURL") or None
    key = request.headers.get("x-webhook-key")
    if webhook is not None and not key:
        raise InvalidRequest("Webhook URL provided but no webhook key: send it in X-Webhook-Key.")
    guard = AddressGuard(request.service.settings.webhook_networks)
    for url in filter(None, (webhook, check)):
        guard.target(url)
    name = form.fields.get("DocumentID") or None
    if max(len(name or ""), len(key or "")) > _LONGEST_NAME:
        raise LimitExceeded(f"DocumentID and the webhook's key may have {_LONGEST_NAME} characters each.")
    return JobOptions(webhook, key if webhook is not None else None, check, name)


def _of(namespace: Namespace) -> tuple[str, str]:
    assert namespace.avatar_id is not None, "the path has an avatar"
    return namespace.user_id, namespace.avatar_id


def _status(job: Job) -> str:
    if job.state == "done" and job.counts.failed:
        return "FAILED" if job.counts.failed == job.counts.done else "PARTIALLY_COMPLETED"
    return _STATES[job.state]


def _taken(job: Job) -> Response[Any]:
    assert job.number is not None, "it was asked for"
    return respond(VectorFlowJob("Successfully added 1 batches to the queue", job.number))


_PROBLEMS: Final = (
    InvalidRequest,
    LimitExceeded,
    UnsupportedFormat,
    QueueFull,
    JobsNotInstalled,
    JobsUnavailable,
    WebhookRefused,
)


class VectorFlow(Controller):
    """The routes of VectorFlow's client."""

    path = ""
    tags = ("vectorflow",)

    @post(
        "/embed",
        status_code=200,
        summary="Embed a file, as VectorFlow",
        operation_class=documented(
            takes="multipart/form-data", gives=VectorFlowJob, problems=_PROBLEMS, with_commit=False
        ),
    )
    async def vectorflow_embed(self, request: Call, namespace: Ns) -> Response[Any]:
        """Put the form's ``SourceData`` as a document, and ingest it as a job."""
        form = await form_of(request)
        files = form.files_of("SourceData")
        if not files:
            raise InvalidRequest("No file part in the request: the form has no SourceData.")
        if not files[0].name:
            raise InvalidRequest("No selected file: SourceData has no name.")
        choice, options = _choice(form), _options(request, form)
        data = bytes(files[0].data)
        return _taken(
            await put_and_enqueue(request, _of(namespace), files[0].name, data, choice, options, is_numbered=True)
        )

    @post(
        "/jobs",
        status_code=200,
        summary="Embed files, as VectorFlow",
        operation_class=documented(
            takes="multipart/form-data", gives=VectorFlowUploads, problems=_PROBLEMS, with_commit=False
        ),
    )
    async def vectorflow_upload(self, request: Call, namespace: Ns) -> Response[Any]:
        """Put the form's files as documents, and ingest each as a job. What is refused is in ``failed_uploads``."""
        form = await form_of(request)
        files = form.files_of("file")
        if not files:
            raise InvalidRequest("No file part in the request: the form has no file.")
        choice, options = _choice(form), _options(request, form)
        answer = VectorFlowUploads("Files processed", {}, [], 0, 0)
        for file in files:
            if not file.name:
                answer.empty_files_count += 1
            elif file.name in answer.successful_uploads:
                answer.duplicate_files_count += 1
            else:
                try:
                    job = await put_and_enqueue(
                        request, _of(namespace), file.name, bytes(file.data), choice, options, is_numbered=True
                    )
                except InvalidRequest:
                    answer.failed_uploads.append(file.name)
                else:
                    assert job.number is not None, "it was asked for"
                    answer.successful_uploads[file.name] = job.number
        return respond(answer)

    @get(
        "/jobs/{number:int}/status",
        summary="Get a job's state, as VectorFlow",
        operation_class=documented(
            gives=VectorFlowStatus, problems=(JobNotFound, JobsNotInstalled, JobsUnavailable), with_commit=False
        ),
    )
    async def vectorflow_status(self, request: Call, namespace: Ns, number: Number) -> Response[Any]:
        """Get the state of one job of the avatar."""
        found = await self._find(request, namespace, [number])
        if not found:
            raise JobNotFound("Job not found: the avatar has none of this JobID, or it was finished long ago.")
        return respond(VectorFlowStatus(_status(found[0])))

    @post(
        "/jobs/status",
        status_code=200,
        summary="Get states of jobs, as VectorFlow",
        operation_class=documented(
            takes=VectorFlowJobsBody,
            gives=VectorFlowJobs,
            problems=(MalformedJson, JobNotFound, JobsNotInstalled, JobsUnavailable),
            with_commit=False,
        ),
    )
    async def vectorflow_statuses(self, request: Call, namespace: Ns) -> Response[Any]:
        """Get the states of jobs of the avatar; those that are not there are left out."""
        body = await decode_bounded(await body_of(request), VectorFlowJobsBody, request.service, namespace.user_id)
        found = await self._find(request, namespace, body.job_ids)
        if not found:
            raise JobNotFound("Jobs not found: the avatar has none of these JobIDs.")
        return respond(VectorFlowJobs([{"JobID": job.number, "JobStatus": _status(job)} for job in found]))

    @staticmethod
    async def _find(request: Call, namespace: Namespace, numbers: list[int]) -> list[Job]:
        jobs = jobs_of(request)
        known = [number for number in numbers if 0 <= number < 2**63]
        asked = FindJobs(jobs.number(), *_of(namespace), known)
        return msgspec.json.decode(await request.context.within(jobs.request(asked)), type=JobPage).jobs

    @post(
        "/s3",
        status_code=200,
        summary="Embed an object, as VectorFlow",
        operation_class=documented(
            takes="multipart/form-data",
            gives=VectorFlowJob,
            problems=(*_PROBLEMS, Forbidden, StoreUnavailable),
            with_commit=False,
        ),
    )
    async def vectorflow_object(self, request: Call, namespace: Ns) -> Response[Any]:
        """Ingest what the form's ``PreSignedURL`` names: a URL, whose bytes become a document, or a key of the bucket.

        A key has to be that of a document of the avatar.
        """
        form = await form_of(request)
        named = form.fields.get("PreSignedURL")
        if not named:
            raise InvalidRequest("Missing required fields: the form has no PreSignedURL.")
        choice, options, of = _choice(form), _options(request, form), _of(namespace)
        if "://" in named:
            settings = request.service.settings
            name = unquote(urlsplit(named).path.rpartition("/")[2])
            fetching = download(named, AddressGuard(settings.webhook_networks), settings.max_document_bytes)
            data = await request.context.within(fetching)
            return _taken(await put_and_enqueue(request, of, name, data, choice, options, is_numbered=True))
        found = parse_document_key(named)
        if found is None or found[:2] != of:
            raise Forbidden("The key is not that of a document of this avatar. Send one below its vectorstore_data/.")
        await request.context.within(request.service.library.head(*of, found[2]))
        return _taken(await enqueue(request, of, found[2], choice, options, is_numbered=True))
