"""Limits of a user, for operators: what is stored, and what is in force. And the usage, for the user itself."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Controller, Response, delete, get, put

from vectorpool import answers, commands
from vectorpool.allowances.usage import documents_size, log_size
from vectorpool.api.auditing import audited
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.limit_shapes import BytesView, LimitsBody, LimitsView, UsageView, limits_view, shown
from vectorpool.api.namespaces import UserId
from vectorpool.api.requests import decode
from vectorpool.api.responses import respond
from vectorpool.errors import InvalidId, InvalidRequest, LimitExceeded, MalformedJson, StoreUnavailable, UserNotFound
from vectorpool.limits import Given, read_limits
from vectorpool.names import check_user_id

_MAX_BODY_BYTES: Final = 16 * 1024


class UserLimits(Controller):
    """The limits that operators store for a user, in the place of the defaults."""

    path = "/admin/users/{user_id:str}/limits"
    tags = ("admin",)

    @get(
        summary="Show the limits of a user",
        operation_class=documented(gives=LimitsView, problems=(InvalidId,), with_commit=False),
    )
    async def show_limits(self, request: Call, user_id: UserId) -> Response[Any]:
        """Show what is stored for a user, the limits in force, and where each of them comes from."""
        return respond(limits_view(request.service.allowances, check_user_id(user_id)))

    @put(
        status_code=200,
        summary="Set the limits of a user",
        request_max_body_size=_MAX_BODY_BYTES,
        operation_class=documented(
            takes=LimitsBody,
            gives=LimitsView,
            problems=(InvalidRequest, InvalidId, MalformedJson, LimitExceeded, StoreUnavailable),
            with_commit=False,
        ),
    )
    async def set_limits(self, request: Call, user_id: UserId) -> Response[Any]:
        """Store limits for a user in the place of all that were stored: here at once, elsewhere within a minute.

        A limit that is left out has its default; ``null`` takes it away. A user that has more than it may now can be
        read and emptied.
        """
        check_user_id(user_id)
        given: Given = read_limits(decode(await request.body(), dict[str, Any]), nulls=True)
        allowances = request.service.allowances
        async with audited(request, "set-limits", user_id, limits=given):
            putting = allowances.stored.put(user_id, given)
            await request.context.within(putting, changes=True)
        return respond(limits_view(allowances, user_id))

    @delete(
        status_code=200,
        summary="Delete the limits of a user",
        operation_class=documented(gives=LimitsView, problems=(InvalidId, StoreUnavailable), with_commit=False),
    )
    async def delete_limits(self, request: Call, user_id: UserId) -> Response[Any]:
        """Delete what is stored for a user: the defaults are in force, here at once, elsewhere within a minute."""
        check_user_id(user_id)
        allowances = request.service.allowances
        async with audited(request, "delete-limits", user_id):
            await request.context.within(allowances.stored.delete(user_id), changes=True)
        return respond(limits_view(allowances, user_id))


class Usage(Controller):
    """What a user has stored and may store, and what is left of its rates."""

    path = "/users/{user_id:str}/usage"
    tags = ("users",)

    @get(
        summary="Show the usage of a user",
        operation_class=documented(gives=UsageView, problems=(InvalidId, StoreUnavailable)),
    )
    async def show_usage(self, request: Call, user_id: UserId) -> Response[Any]:
        """Show what is stored, the limits in force for this token, and the state of the rates on this instance."""
        check_user_id(user_id)
        service = request.service
        commit = 0
        stored = answers.Vectorstore(user_id, avatars=0, collections=0, records=0, bytes=0)
        try:
            answer = await request.execute(user_id, commands.DescribeVectorstore())
            stored, commit = msgspec.json.decode(answer.body, type=answers.Vectorstore), answer.commit
        except UserNotFound:
            pass
        allowances, library, within = service.allowances, service.library, request.context.within
        problem = allowances.stored_for(user_id)
        view = UsageView(
            user_id=user_id,
            commit=commit,
            collections=stored.collections,
            records=stored.records,
            ingested=stored.documents,
            bytes=BytesView(
                live=stored.live_bytes,
                files=stored.bytes,
                history=await within(log_size(library.bucket, user_id)),
            ),
            documents=await within(documents_size(library.bucket, user_id)),
            kept=await within(library.kept_size(user_id)),
            limits=shown(allowances.in_force(user_id, request.caller.limits)),
            rates=allowances.rates_of(user_id),
            problem=None if problem is None else problem.problem,
        )
        return respond(view, commit=commit)
