"""Jobs of a user: list, follow, cancel and retry them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
from litestar import Controller, Response, delete, get, post
from litestar.params import PathParameter, QueryParameter
from litestar.response import ServerSentEvent, ServerSentEventMessage

from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.durations import EVENTS_S, INGEST_S
from vectorpool.api.namespaces import UserId
from vectorpool.errors import (
    InvalidId,
    JobNotFound,
    JobsNotInstalled,
    JobsUnavailable,
    JobUnfinished,
    LimitExceeded,
    QueueFull,
    VectorpoolError,
)
from vectorpool.jobs.client import Jobs as JobsClient
from vectorpool.jobs.protocol import CancelJob, ListJobs, RetryJob, ShowJob
from vectorpool.jobs.views import FINISHED, Job, JobPage, JobState
from vectorpool.names import check_avatar_id, check_user_id

_JSON: Final = "application/json"
_LARGEST_PAGE: Final = 1000
_LONGEST_ID: Final = 64
# One wait for the worker; a longer wait of the caller is several.
_WAIT_S: Final = 10.0
LONGEST_WAIT_S: Final = INGEST_S
# Streams of events at once on an instance.
_MOST_STREAMS: Final = 256

JobId = Annotated[str, PathParameter(description="The id of the job, as the answer to its request had it.")]
PageSize = Annotated[int, QueryParameter(ge=1, le=_LARGEST_PAGE, description="The most entries to return.")]
After = Annotated[str, QueryParameter(description="Return the entries after this one: next_after of a page.")]
WaitSeconds = Annotated[
    float, QueryParameter(name="wait_s", ge=0, le=LONGEST_WAIT_S, description="Wait so long for the end of the job.")
]


def jobs_of(request: Call) -> JobsClient:
    """Return the jobs of the instance. Raises JobsUnavailable if it has none."""
    jobs = request.service.jobs
    if jobs is None:
        raise JobsUnavailable("This instance runs no jobs: it was not started by `vectorpool serve`.")
    return jobs


def runner_of(request: Call, user_id: str) -> JobsClient:
    """Return the jobs of the instance, for a new job of a user.

    Raises LimitExceeded if the user may have none (limit ``jobs`` of 0); of each user one job runs at a time.
    """
    if may_run(request, user_id):
        return jobs_of(request)
    raise LimitExceeded(
        "The user may run no jobs (its limit jobs is 0). Ask the operator to raise it.",
        extra={"limit": 0, "limit_name": "jobs", "count": 1},
    )


def may_run(request: Call, user_id: str) -> bool:
    """Return whether jobs of a user may run: by its limits, and by those of the token."""
    allowances = request.service.allowances
    if allowances.is_idle and request.context.claimed is None:
        return True
    return allowances.in_force(user_id, request.context.claimed).limits.jobs != 0


def answered(body: bytes, *, status: int = 200, location: str | None = None) -> Response[Any]:
    """Return the JSON of the worker as the response."""
    headers = {} if location is None else {"Location": location}
    return Response(body, status_code=status, media_type=_JSON, headers=headers)


async def finished(request: Call, user_id: str, job: Job, wait_s: float) -> bytes:
    """Wait for the end of a job, at most ``wait_s``; return its JSON with its documents as it is then."""
    jobs, loop_s = jobs_of(request), wait_s
    while True:
        step_s = min(loop_s, _WAIT_S)
        asked = ShowJob(
            jobs.number(), user_id, job.job_id, limit=_LARGEST_PAGE, version=0, only_finished=True, wait_s=step_s
        )
        body = await request.context.within(jobs.request(asked, answer_s=step_s + _WAIT_S * 3))
        loop_s -= step_s
        if loop_s <= 0 or msgspec.json.decode(body, type=Job).state in FINISHED:
            return body


def location_of(user_id: str, job: Job) -> str:
    """Return the path of a job, for the header Location."""
    return f"/users/{quote(user_id, safe='')}/jobs/{job.job_id}"


async def _known(request: Call, user_id: str, job_id: str) -> Job:
    """Return a job that the caller may see. Raises JobNotFound, also for one of an avatar that is not the caller's."""
    check_user_id(user_id)
    if not job_id.isascii() or len(job_id) > _LONGEST_ID:
        raise InvalidId("The id of the job is none that this service gives. Send it as the answer had it.")
    jobs = jobs_of(request)
    body = await request.context.within(jobs.request(ShowJob(jobs.number(), user_id, job_id)))
    job = msgspec.json.decode(body, type=Job)
    if request.caller.avatars is not None and job.avatar_id not in request.caller.avatars:
        raise JobNotFound("The user has no job of this id that the token may see.")
    return job


class _Streams:
    """How many streams of events are open."""

    open = 0


