"""Collections: create, list, get, rename, delete."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from litestar import Controller, Response, delete, get, patch, post
from litestar.params import QueryParameter

from vectorpool import answers, commands
from vectorpool.api.bodies import body_of, decode_bounded
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.namespaces import CollectionName, Ns
from vectorpool.api.requests import CreateCollectionBody, ModifyCollectionBody
from vectorpool.api.responses import pass_on
from vectorpool.bounds import MAX_COUNT
from vectorpool.checks import check_collection_metadata
from vectorpool.errors import (
    AvatarNotFound,
    CollectionExists,
    CollectionNotFound,
    InvalidRequest,
    MalformedJson,
    UserNotFound,
)
from vectorpool.names import check_collection_name

ABSENT = (UserNotFound, AvatarNotFound, CollectionNotFound)

PageLimit = Annotated[
    int | None, QueryParameter(ge=1, le=MAX_COUNT, description="The most to return; all if left out.")
]
PageOffset = Annotated[int, QueryParameter(ge=0, le=MAX_COUNT, description="How many to pass over first.")]


_EMBEDDER: Final = re.compile(r"[!-~]{1,200}")


class Collections(Controller):
    """The collections of a namespace."""

    path = "/collections"
    tags = ("collections",)

    @post(
        summary="Create a collection",
        operation_class=documented(
            takes=CreateCollectionBody, gives=answers.Collection, problems=(MalformedJson, CollectionExists)
        ),
    )
    async def create_collection(
        self,
        request: Call,
        namespace: Ns,
    ) -> Response[Any]:
        """Create a collection. The user and the avatar are created with it."""
        body = await decode_bounded(await body_of(request), CreateCollectionBody, request.service, namespace.user_id)
        command = commands.CreateCollection(
            avatar_id=namespace.avatar_id,
            name=check_collection_name(body.name),
            metadata=check_collection_metadata(body.metadata),
            hnsw=body.hnsw.settings(),
            get_or_create=body.get_or_create,
        )
        return pass_on(await request.execute(namespace.user_id, command), 201)

    @get(
        summary="List collections",
        operation_class=documented(gives=answers.CollectionPage, problems=(UserNotFound, AvatarNotFound)),
    )
    async def list_collections(
        self, request: Call, namespace: Ns, limit: PageLimit = None, offset: PageOffset = 0
    ) -> Response[Any]:
        """List collections by name."""
        command = commands.ListCollections(avatar_id=namespace.avatar_id, limit=limit, offset=offset)
        return pass_on(await request.execute(namespace.user_id, command))

    @get(
        "/{name:str}",
        summary="Get a collection",
        operation_class=documented(gives=answers.Collection, problems=ABSENT),
    )
    async def get_collection(self, request: Call, namespace: Ns, name: CollectionName) -> Response[Any]:
        """Get one collection: its metadata, index, dimension, embedder and count."""
        command = commands.GetCollection(avatar_id=namespace.avatar_id, name=check_collection_name(name))
        return pass_on(await request.execute(namespace.user_id, command))

    @patch(
        "/{name:str}",
        summary="Rename a collection or change its metadata",
        operation_class=documented(
            takes=ModifyCollectionBody, gives=answers.Collection, problems=(MalformedJson, *ABSENT, CollectionExists)
        ),
    )
    async def modify_collection(self, request: Call, namespace: Ns, name: CollectionName) -> Response[Any]:
        """Give a collection a new name, new metadata, which replaces the old as a whole, or the name of its embedder.

        The embedder says which model made the embeddings of a collection that was imported; it changes none of them.
        """
        body = await decode_bounded(await body_of(request), ModifyCollectionBody, request.service, namespace.user_id)
        if body.name is None and not body.metadata and body.embedder is None:
            raise InvalidRequest("The body changes nothing. Give a new name, new metadata or an embedder.")
        if body.embedder is not None and not _EMBEDDER.fullmatch(body.embedder):
            raise InvalidRequest(
                "An embedder's name is 1 to 200 printable characters, such as onnx:all-MiniLM-L6-v2-int8 or "
                "openai:text-embedding-3-small."
            )
        command = commands.ModifyCollection(
            avatar_id=namespace.avatar_id,
            name=check_collection_name(name),
            new_name=None if body.name is None else check_collection_name(body.name),
            new_metadata=check_collection_metadata(body.metadata),
            embedder=body.embedder,
        )
        return pass_on(await request.execute(namespace.user_id, command))

    @delete(
        "/{name:str}",
        status_code=200,
        summary="Delete a collection",
        operation_class=documented(gives=answers.Deleted, problems=ABSENT),
    )
    async def delete_collection(self, request: Call, namespace: Ns, name: CollectionName) -> Response[Any]:
        """Delete a collection with all its records."""
        command = commands.DeleteCollection(avatar_id=namespace.avatar_id, name=check_collection_name(name))
        return pass_on(await request.execute(namespace.user_id, command))
