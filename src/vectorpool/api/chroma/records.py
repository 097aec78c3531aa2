"""Records. Their bodies pass to the user's shard while they arrive, and its answers pass back."""

from __future__ import annotations

from typing import Any, Final

from litestar import Controller, Response, get, post

from vectorpool import commands
from vectorpool.api.call import Call
from vectorpool.api.chroma.documentation import ADD, DELETE, GET, QUERY, UPDATE, operation
from vectorpool.api.chroma.requests import (
    COLLECTION_PATH,
    CollectionId,
    Database,
    Tenant,
    ask,
    ask_with_body,
)
from vectorpool.api.responses import pass_on
from vectorpool.chroma_bodies import Target, check_collection_id
from vectorpool.errors import ChromaRefusal

_READ_LEVELS: Final = ("index_and_wal", "index_only", "index_and_bounded_wal")


class Records(Controller):
    """The records of a collection."""

    path = COLLECTION_PATH
    tags = ("chroma",)

    @post("/add", status_code=201, summary="Add records", operation_class=operation(takes=ADD))
    async def chroma_add(
        self,
        request: Call,
        tenant: Tenant,
        database: Database,
        collection: CollectionId,
    ) -> Response[Any]:
        """Add records; ids that are there are passed over."""
        return await ask_with_body(request, tenant, Target("add", database, collection), 201)

    @post("/upsert", status_code=200, summary="Upsert records", operation_class=operation(takes=ADD))
    async def chroma_upsert(
        self,
        request: Call,
        tenant: Tenant,
        database: Database,
        collection: CollectionId,
    ) -> Response[Any]:
        """Add records, or change those that are there; metadata is merged."""
        return await ask_with_body(request, tenant, Target("upsert", database, collection))

    @post("/update", status_code=200, summary="Update records", operation_class=operation(takes=UPDATE))
    async def chroma_update(
        self,
        request: Call,
        tenant: Tenant,
        database: Database,
        collection: CollectionId,
    ) -> Response[Any]:
        """Change parts of records; ids that are not there are passed over."""
        return await ask_with_body(request, tenant, Target("update", database, collection))

    @post("/delete", status_code=200, summary="Delete records", operation_class=operation(takes=DELETE))
    async def chroma_delete(
        self,
        request: Call,
        tenant: Tenant,
        database: Database,
        collection: CollectionId,
    ) -> Response[Any]:
        """Delete records by ids or filters."""
        return await ask_with_body(request, tenant, Target("delete", database, collection))

    @post("/get", status_code=200, summary="Get records", operation_class=operation(takes=GET))
    async def chroma_get(
        self,
        request: Call,
        tenant: Tenant,
        database: Database,
        collection: CollectionId,
    ) -> Response[Any]:
        """Get records by ids or filters, in the order of their insertion."""
        return await ask_with_body(request, tenant, Target("get", database, collection))

    @post("/query", status_code=200, summary="Query records", operation_class=operation(takes=QUERY))
    async def chroma_query(
        self,
        request: Call,
        tenant: Tenant,
        database: Database,
        collection: CollectionId,
    ) -> Response[Any]:
        """Find the records nearest to each embedding."""
        return await ask_with_body(request, tenant, Target("query", database, collection))

    @get("/count", summary="Count records", operation_class=operation())
    async def chroma_count(
        self,
        request: Call,
        tenant: Tenant,
        database: Database,
        collection: CollectionId,
    ) -> Response[Any]:
        """Count the records of a collection; every read level counts all of them."""
        level = request.query_params.get("read_level", _READ_LEVELS[0])
        if level not in _READ_LEVELS:
            known = ", ".join(f"`{each}`" for each in _READ_LEVELS)
            raise ChromaRefusal(
                "Failed to deserialize query string: read_level: "
                f"unknown variant `{level[:80]}`, expected one of {known}",
                status=400,
            )
        check_collection_id(collection)
        command = commands.ChromaCountRecords(database=database, collection_id=collection)
        return pass_on(await ask(request, tenant, command, f"Collection [{collection}] does not exist."))