class Jobs(Controller):
    """The jobs of a user."""

    path = "/users/{user_id:str}/jobs"
    tags = ("jobs",)

    @get(
        summary="List jobs",
        operation_class=documented(
            gives=JobPage,
            problems=(
                JobsNotInstalled,
                JobsUnavailable,
            ),
            with_commit=False,
        ),
    )
    async def list_jobs(
        self,
        request: Call,
        user_id: UserId,
        avatar: Annotated[str | None, QueryParameter(description="Only jobs of this avatar.")] = None,
        job_state: Annotated[
            JobState | None, QueryParameter(name="state", description="Only jobs in this state.")
        ] = None,
        limit: PageSize = 100,
        after: After = "",
    ) -> Response[Any]:
        """List the user's jobs, newest first, without their documents."""
        check_user_id(user_id)
        avatars = None if request.caller.avatars is None else sorted(request.caller.avatars)
        if avatar is not None:
            check_avatar_id(avatar)
            avatars = [avatar] if avatars is None or avatar in avatars else []
        jobs = jobs_of(request)
        asked = ListJobs(jobs.number(), user_id, avatars, job_state, limit, after)
        return answered(await request.context.within(jobs.request(asked)))

    @get(
        "/{job_id:str}",
        summary="Get a job",
        operation_class=documented(
            gives=Job, problems=(JobNotFound, JobsNotInstalled, JobsUnavailable), with_commit=False
        ),
    )
    async def get_job(
        self,
        request: Call,
        user_id: UserId,
        job_id: JobId,
        wait_s: WaitSeconds = 0.0,
        limit: PageSize = _LARGEST_PAGE,
        after: After = "",
    ) -> Response[Any]:
        """Get a job with its state, its counts, and the outcomes of its documents by path.

        A job of another instance that keeps its jobs in a file of its own is not found here.
        """
        job = await _known(request, user_id, job_id)
        if wait_s and job.state not in FINISHED:
            request.context.allow(LONGEST_WAIT_S)
            await finished(request, user_id, job, wait_s)
        jobs = jobs_of(request)
        asked = ShowJob(jobs.number(), user_id, job_id, limit=limit, after=after)
        return answered(await request.context.within(jobs.request(asked)))

    @get(
        "/{job_id:str}/events",
        summary="Follow a job",
        operation_class=documented(
            gives="text/event-stream",
            problems=(JobNotFound, JobsNotInstalled, JobsUnavailable, QueueFull),
            with_commit=False,
        ),
    )
    async def follow_job(self, request: Call, user_id: UserId, job_id: JobId) -> ServerSentEvent:
        """Get an event for each change of the job, as it is then without its documents, until it is finished.

        The stream ends after ten minutes; open it again to go on. An event may stand for several changes.
        """
        job = await _known(request, user_id, job_id)
        if _Streams.open >= _MOST_STREAMS:
            raise QueueFull(f"{_MOST_STREAMS} streams of events are open on the instance. Ask for the job instead.")
        request.context.allow(EVENTS_S)
        return ServerSentEvent(_events(request, user_id, job))

    @delete(
        "/{job_id:str}",
        status_code=200,
        summary="Cancel a job",
        operation_class=documented(
            gives=Job, problems=(JobNotFound, JobsNotInstalled, JobsUnavailable), with_commit=False
        ),
    )
    async def cancel_job(self, request: Call, user_id: UserId, job_id: JobId) -> Response[Any]:
        """Cancel a job. What it committed stays; a document under way is committed whole or not at all."""
        await _known(request, user_id, job_id)
        jobs = jobs_of(request)
        return answered(await request.context.within(jobs.request(CancelJob(jobs.number(), user_id, job_id))))

    @post(
        "/{job_id:str}/retry",
        status_code=202,
        summary="Retry a job",
        operation_class=documented(
            gives=Job,
            problems=(JobNotFound, JobUnfinished, LimitExceeded, JobsNotInstalled, JobsUnavailable),
            with_commit=False,
        ),
    )
    async def retry_job(self, request: Call, user_id: UserId, job_id: JobId) -> Response[Any]:
        """Take what failed again: the documents that failed, or all of a job that failed or was cancelled."""
        job = await _known(request, user_id, job_id)
        jobs = runner_of(request, user_id)
        body = await request.context.within(jobs.request(RetryJob(jobs.number(), user_id, job_id)))
        return answered(body, status=202, location=location_of(user_id, job))


async def _events(request: Call, user_id: str, job: Job) -> AsyncGenerator[ServerSentEventMessage, None]:
    jobs = jobs_of(request)
    _Streams.open += 1
    try:
        version: int | None = None
        while True:
            asked = ShowJob(jobs.number(), user_id, job.job_id, version=version, wait_s=_WAIT_S)
            try:
                body = await jobs.request(asked, answer_s=_WAIT_S * 4)
            except VectorpoolError as error:
                yield ServerSentEventMessage(data=error.detail, event="error")
                return
            job = msgspec.json.decode(body, type=Job)
            if job.version != version:
                yield ServerSentEventMessage(data=body.decode(), event=job.state, id=str(job.version))
            else:
                # Callers and proxies close what is silent.
                yield ServerSentEventMessage(comment="waiting")
            version = job.version
            remaining_s = request.context.remaining_s()
            if job.state in FINISHED or (remaining_s is not None and remaining_s < 2 * _WAIT_S):
                return
    finally:
        _Streams.open -= 1
