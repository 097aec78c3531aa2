"""Collections: by their names where Chroma's clients know a name, by their ids everywhere else."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Response, delete, get, post, put

from vectorpool import commands
from vectorpool.api.call import Call
from vectorpool.api.chroma.documentation import CREATE_COLLECTION, UPDATE_COLLECTION, operation
from vectorpool.api.chroma.older_clients import pass_on_collections
from vectorpool.api.chroma.requests import (
    COLLECTION_PATH,
    DATABASE_PATH,
    CollectionId,
    CollectionName,
    Database,
    Tenant,
    answer_body,
    ask,
    ask_with_body,
    check_database,
    creates_database,
    has_tenant,
    number_of,
    reply,
)
from vectorpool.api.responses import pass_on
from vectorpool.chroma_bodies import Target, check_collection_id
from vectorpool.errors import ChromaRefusal, UserNotFound
from vectorpool.names import check_user_id


class Collections(Controller):
    """The collections of a database."""

    tags = ("chroma",)

    @post(
        f"{DATABASE_PATH}/collections",
        status_code=200,
        summary="Create a collection",
        operation_class=operation(takes=CREATE_COLLECTION),
    )
    async def chroma_create_collection(self, request: Call, tenant: Tenant, database: Database) -> Response[Any]:
        """Create a collection, or with ``get_or_create`` return the one of that name."""
        check_user_id(tenant)
        target = Target(
            "create-collection", check_database(database), make_database=creates_database(request.service, database)
        )
        if not await has_tenant(request, tenant):
            raise ChromaRefusal(f"Database [{database}] does not exist", status=400)
        return pass_on_collections(request, await answer_body(request, tenant, target))

    @get(f"{DATABASE_PATH}/collections", summary="List collections", operation_class=operation())
    async def chroma_list_collections(self, request: Call, tenant: Tenant, database: Database) -> Response[Any]:
        """List collections; ``limit`` and ``offset`` page."""
        command = commands.ChromaListCollections(
            database=check_database(database),
            limit=number_of(request, "limit"),
            offset=number_of(request, "offset") or 0,
        )
        try:
            return pass_on_collections(request, await ask(request, tenant, command))
        except UserNotFound:
            return reply([])

    @get(f"{DATABASE_PATH}/collections_count", summary="Count collections", operation_class=operation())
    async def chroma_count_collections(self, request: Call, tenant: Tenant, database: Database) -> Response[Any]:
        """Count the collections of a database."""
        try:
            return pass_on(
                await ask(
                    request,
                    tenant,
                    commands.ChromaCountCollections(database=check_database(database)),
                )
            )
        except UserNotFound:
            return reply(0)

    @get(COLLECTION_PATH, summary="Get a collection by its name", operation_class=operation())
    async def chroma_get_collection(
        self, request: Call, tenant: Tenant, database: Database, collection: CollectionName
    ) -> Response[Any]:
        """Get a collection by its name."""
        command = commands.ChromaGetCollection(database=database, name=collection)
        return pass_on_collections(
            request, await ask(request, tenant, command, f"Collection [{collection}] does not exist")
        )

    @get(
        f"{DATABASE_PATH}/collections/by-id/{{collection:str}}",
        summary="Get a collection by its id",
        operation_class=operation(),
    )
    async def chroma_get_collection_by_id(
        self, request: Call, tenant: Tenant, database: Database, collection: CollectionId
    ) -> Response[Any]:
        """Get a collection by its id."""
        try:
            check_collection_id(collection)
        except ChromaRefusal:
            raise ChromaRefusal(
                "Validation error: collection_id: Invalid collection ID format, expected UUID", status=400
            ) from None
        command = commands.ChromaGetCollection(database=database, collection_id=collection)
        return pass_on_collections(
            request, await ask(request, tenant, command, f"Collection [{collection}] does not exist")
        )

    @put(COLLECTION_PATH, summary="Update a collection", operation_class=operation(takes=UPDATE_COLLECTION))
    async def chroma_update_collection(
        self,
        request: Call,
        tenant: Tenant,
        database: Database,
        collection: CollectionId,
    ) -> Response[Any]:
        """Give a collection a new name, new metadata, which replaces the old, or a new configuration."""
        return await ask_with_body(request, tenant, Target("update-collection", database, collection))

    @delete(COLLECTION_PATH, status_code=200, summary="Delete a collection", operation_class=operation())
    async def chroma_delete_collection(
        self, request: Call, tenant: Tenant, database: Database, collection: CollectionName
    ) -> Response[Any]:
        """Delete a collection, by its name, with its records."""
        command = commands.ChromaDeleteCollection(database=database, name=collection)
        return pass_on(await ask(request, tenant, command, f"Collection [{collection}] does not exist"))
