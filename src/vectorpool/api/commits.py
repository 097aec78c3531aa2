"""History: the commits of a user's log, restoring one, naming one as a backup, forking it to another user."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.params import PathParameter, QueryParameter

from vectorpool import answers, commands
from vectorpool.api.auditing import audited
from vectorpool.api.bodies import body_of, decode_bounded
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.durations import FORK_S, RESTORE_S
from vectorpool.api.namespaces import UserId
from vectorpool.api.requests import CreateBackupBody, ForkBody, RestoreBody
from vectorpool.api.responses import pass_on, respond
from vectorpool.documents.recovery import Recovery
from vectorpool.errors import (
    BackupExists,
    BackupNotFound,
    CommitConflict,
    CommitNotFound,
    InvalidRequest,
    OutcomeUnknown,
    UserNotFound,
    VectorpoolError,
    VectorstoreExists,
)
from vectorpool.names import check_backup_name, check_user_id

_MAX_COMMITS: Final = 1000

BackupName = Annotated[str, PathParameter(description="The backup: 1 to 64 of [a-zA-Z0-9._-].")]
Limit = Annotated[int, QueryParameter(ge=1, le=_MAX_COMMITS, description="Most commits to show.")]


def _time_ms(text: str) -> int:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise InvalidRequest('The time is not RFC 3339 with an offset. Send one such as "2026-11-21T09:00:00Z".')
    return int(when.timestamp() * 1000)


class History(Controller):
    """The past of a user's vectorstore."""

    path = "/users/{user_id:str}"
    tags = ("history",)

    @get(
        "/commits",
        summary="List commits",
        operation_class=documented(gives=answers.CommitPage, problems=(UserNotFound,)),
    )
    async def list_commits(self, request: Call, user_id: UserId, limit: Limit = 50) -> Response[Any]:
        """List the newest commits that the log still holds, newest first."""
        return pass_on(await request.execute(check_user_id(user_id), commands.ListCommits(limit=limit)))

    @post(
        "/restore",
        status_code=200,
        summary="Restore a commit",
        operation_class=documented(
            takes=RestoreBody,
            gives=answers.Restored,
            problems=(UserNotFound, CommitNotFound, BackupNotFound, CommitConflict, OutcomeUnknown),
        ),
    )
    async def restore(self, request: Call, user_id: UserId) -> Response[Any]:
        """Make the state of an earlier commit the newest, as a new commit. The history stays whole.

        Documents that were replaced or deleted since come back as well, as far as they are kept, to paths that are free
        or that hold what the service itself wrote. Of those whose bytes are not kept, the records stay.
        """
        body = await decode_bounded(await body_of(request), RestoreBody, request.service, user_id)
        request.context.allow(RESTORE_S)
        if sum(each is not None for each in (body.commit, body.time, body.backup)) != 1:
            raise InvalidRequest("Say what to restore: a commit, a time or a backup, and one of them only.")
        command = commands.Restore(
            commit=body.commit,
            time_ms=None if body.time is None else _time_ms(body.time),
            backup=None if body.backup is None else check_backup_name(body.backup),
        )
        asked = {"commit": body.commit, "time": body.time, "backup": body.backup}
        async with audited(request, "restore", check_user_id(user_id), asked=asked) as told:
            answer = await request.execute(user_id, command)
            restored = msgspec.json.decode(answer.body, type=answers.Restored)
            told |= {"commit": restored.commit, "restored_from": restored.restored_from}
            done = f"The state of commit {restored.restored_from} is restored as commit {restored.commit}"
            remedy = "Send the request again to bring back the others."
            recovery = Recovery(request.service.library, user_id)
            restored.documents = await _recover(request, recovery, done, remedy)
        return respond(restored, commit=answer.commit)

    @get(
        "/backups",
        summary="List backups",
        operation_class=documented(gives=answers.BackupPage),
    )
    async def list_backups(self, request: Call, user_id: UserId) -> Response[Any]:
        """List the backups by name."""
        return pass_on(await request.execute(check_user_id(user_id), commands.ListBackups()))

    @put(
        "/backups/{name:str}",
        status_code=201,
        summary="Create a backup",
        operation_class=documented(
            takes=CreateBackupBody, gives=answers.Backup, problems=(UserNotFound, CommitNotFound, BackupExists)
        ),
    )
    async def create_backup(self, request: Call, user_id: UserId, name: BackupName) -> Response[Any]:
        """Name a commit, by default the newest. It is kept until the name is deleted."""
        raw = await body_of(request)
        body = (
            await decode_bounded(raw, CreateBackupBody, request.service, user_id)
            if bytes(raw[:64]).strip()
            else CreateBackupBody()
        )
        command = commands.CreateBackup(name=check_backup_name(name), commit=body.commit)
        return pass_on(await request.execute(check_user_id(user_id), command), 201)

    @get(
        "/backups/{name:str}",
        summary="Show a backup",
        operation_class=documented(gives=answers.Backup, problems=(BackupNotFound,)),
    )
    async def get_backup(self, request: Call, user_id: UserId, name: BackupName) -> Response[Any]:
        """Show which commit a backup names."""
        command = commands.GetBackup(name=check_backup_name(name))
        return pass_on(await request.execute(check_user_id(user_id), command))

    @delete(
        "/backups/{name:str}",
        status_code=200,
        summary="Delete a backup",
        operation_class=documented(gives=answers.Deleted, problems=(BackupNotFound,)),
    )
    async def delete_backup(self, request: Call, user_id: UserId, name: BackupName) -> Response[Any]:
        """Delete a backup's name. Its commit becomes garbage when it is older than the retention time."""
        command = commands.DeleteBackup(name=check_backup_name(name))
        return pass_on(await request.execute(check_user_id(user_id), command))

    @post(
        "/fork",
        status_code=201,
        summary="Fork a vectorstore",
        operation_class=documented(
            takes=ForkBody,
            gives=answers.Forked,
            problems=(UserNotFound, CommitNotFound, VectorstoreExists, OutcomeUnknown),
        ),
    )
    async def fork(self, request: Call, user_id: UserId) -> Response[Any]:
        """Copy the state of a commit, by default the newest, to another user, who must not have a vectorstore.

        The documents of the state are copied as well, as far as their bytes are there or kept, to paths that are free.
        """
        body = await decode_bounded(await body_of(request), ForkBody, request.service, user_id)
        request.context.allow(FORK_S)
        command = commands.Fork(target_user_id=request.caller.check(check_user_id(body.user_id)), commit=body.commit)
        target = command.target_user_id
        async with audited(request, "fork", check_user_id(user_id), target=target, of_commit=body.commit) as told:
            answer = await request.execute(user_id, command)
            forked = msgspec.json.decode(answer.body, type=answers.Forked)
            told["commit"] = forked.commit
            recovery = Recovery(request.service.library, forked.user_id, user_id)
            done = f"User {forked.user_id} has the vectorstore, as commit {forked.commit}"
            remedy = "The listing of documents says which are missing: put them there."
            forked.documents = await _recover(request, recovery, done, remedy)
        return respond(forked, commit=answer.commit, status=201)


async def _recover(request: Call, recovery: Recovery, done: str, remedy: str) -> answers.RecoveredDocuments | None:
    """Bring back documents after a restore or fork; ``done`` says what is certain. Raises OutcomeUnknown."""
    try:
        return await recovery.run(request.service.router, request.context)
    except VectorpoolError as error:
        raise OutcomeUnknown(
            f"{done}, but not all of its documents were brought back ({error.code}). {remedy}"
        ) from error
