"""Operation of an instance: the residency of vectorstores, and control of it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.params import PathParameter, QueryParameter

from vectorpool import answers, commands, operating
from vectorpool.api import views
from vectorpool.api.auditing import audited, noted
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.durations import COMPACT_S, DELETE_S, RESTART_S, SCRUB_S
from vectorpool.api.exports import forget_at_targets
from vectorpool.api.health import operators_readiness
from vectorpool.api.namespaces import UserId
from vectorpool.api.requests import KeepOpenBody, decode
from vectorpool.api.responses import pass_on, respond
from vectorpool.audit import AuditPage, Query, check_day
from vectorpool.commitlog.everyone import users_page
from vectorpool.documents.removal import remove_user
from vectorpool.errors import (
    DeletionNotFound,
    InvalidRequest,
    LimitExceeded,
    OutcomeUnknown,
    ShardNotFound,
    ShardUnavailable,
    StoreUnavailable,
    UserNotFound,
    VerificationNotFound,
)
from vectorpool.names import check_user_id
from vectorpool.targets.named import named_targets

UserLimit = Annotated[int, QueryParameter(ge=1, le=1000, description="The most users of a page.")]
AuditLimit = Annotated[int, QueryParameter(ge=1, le=1000, description="The most entries of a page.")]
Cursor = Annotated[str | None, QueryParameter(description="The next_cursor of the page before.")]
Day = Annotated[str | None, QueryParameter(description="A day in UTC, such as 2026-11-21.")]
OfUser = Annotated[str | None, QueryParameter(name="user", description="Only entries about this user.")]
Action = Annotated[
    str | None, QueryParameter(pattern="^[a-z][a-z-]*$", max_length=40, description="Only entries of this action.")
]
ShardNumber = Annotated[int, PathParameter(description="The shard's number.", ge=0)]
Force = Annotated[bool, QueryParameter(description="Also if acknowledged writes are lost (write-back only).")]


class Admin(Controller):
    """For operators. Nothing here is limited to one user: keep it from the public."""

    path = "/admin"
    tags = ("admin",)

    @post(
        "/users/{user_id:str}/hydrate",
        status_code=200,
        summary="Hydrate a vectorstore",
        operation_class=documented(gives=answers.Residency, problems=(UserNotFound,)),
    )
    async def hydrate(self, request: Call, user_id: UserId) -> Response[Any]:
        """Open a user's vectorstore at its newest commit, before its first request."""
        async with noted(request, "hydrate", check_user_id(user_id)):
            return pass_on(await request.execute(user_id, commands.Hydrate()))

    @post(
        "/users/{user_id:str}/flush",
        status_code=200,
        summary="Flush a vectorstore",
        operation_class=documented(gives=answers.Residency, problems=(UserNotFound,)),
    )
    async def flush(self, request: Call, user_id: UserId) -> Response[Any]:
        """Commit what was acknowledged but not committed yet (write-back only)."""
        async with noted(request, "flush", check_user_id(user_id)):
            return pass_on(await request.execute(user_id, commands.Flush()))

    @post(
        "/users/{user_id:str}/evict",
        status_code=200,
        summary="Evict a vectorstore",
        operation_class=documented(gives=answers.Residency, problems=(UserNotFound,)),
    )
    async def evict(self, request: Call, user_id: UserId) -> Response[Any]:
        """Commit, close and drop the working directory; the next request hydrates it again."""
        async with noted(request, "evict", check_user_id(user_id)):
            return pass_on(await request.execute(user_id, commands.Evict()))

    @put(
        "/users/{user_id:str}/keep-open",
        summary="Keep a vectorstore open",
        operation_class=documented(
            takes=KeepOpenBody, gives=answers.Residency, problems=(UserNotFound, InvalidRequest, LimitExceeded)
        ),
    )
    async def keep_open(self, request: Call, user_id: UserId) -> Response[Any]:
        """Open a user's vectorstore, and keep it from eviction for a time, an hour if none is named.

        At most half of the slots of a shard, and half of its bytes, are kept. It ends with the time, by a DELETE, by an
        eviction on demand, by a deletion, and when the shard is started again.
        """
        raw = await request.body()
        body = decode(raw, KeepOpenBody) if raw.strip() else KeepOpenBody()
        async with noted(request, "keep-open", check_user_id(user_id), for_s=body.for_s):
            return pass_on(await request.execute(user_id, commands.KeepOpen(for_s=body.for_s)))

    @delete(
        "/users/{user_id:str}/keep-open",
        status_code=200,
        summary="End keeping a vectorstore open",
        operation_class=documented(gives=answers.Residency),
    )
    async def end_keep_open(self, request: Call, user_id: UserId) -> Response[Any]:
        """Let a user's vectorstore be evicted as others are."""
        async with noted(request, "end-keep-open", check_user_id(user_id)):
            return pass_on(await request.execute(user_id, commands.KeepOpen(for_s=0)))

    @post(
        "/users/{user_id:str}/compact",
        status_code=200,
        summary="Compact a log",
        operation_class=documented(gives=operating.Compacted, problems=(UserNotFound,)),
    )
    async def compact(self, request: Call, user_id: UserId) -> Response[Any]:
        """Merge the deltas of a user's log and write bases, as far as that is due, now instead of later."""
        request.context.allow(COMPACT_S)
        async with noted(request, "compact", check_user_id(user_id)) as told:
            answer = await request.execute(user_id, commands.Compact())
            told |= msgspec.json.decode(answer.body)
            return pass_on(answer)

    @post(
        "/users/{user_id:str}/scrub",
        status_code=200,
        summary="Verify a log",
        operation_class=documented(gives=answers.Verification, problems=(UserNotFound,)),
    )
    async def scrub(self, request: Call, user_id: UserId) -> Response[Any]:
        """Read a user's whole log now, check every invariant of it, and report what is wrong."""
        request.context.allow(SCRUB_S)
        async with noted(request, "scrub", check_user_id(user_id)):
            return pass_on(await request.execute(user_id, commands.Verify()))

    @get(
        "/users/{user_id:str}/scrub",
        summary="Show the last verification",
        operation_class=documented(gives=answers.Verification, problems=(VerificationNotFound,)),
    )
    async def show_scrub(self, request: Call, user_id: UserId) -> Response[Any]:
        """Show when a user's log was verified last, here or on another instance, and what was found."""
        return pass_on(await request.execute(check_user_id(user_id), commands.LastVerification()))

    @delete(
        "/users/{user_id:str}",
        status_code=200,
        summary="Delete all that is ours of a user",
        operation_class=documented(gives=answers.Deletion, problems=(UserNotFound, OutcomeUnknown)),
    )
    async def delete_all(self, request: Call, user_id: UserId) -> Response[Any]:
        """Delete a user's vectorstore, backups and source documents, and what is kept of earlier documents.

        The answer is the receipt. What is other programs' (adapters, media) stays, and is listed there. A deletion that
        was cut short goes on when it is sent again; one that is complete answers its receipt again.
        """
        request.context.allow(DELETE_S)
        async with audited(request, "delete-all", check_user_id(user_id)) as told:

            async def end(documents: int, seal: bool) -> int:
                command = commands.DeleteVectorstore(documents=documents, seal=seal)
                return msgspec.json.decode((await request.execute(user_id, command)).body, type=answers.Deleted).deleted

            removing = remove_user(
                request.service.library, user_id, end, targets=sorted(named_targets(request.service.settings))
            )
            receipt = await request.context.within(removing, changes=True)
            told |= {"objects": receipt.objects, "documents": receipt.documents, "commit": receipt.commit}
            if request.service.care is not None:
                # They name the user, and tell of what is not there any more.
                await request.context.within(request.service.care.notifications.forget(user_id))
            forget_at_targets(request, user_id)
        return respond(receipt, commit=receipt.commit)

    @get(
        "/users/{user_id:str}/deletion",
        summary="Show the receipt of a deletion",
        operation_class=documented(gives=answers.Deletion, problems=(DeletionNotFound,)),
    )
    async def show_deletion(self, request: Call, user_id: UserId) -> Response[Any]:
        """Show what the last deletion of a user deleted, and when a listing showed that nothing is left."""
        return pass_on(await request.execute(check_user_id(user_id), commands.LastDeletion()))

    @get(
        "/users",
        summary="List users",
        operation_class=documented(
            gives=operating.UserPage, problems=(InvalidRequest, StoreUnavailable), with_commit=False
        ),
    )
    async def list_users(self, request: Call, limit: UserLimit = 100, cursor: Cursor = None) -> Response[Any]:
        """List the users of the bucket, deleted ones too, each with its newest commit and its size, in pages."""
        listing = users_page(request.service.library.bucket, limit=limit, cursor=cursor)
        return respond(await request.context.within(listing))

    @get(
        "/shards",
        summary="List shards",
        operation_class=documented(gives=operating.ShardPage, with_commit=False),
    )
    async def list_shards(self, request: Call) -> Response[Any]:
        """List the shards of this instance: their processes, the requests under way, their starts and deaths."""
        return respond(operating.ShardPage(request.service.router.shards()))

    @post(
        "/shards/{shard:int}/restart",
        status_code=200,
        summary="Restart a shard",
        operation_class=documented(
            gives=operating.ShardView,
            problems=(ShardNotFound, InvalidRequest, StoreUnavailable, ShardUnavailable),
            with_commit=False,
        ),
    )
    async def restart_shard(self, request: Call, shard: ShardNumber, force: Force = False) -> Response[Any]:
        """End a shard's process and start it again; its users get 503 meanwhile, and hydrate again.

        Requests under way have half of drain_s to finish, and what was acknowledged is committed. A shard that does not
        answer is killed. Under write-back, a restart that would lose acknowledged writes is refused, unless ``force``.
        """
        request.context.allow(RESTART_S)
        async with noted(request, "restart-shard", shard=shard, force=force):
            restarting = request.service.router.restart_shard(shard, force=force)
            return respond(await request.context.within(restarting, changes=True))

    @get(
        "/tasks",
        summary="List background tasks",
        operation_class=documented(gives=operating.TaskPage, with_commit=False),
    )
    async def list_tasks(self, request: Call) -> Response[Any]:
        """List the background tasks of every process: their state, their failures, and when they run next."""
        shown = await request.context.within(request.service.router.tasks())
        return respond(operating.TaskPage(request.service.supervisor.view() + shown))

    @get(
        "/audit",
        summary="Read the audit",
        operation_class=documented(gives=AuditPage, problems=(InvalidRequest, StoreUnavailable), with_commit=False),
    )
    async def read_audit(
        self,
        request: Call,
        since: Day = None,
        until: Day = None,
        of_user: OfUser = None,
        action: Action = None,
        limit: AuditLimit = 100,
        cursor: Cursor = None,
    ) -> Response[Any]:
        """Read what operators, deletions, restores, forks and changes of tokens and limits did, oldest first.

        An entry that begins and has none that ends: the instance died, or is still at it.
        """
        query = Query(
            since=None if since is None else check_day(since),
            until=None if until is None else check_day(until),
            user_id=None if of_user is None else check_user_id(of_user),
            action=action,
        )
        page = request.service.audit.page(query, limit=limit, cursor=cursor)
        return respond(await request.context.within(page))

    @get(
        "/ready",
        summary="Does it take work, and why not",
        operation_class=documented(gives=views.OperatorsReadiness, with_commit=False),
    )
    async def show_ready(self, request: Call) -> Response[Any]:
        """Tell starting, ready, draining, a store that refuses and a task that is down apart, with reasons.

        The status is that of ``/health/ready``: 200 or 503.
        """
        found = await operators_readiness(request)
        return respond(found, status=200 if found.status == "ready" else 503)

    @get(
        "/pool",
        summary="Show the pool",
        operation_class=documented(gives=answers.PoolView, with_commit=False),
    )
    async def show_pool(
        self,
        request: Call,
    ) -> Response[Any]:
        """Show every slot of this instance, most recently used first, the pool's bounds, and its use of the store."""
        view = await request.context.within(request.service.router.pool_view())
        view.tasks += request.service.supervisor.view()
        if request.service.memory is not None:
            view.memory = request.service.memory.view()
        return respond(view)
