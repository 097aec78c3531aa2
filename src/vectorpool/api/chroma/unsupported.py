"""Routes that Chroma's single-node server has and does not implement. They answer as it does."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import msgspec
from litestar import Controller, Response, get, post
from litestar.params import PathParameter

from vectorpool import commands
from vectorpool.api.call import Call
from vectorpool.api.chroma.documentation import operation
from vectorpool.api.chroma.requests import COLLECTION_PATH, CollectionId, Database, Tenant, ask, small_body
from vectorpool.chroma_bodies import check_collection_id
from vectorpool.errors import ChromaRefusal

FunctionName = Annotated[str, PathParameter(description="What the function is called.")]

_TONIC = "Tonic error: code: 'Operation is not implemented or not supported', message: "


class ForkBody(msgspec.Struct):
    """What the fork is to be called."""

    new_name: str


class SearchBody(msgspec.Struct):
    """The searches."""

    searches: list[dict[str, Any]]


class AttachBody(msgspec.Struct):
    """The function, what it is called here, and where its output goes."""

    name: str
    function_id: str
    output_collection: str
    params: Any = None


class DetachBody(msgspec.Struct):
    """Whether its output goes too."""

    delete_output: bool = False


async def _refuse(request: Call, tenant: str, database: str, collection: str, refusal: ChromaRefusal) -> NoReturn:
    """Raise the refusal if the collection is there, else that it is not."""
    command = commands.ChromaCountRecords(database=database, collection_id=check_collection_id(collection))
    await ask(request, tenant, command, f"Collection [{collection}] does not exist.")
    raise refusal


class Unsupported(Controller):
    """Search, forks, indexing status and functions."""

    path = COLLECTION_PATH
    tags = ("chroma",)

    @post("/search", status_code=200, summary="Search (not implemented)", operation_class=operation(takes=SearchBody))
    async def chroma_search(
        self,
        request: Call,
        tenant: Tenant,
        database: Database,
        collection: CollectionId,
    ) -> Response[Any]:
        """Refuse: a single-node server does not search."""
        await small_body(request, SearchBody)
        refusal = ChromaRefusal(
            "Error executing plan: Not implemented: Search operation is not implemented for local executor", status=501
        )
        await _refuse(request, tenant, database, collection, refusal)

    @post("/fork", status_code=200, summary="Fork (not implemented)", operation_class=operation(takes=ForkBody))
    async def chroma_fork(
        self,
        request: Call,
        tenant: Tenant,
        database: Database,
        collection: CollectionId,
    ) -> Response[Any]:
        """Refuse: a single-node server does not fork. POST /users/{user_id}/fork copies a whole vectorstore."""
        await small_body(request, ForkBody)
        refusal = ChromaRefusal("Collection forking is unsupported for local chroma", status=501)
        await _refuse(request, tenant, database, collection, refusal)

    @get("/fork_count", summary="Count forks (not implemented)", operation_class=operation())
    async def chroma_fork_count(
        self, request: Call, tenant: Tenant, database: Database, collection: CollectionId
    ) -> Response[Any]:
        """Refuse: there are no forks."""
        refusal = ChromaRefusal("Count forks is unsupported for local chroma", status=501)
        await _refuse(request, tenant, database, collection, refusal)

    @get("/indexing_status", summary="Indexing status (not implemented)", operation_class=operation())
    async def chroma_indexing_status(
        self, request: Call, tenant: Tenant, database: Database, collection: CollectionId
    ) -> Response[Any]:
        """Refuse, with the status that the single-node server gives."""
        refusal = ChromaRefusal("Method scout_logs is not implemented", status=500)
        await _refuse(request, tenant, database, collection, refusal)

    @get("/functions/{name:str}", summary="Get an attached function", operation_class=operation())
    async def chroma_get_function(
        self, tenant: Tenant, database: Database, collection: CollectionId, name: FunctionName
    ) -> Response[Any]:
        """Find none: functions cannot be attached."""
        check_collection_id(collection)
        raise ChromaRefusal("Attached function not found", status=404)

    @post(
        "/functions/attach",
        status_code=200,
        summary="Attach a function (not implemented)",
        operation_class=operation(takes=AttachBody),
    )
    async def chroma_attach_function(
        self, request: Call, tenant: Tenant, database: Database, collection: CollectionId
    ) -> Response[Any]:
        """Refuse: a single-node server runs no functions."""
        await small_body(request, AttachBody)
        check_collection_id(collection)
        raise ChromaRefusal(f'{_TONIC}" Attached Function operations not yet implemented in SqliteSysDb"', status=501)

    @post(
        "/attached_functions/{name:str}/detach",
        status_code=200,
        summary="Detach a function (not implemented)",
        operation_class=operation(takes=DetachBody),
    )
    async def chroma_detach_function(
        self,
        request: Call,
        tenant: Tenant,
        database: Database,
        collection: CollectionId,
        name: FunctionName,
    ) -> Response[Any]:
        """Refuse: there are none."""
        await small_body(request, DetachBody)
        check_collection_id(collection)
        raise ChromaRefusal(f'{_TONIC}"Not implemented"', status=501)
