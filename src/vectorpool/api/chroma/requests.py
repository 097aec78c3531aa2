"""What the routes of Chroma's protocol share: paths, creation at the first use, passing of bodies, small bodies."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final, TypeVar

import msgspec
from litestar import Response
from litestar.params import PathParameter

from vectorpool import commands
from vectorpool.answers import Answer
from vectorpool.api.call import Call
from vectorpool.api.chroma.older_clients import is_older
from vectorpool.api.responses import pass_on
from vectorpool.api.service import Service
from vectorpool.chroma_bodies import Target
from vectorpool.chroma_parts import decode_json
from vectorpool.context import RequestContext
from vectorpool.errors import ChromaRefusal, InvalidId, UserNotFound
from vectorpool.names import DEFAULT_DATABASE, DEFAULT_TENANT, avatar_of_database, check_avatar_id, check_user_id

T = TypeVar("T")

API_PATH: Final = "/api/v2"
DATABASE_PATH: Final = "/tenants/{tenant:str}/databases/{database:str}"
COLLECTION_PATH: Final = f"{DATABASE_PATH}/collections/{{collection:str}}"

Tenant = Annotated[str, PathParameter(description="The user: one path segment of 1 to 128 bytes.")]
Database = Annotated[
    str, PathParameter(description="default_database, an avatar's avatar-<id>, or one that was created.")
]
CollectionId = Annotated[str, PathParameter(description="The collection's id, a UUID.")]
CollectionName = Annotated[str, PathParameter(description="The collection's name.")]

# A name of a tenant or a database, with whatever a client adds to it.
_SMALL_BYTES: Final = 256 * 1024
_UINT32: Final = re.compile(r"\+?[0-9]+")
_NAME: Final = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9._-]{1,510})[a-zA-Z0-9]")


def creates_database(service: Service, database: str) -> bool:
    """Return whether a first touch creates a database of this name: the user's own, or an avatar's."""
    if not service.settings.auto_create:
        return False
    avatar_id = avatar_of_database(database)
    if avatar_id is None:
        return database == DEFAULT_DATABASE
    try:
        check_avatar_id(avatar_id)
    except InvalidId:
        return False
    return True


async def has_tenant(request: Call, tenant: str) -> bool:
    """Return whether a tenant is there: with auto_create each is, and Chroma's default tenant always."""
    if request.service.settings.auto_create or tenant == DEFAULT_TENANT:
        return True
    try:
        await request.execute(tenant, commands.ChromaGetTenant())
    except UserNotFound:
        return False
    return True


async def ask(request: Call, tenant: str, command: commands.Command, missing: str | None = None) -> Answer:
    """Answer a command. ``missing`` is the name of what is not found if nothing is stored for the user."""
    if request.context.is_confined and hasattr(command, "confined"):
        command = msgspec.structs.replace(command, confined=True)
    try:
        return await request.execute(check_user_id(tenant), command)
    except UserNotFound as error:
        if missing is None:
            raise
        raise ChromaRefusal(missing, status=404) from error


async def answer_body(request: Call, tenant: str, target: Target) -> Answer:
    """Pass the request's body to the user's shard while it arrives, and return its answer."""
    content_type = request.headers.get("content-type")
    check_content_type(content_type)
    older = is_older(request.service, request.headers.get("user-agent"), content_type)
    return await pass_body(request.service, request.context, tenant, target, _body(request), is_older=older)


async def ask_with_body(request: Call, tenant: str, target: Target, status: int = 200) -> Response[Any]:
    """Pass the request's body to the user's shard while it arrives, and return its answer as the response."""
    return pass_on(await answer_body(request, tenant, target), status)


async def pass_body(
    service: Service,
    context: RequestContext,
    tenant: str,
    target: Target,
    body: AsyncIterator[bytes],
    *,
    is_older: bool,
) -> Answer:
    """Pass a body to the user's shard while it arrives, and return its answer. Raises VectorpoolError."""
    if is_older:
        target = msgspec.structs.replace(target, is_older=True)
    if context.is_confined:
        target = msgspec.structs.replace(target, confined=True)
    try:
        service.note_use(check_user_id(tenant))
        return await service.router.execute_body(tenant, target, body, context)
    except UserNotFound as error:
        raise ChromaRefusal(f"Collection [{target.collection_id}] does not exist.", status=404) from error


async def _body(request: Call) -> AsyncIterator[bytes]:
    async for data in request.stream():
        if data:
            yield data


def check_content_type(content_type: str | None) -> None:
    """Raise ChromaRefusal (415) if the body says that it is not JSON; one that says nothing is taken as JSON."""
    kind = ("application/json" if content_type is None else content_type).partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ChromaRefusal("Expected request with `Content-Type: application/json`", status=415)


async def small_body(request: Call, kind: type[T]) -> T:
    """Return a body that names a thing or two. Raises ChromaRefusal: 400, 413, 415 or 422."""
    check_content_type(request.headers.get("content-type"))
    raw = await request.body()
    if len(raw) > _SMALL_BYTES:
        raise ChromaRefusal("Failed to buffer the request body: length limit exceeded", status=413)
    body: T = decode_json(raw, kind)
    return body


def number_of(request: Call, name: str) -> int | None:
    """Return a query parameter that is a number of 32 bits, or None. Raises ChromaRefusal in the server's words."""
    texts = request.query_params.getall(name, [])
    if not texts:
        return None
    wrong = "Failed to deserialize query string: "
    if len(texts) > 1:
        raise ChromaRefusal(f"{wrong}duplicate field `{name}`", status=400)
    text = texts[0]
    if not text:
        raise ChromaRefusal(f"{wrong}{name}: cannot parse integer from empty string", status=400)
    if not (text.isascii() and _UINT32.fullmatch(text)):
        raise ChromaRefusal(f"{wrong}{name}: invalid digit found in string", status=400)
    if len(text) > 10 or int(text) >= 2**32:
        raise ChromaRefusal(f"{wrong}{name}: number too large to fit in target type", status=400)
    return int(text)


def check_database_name(name: str) -> str:
    """Return ``name`` if Chroma's server creates a database of it; raise ChromaRefusal otherwise."""
    if ".." in name and _NAME.fullmatch(name):
        raise ChromaRefusal(f"Expected a name that does not contains two consecutive periods (..). Got {name[:600]}")
    if _is_address(name):
        raise ChromaRefusal(f"Expected a name that is not a valid ip address. Got {name}")
    if not _NAME.fullmatch(name):
        raise ChromaRefusal(
            "Expected a name containing 3-512 characters from [a-zA-Z0-9._-], starting and ending with a character in "
            f"[a-zA-Z0-9]. Got: {name[:600]}",
            status=400,
        )
    return name


def _is_address(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def check_database(database: str) -> str:
    """Return a path's database if there can be one of that name; raise ChromaRefusal otherwise."""
    if len(database) < 3:
        raise ChromaRefusal("database name must be at least 3 characters")
    return database


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response[Any]:
    """Return JSON made here as the response."""
    return Response(
        content=msgspec.json.encode(body), status_code=status, media_type="application/json", headers=headers
    )
