"""Exports of a user to a target that the operator named, and imports from one: as jobs."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Controller, Response, post

from vectorpool.api.auditing import noted
from vectorpool.api.bodies import body_of, decode_bounded
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.export_shapes import ExportBody, ImportBody
from vectorpool.api.jobs import answered, location_of, runner_of
from vectorpool.api.namespaces import UserId
from vectorpool.errors import (
    CommitNotFound,
    Forbidden,
    JobsNotInstalled,
    JobsUnavailable,
    MalformedJson,
    NotExportable,
    QueueFull,
    TargetRefused,
    TargetUnavailable,
    UnknownTarget,
    UserNotFound,
    VectorstoreExists,
)
from vectorpool.jobs.protocol import Enqueue
from vectorpool.jobs.views import Job, JobKind, Transfer
from vectorpool.names import check_user_id
from vectorpool.targets.named import named_targets, pick


class Exports(Controller):
    """Exports and imports of a user."""

    path = "/users/{user_id:str}"
    tags = ("jobs",)

    @post(
        "/exports",
        status_code=202,
        summary="Export a vectorstore to a target",
        operation_class=documented(
            takes=ExportBody,
            gives=Job,
            problems=(
                MalformedJson,
                UnknownTarget,
                UserNotFound,
                CommitNotFound,
                NotExportable,
                TargetRefused,
                TargetUnavailable,
                QueueFull,
                JobsNotInstalled,
                JobsUnavailable,
            ),
            with_commit=False,
        ),
    )
    async def export_to_target(self, request: Call, user_id: UserId) -> Response[Any]:
        """Bring a target to a commit of the user, as a job: 202 and its place in ``Location``.

        A target is a name that the operator gave, never a URL. Only what changed since the target's commit is written.
        A request that asks for the same as a job that waits gets that job. What the target refuses is the job's code
        and reason.
        """
        request.caller.check(check_user_id(user_id))
        body = await decode_bounded(await body_of(request), ExportBody, request.service, user_id)
        return await _enqueued(request, user_id, "export", Transfer(body.target, at=body.at))

    @post(
        "/imports",
        status_code=202,
        summary="Import a vectorstore from a target",
        operation_class=documented(
            takes=ImportBody,
            gives=Job,
            problems=(
                MalformedJson,
                Forbidden,
                UnknownTarget,
                UserNotFound,
                VectorstoreExists,
                TargetRefused,
                TargetUnavailable,
                QueueFull,
                JobsNotInstalled,
                JobsUnavailable,
            ),
            with_commit=False,
        ),
    )
    async def import_from_target(self, request: Call, user_id: UserId) -> Response[Any]:
        """Make what a target holds of a user the vectorstore of a user who has none, as a job of one commit.

        Another user's records are taken only for a caller who may change that user too.
        """
        request.caller.check(check_user_id(user_id))
        body = await decode_bounded(await body_of(request), ImportBody, request.service, user_id)
        if body.source_user is not None:
            request.caller.check(check_user_id(body.source_user))
        return await _enqueued(request, user_id, "import", Transfer(body.source, source_user=body.source_user))


async def _enqueued(request: Call, user_id: str, kind: JobKind, transfer: Transfer) -> Response[Any]:
    pick(named_targets(request.service.settings), transfer.target)
    jobs = runner_of(request, user_id)
    asked = Enqueue(jobs.number(), user_id, "", kind, transfer=transfer)
    async with noted(request, f"{kind}-job", user_id, target=transfer.target, source_user=transfer.source_user) as told:
        answer = await request.context.within(jobs.request(asked), changes=True)
        job = msgspec.json.decode(answer, type=Job)
        told["job_id"] = job.job_id
    return answered(answer, status=202, location=location_of(user_id, job))


def forget_at_targets(request: Call, user_id: str) -> None:
    """Have what targets hold of a deleted user deleted soon; what is lost, the next round of workers makes up for."""
    jobs = request.service.jobs
    if jobs is not None and request.service.settings.targets:
        jobs.forget(user_id)
