"""Operation of an instance: the residency of vectorstores, and control of it."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Response, get, post

from vectorpool import answers, commands
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.durations import SCRUB_S
from vectorpool.api.namespaces import UserId
from vectorpool.api.responses import pass_on, respond
from vectorpool.errors import DeletionNotFound, UserNotFound, VerificationNotFound
from vectorpool.names import check_user_id


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
        return pass_on(await request.execute(check_user_id(user_id), commands.Hydrate()))

    @post(
        "/users/{user_id:str}/flush",
        status_code=200,
        summary="Flush a vectorstore",
        operation_class=documented(gives=answers.Residency, problems=(UserNotFound,)),
    )
    async def flush(self, request: Call, user_id: UserId) -> Response[Any]:
        """Commit what was acknowledged but not committed yet (write-back only)."""
        return pass_on(await request.execute(check_user_id(user_id), commands.Flush()))

    @post(
        "/users/{user_id:str}/evict",
        status_code=200,
        summary="Evict a vectorstore",
        operation_class=documented(gives=answers.Residency, problems=(UserNotFound,)),
    )
    async def evict(self, request: Call, user_id: UserId) -> Response[Any]:
        """Commit, close and drop the working directory; the next request hydrates it again."""
        return pass_on(await request.execute(check_user_id(user_id), commands.Evict()))

    @post(
        "/users/{user_id:str}/scrub",
        status_code=200,
        summary="Verify a log",
        operation_class=documented(gives=answers.Verification, problems=(UserNotFound,)),
    )
    async def scrub(self, request: Call, user_id: UserId) -> Response[Any]:
        """Read a user's whole log now, check every invariant of it, and report what is wrong."""
        request.context.allow(SCRUB_S)
        return pass_on(await request.execute(check_user_id(user_id), commands.Verify()))

    @get(
        "/users/{user_id:str}/scrub",
        summary="Show the last verification",
        operation_class=documented(gives=answers.Verification, problems=(VerificationNotFound,)),
    )
    async def show_scrub(self, request: Call, user_id: UserId) -> Response[Any]:
        """Show when a user's log was verified last, here or on another instance, and what was found."""
        return pass_on(await request.execute(check_user_id(user_id), commands.LastVerification()))

    @get(
        "/users/{user_id:str}/deletion",
        summary="Show the receipt of a deletion",
        operation_class=documented(gives=answers.Deletion, problems=(DeletionNotFound,)),
    )
    async def show_deletion(self, request: Call, user_id: UserId) -> Response[Any]:
        """Show what the last deletion of a user deleted, and when a listing showed that nothing is left."""
        return pass_on(await request.execute(check_user_id(user_id), commands.LastDeletion()))

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
