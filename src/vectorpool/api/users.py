"""Users: what is stored for them, and its deletion."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar import Controller, Response, delete, get
from litestar.params import QueryParameter

from vectorpool import answers, commands
from vectorpool.api.auditing import audited
from vectorpool.api.avatars import AndDocuments
from vectorpool.api.call import Call
from vectorpool.api.collections import PageOffset
from vectorpool.api.documentation import documented
from vectorpool.api.durations import DELETE_S
from vectorpool.api.exports import forget_at_targets
from vectorpool.api.namespaces import UserId
from vectorpool.api.responses import pass_on, respond
from vectorpool.api.views import UserView
from vectorpool.errors import UserNotFound
from vectorpool.names import check_user_id

_MAX_LOST: Final = 1000
LostLimit = Annotated[int, QueryParameter(ge=1, le=_MAX_LOST, description="The most to return.")]


class Users(Controller):
    """One user's vectorstore as a whole."""

    path = "/users/{user_id:str}"
    tags = ("users",)

    @get(summary="Show a user", operation_class=documented(gives=UserView, problems=(UserNotFound,)))
    async def get_user(self, request: Call, user_id: UserId) -> Response[Any]:
        """Show what is stored for a user, the last commit, and where the vectorstore is on this instance."""
        check_user_id(user_id)
        library = request.service.library
        kept = await request.context.within(library.kept_size(user_id))
        try:
            answer = await request.execute(user_id, commands.DescribeVectorstore())
            stored, commit = answer.body, answer.commit
        except UserNotFound:
            avatars = await request.context.within(library.list_avatars(user_id))
            if not avatars and not kept.documents:
                raise
            nothing = answers.Vectorstore(user_id, avatars=len(avatars), collections=0, records=0, bytes=0)
            stored, commit = msgspec.json.encode(nothing), 0
        residency = await request.execute(user_id, commands.Inspect())
        view = UserView(user_id, commit, msgspec.Raw(stored), msgspec.Raw(residency.body), kept)
        return respond(view, commit=commit)

    @get(
        "/lost",
        summary="List lost records",
        operation_class=documented(gives=answers.LostPage, problems=(UserNotFound,)),
    )
    async def list_lost(
        self, request: Call, user_id: UserId, limit: LostLimit = 100, offset: PageOffset = 0
    ) -> Response[Any]:
        """List records that were lost when the vectorstore had to be salvaged, with what is left of them.

        A record is lost if its embedding was in no file any more. Its text and metadata are here: add it again.
        """
        command = commands.ListLost(limit=limit, offset=offset)
        return pass_on(await request.execute(check_user_id(user_id), command))

    @delete(
        status_code=200,
        summary="Delete a user's vectorstore",
        operation_class=documented(gives=answers.Deleted, problems=(UserNotFound,)),
    )
    async def delete_user(self, request: Call, user_id: UserId, and_documents: AndDocuments = False) -> Response[Any]:
        """Delete a user's vectorstore; with ``documents=true`` the avatars' source documents too.

        What is kept of documents that were replaced or deleted earlier is deleted in either case.
        What other systems keep beside it (media, adapters, images) is never touched.
        """
        check_user_id(user_id)
        request.context.allow(DELETE_S)
        async with audited(request, "delete", user_id, documents=and_documents) as told:
            response, told["objects"] = await self._delete(request, user_id, and_documents)
        forget_at_targets(request, user_id)
        return response

    @staticmethod
    async def _delete(request: Call, user_id: str, and_documents: bool) -> tuple[Response[Any], int]:
        removed: int | None = None
        if and_documents:
            with request.context.limit(changes=True):
                removed = await request.service.library.delete_of_user(user_id)
        kept = await request.context.within(request.service.library.discard_kept(user_id), changes=True)
        beside = kept + (removed or 0)
        try:
            answer = await request.execute(user_id, commands.DeleteVectorstore(documents=removed))
        except UserNotFound:
            if not beside:
                raise
            return respond(answers.Deleted(beside), commit=0), beside
        deleted = msgspec.json.decode(answer.body, type=answers.Deleted).deleted + beside
        return respond(answers.Deleted(deleted), commit=answer.commit), deleted
