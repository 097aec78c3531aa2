"""The routes about no tenant: heartbeat, version, pre-flight checks, identity, and the reset."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Annotated, Any, Final

from litestar import Controller, Response, get, post, route
from litestar.params import PathParameter

from vectorpool import commands
from vectorpool.api.auditing import audited
from vectorpool.api.call import Call
from vectorpool.api.chroma.documentation import operation
from vectorpool.api.chroma.requests import reply
from vectorpool.api.durations import RESET_S
from vectorpool.api.exports import forget_at_targets
from vectorpool.api.health import readiness
from vectorpool.errors import ChromaRefusal, InvalidId, UserNotFound
from vectorpool.names import DEFAULT_DATABASE, DEFAULT_TENANT, check_user_id, database_name, parse_slot_key
from vectorpool.sources import SYSTEM
from vectorpool.version import __version__

Crn = Annotated[str, PathParameter(description="tenant_resource_name:database_name:collection_name.")]
Rest = Annotated[Path, PathParameter(description="Any path.")]

# What the reference answers; clients cut their writes by the first and send base64 because of the second.
PREFLIGHT: Final[dict[str, Any]] = {"max_batch_size": 5461, "supports_base64_encoding": True}
CHROMA_API_VERSION: Final = "1.0.0"
# Vectorstores that a reset deletes at the same time.
_RESETS_AT_ONCE: Final = 8


def _heartbeat() -> Response[Any]:
    return reply({"nanosecond heartbeat": SYSTEM.now_ms() * 1_000_000})


class System(Controller):
    """The server as a whole."""

    tags = ("chroma",)

    @get("/", summary="Heartbeat", operation_class=operation(is_open=True))
    async def chroma_root(self) -> Response[Any]:
        """Answer the time, as the heartbeat does."""
        return _heartbeat()

    @get("/heartbeat", summary="Heartbeat", operation_class=operation(is_open=True))
    async def chroma_heartbeat(self) -> Response[Any]:
        """Answer the time, in nanoseconds since 1970."""
        return _heartbeat()

    @get("/version", summary="Version of the protocol", operation_class=operation(is_open=True))
    async def chroma_version(self) -> Response[Any]:
        """Answer the version of Chroma's API, which its clients look at."""
        return reply(CHROMA_API_VERSION, headers={"X-Vectorpool-Version": __version__})

    @get("/healthcheck", summary="Does it take work", operation_class=operation(is_open=True))
    async def chroma_healthcheck(
        self,
        request: Call,
    ) -> Response[Any]:
        """Answer 200 while the shards and the essential background tasks run, else 503."""
        ready = (await readiness(request))[0] == "ready"
        return reply({"is_executor_ready": ready, "is_log_client_ready": ready}, 200 if ready else 503)

    @get("/pre-flight-checks", summary="What a client may send", operation_class=operation(is_open=True))
    async def chroma_preflight(self, request: Call) -> Response[Any]:
        """Answer how many records clients should send at once, and that embeddings may be base64.

        It is what Chroma's server answers. One call may carry up to ``max_records`` (10,000), if that is not less.
        """
        most = min(PREFLIGHT["max_batch_size"], request.service.settings.max_records)
        return reply({**PREFLIGHT, "max_batch_size": most})

    @get("/auth/identity", summary="Who calls", operation_class=operation())
    async def chroma_identity(
        self,
        request: Call,
    ) -> Response[Any]:
        """Answer the caller's tenant, the one user of its token or Chroma's default, and its databases."""
        caller = request.caller
        only = next(iter(caller.users)) if caller.users is not None and len(caller.users) == 1 else DEFAULT_TENANT
        name = "" if caller.users is None and caller.is_admin else caller.name
        avatars = caller.avatars
        databases = [DEFAULT_DATABASE] if avatars is None else [database_name(avatar) for avatar in sorted(avatars)]
        return reply({"user_id": name, "tenant": only, "databases": databases})

    @get("/collections/{crn:str}", summary="Get a collection by its resource name", operation_class=operation())
    async def chroma_get_collection_by_crn(self, crn: Crn) -> Response[Any]:
        """Find none: a single-node server keeps no resource names."""
        if not re.fullmatch(r"[^:]+:[^:]+:[^:]+", crn):
            raise ChromaRefusal(
                "Validation error: crn: CRN must be in the format "
                "<tenant_resource_name>:<database_name>:<collection_name> with non-empty parts"
            )
        raise ChromaRefusal(f"Collection [{crn[:600]}] does not exist", status=404)

    @post("/reset", status_code=200, summary="Delete every vectorstore", operation_class=operation())
    async def chroma_reset(
        self,
        request: Call,
    ) -> Response[Any]:
        """Delete the vectorstore of every user that the caller may touch. Needs allow_reset."""
        if not request.service.settings.allow_reset:
            raise ChromaRefusal("Reset is disabled by config", status=403)
        request.context.allow(RESET_S)
        stored = await request.context.within(request.service.library.list_users())
        # Under write-back, the bucket may hold nothing yet of some users.
        open_now = [
            parse_slot_key(slot.user_id)[0]
            for slot in (await request.context.within(request.service.router.pool_view())).slots
        ]
        slots = asyncio.Semaphore(_RESETS_AT_ONCE)

        async def delete(user_id: str) -> None:
            # Some users have only documents, or an id that no request can name.
            async with slots:
                with contextlib.suppress(UserNotFound, InvalidId):
                    async with audited(request, "reset", check_user_id(user_id)):
                        await request.execute(user_id, commands.DeleteVectorstore())
                    forget_at_targets(request, user_id)

        await asyncio.gather(*(delete(each) for each in {*stored, *open_now} if request.caller.may_touch(each)))
        return reply(True)


@route(
    "/api/v1/{rest:path}",
    http_method=["GET", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD"],
    status_code=410,
    include_in_schema=False,
)
async def refuse_v1(request: Call, rest: Rest) -> Response[Any]:
    """Say, as Chroma's server does, that the first version of its protocol is gone."""
    body = {"error": "Unimplemented", "message": "The v1 API is deprecated. Please use /v2 apis"}
    return reply(body, 410)
