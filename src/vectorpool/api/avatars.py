"""Avatars: list, get, delete. An avatar is there if it has collections or source documents."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from litestar import Controller, Response, delete, get
from litestar.params import QueryParameter

from vectorpool import answers, commands
from vectorpool.api.auditing import audited
from vectorpool.api.call import Call
from vectorpool.api.collections import PageLimit, PageOffset
from vectorpool.api.documentation import documented
from vectorpool.api.durations import DELETE_S
from vectorpool.api.namespaces import AvatarId, UserId
from vectorpool.api.responses import respond
from vectorpool.errors import AvatarNotFound, UserNotFound
from vectorpool.names import check_avatar_id, check_user_id

_MOST_REFUSED: Final = 1000

AndDocuments = Annotated[
    bool, QueryParameter(name="documents", description="Also the source documents, which else stay.")
]


async def delete_documents(request: Call, user_id: str, avatar_id: str) -> int:
    """Delete every source document of an avatar, whatever its name, and return how many there were."""
    with request.context.limit(changes=True):
        return await request.service.library.delete_all(user_id, avatar_id)


class Avatars(Controller):
    """The avatars of a user."""

    path = "/users/{user_id:str}/avatars"
    tags = ("avatars",)

    @get(
        summary="List avatars",
        operation_class=documented(gives=answers.AvatarPage, problems=(UserNotFound,)),
    )
    async def list_avatars(
        self, request: Call, user_id: UserId, limit: PageLimit = None, offset: PageOffset = 0
    ) -> Response[Any]:
        """List avatars by id: those with collections, and those that have only source documents.

        ``refused`` names what other programs put there under a name that is no avatar id. It is deleted with the user's
        documents.
        """
        check_user_id(user_id)
        uploaded, refused = await request.context.within(request.service.library.scan_avatars(user_id))
        commit = 0
        known: dict[str, answers.Avatar] = {}
        try:
            answer = await request.execute(user_id, commands.ListAvatars())
        except UserNotFound:
            if not uploaded and not refused:
                raise
        else:
            commit = answer.commit
            page = msgspec.json.decode(answer.body, type=answers.AvatarPage)
            known = {avatar.avatar_id: avatar for avatar in page.avatars}
        for avatar_id in uploaded:
            known.setdefault(avatar_id, answers.Avatar(avatar_id, collections=0, records=0, documents=0))
        avatars = [known[avatar_id] for avatar_id in sorted(known)]
        end = None if limit is None else offset + limit
        return respond(answers.AvatarPage(avatars[offset:end], len(avatars), refused[:_MOST_REFUSED]), commit=commit)

    @get(
        "/{avatar_id:str}",
        summary="Get an avatar",
        operation_class=documented(gives=answers.Avatar, problems=(UserNotFound, AvatarNotFound)),
    )
    async def get_avatar(self, request: Call, user_id: UserId, avatar_id: AvatarId) -> Response[Any]:
        """Get one avatar: how many collections, records and ingested documents it has."""
        check_user_id(user_id)
        check_avatar_id(avatar_id)
        try:
            answer = await request.execute(user_id, commands.GetAvatar(avatar_id=avatar_id))
        except (UserNotFound, AvatarNotFound) as error:
            page = await request.context.within(request.service.library.list_documents(user_id, avatar_id, limit=1))
            if not page.documents and not page.refused:
                raise
            commit = error.extra.get("commit", 0)
            return respond(answers.Avatar(avatar_id, collections=0, records=0, documents=0), commit=commit)
        avatar = msgspec.json.decode(answer.body, type=answers.Avatar)
        return respond(avatar, commit=answer.commit)

    @delete(
        "/{avatar_id:str}",
        status_code=200,
        summary="Delete an avatar",
        operation_class=documented(gives=answers.Deleted, problems=(UserNotFound, AvatarNotFound)),
    )
    async def delete_avatar(
        self, request: Call, user_id: UserId, avatar_id: AvatarId, and_documents: AndDocuments = False
    ) -> Response[Any]:
        """Delete an avatar's collections; with ``documents=true`` its source documents too.

        What is kept of documents that were replaced or deleted earlier is deleted in either case.
        """
        check_user_id(user_id)
        check_avatar_id(avatar_id)
        request.context.allow(DELETE_S)
        async with audited(request, "delete-avatar", user_id, avatar_id=avatar_id, documents=and_documents):
            return await _delete(request, user_id, avatar_id, and_documents)


async def _delete(request: Call, user_id: str, avatar_id: str, and_documents: bool) -> Response[Any]:
    removed = await delete_documents(request, user_id, avatar_id) if and_documents else 0
    removed += await request.context.within(request.service.library.discard_kept(user_id, avatar_id), changes=True)
    try:
        answer = await request.execute(user_id, commands.DeleteAvatar(avatar_id=avatar_id))
    except (UserNotFound, AvatarNotFound) as error:
        if not removed:
            raise
        return respond(answers.Deleted(removed), commit=error.extra.get("commit", 0))
    deleted = msgspec.json.decode(answer.body, type=answers.Deleted)
    return respond(answers.Deleted(deleted.deleted + removed), commit=answer.commit)
