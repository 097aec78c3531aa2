"""The service as a worker reaches it: by HTTP, so that the instance that owns the user commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from vectorpool.answers import Answer
from vectorpool.commands import Command, Flush
from vectorpool.commitlog.format import MAX_FILES, MAX_STATE_BYTES
from vectorpool.context import RequestContext
from vectorpool.errors import ErrorWire, Forbidden, InternalError, ServiceUnavailable, Unauthenticated, VectorpoolError
from vectorpool.platform.tars import tar_chunks, tar_size
from vectorpool.platform.trees import regular_files
from vectorpool.sources import SYSTEM
from vectorpool.telemetry.spans import CURRENT, stage

COMMANDS_PATH: Final = "/users/{user_id}/avatars/{avatar_id}/commands"
USER_COMMANDS_PATH: Final = "/users/{user_id}/commands"
DIRECTORY_PATH: Final = "/users/{user_id}/directory"
TAR: Final = "application/x-tar"
MSGPACK: Final = "application/msgpack"
COMMIT_HEADER: Final = "X-Vectorpool-Commit"
CONSISTENCY_HEADER: Final = "X-Vectorpool-Consistency"
TRACEPARENT_HEADER: Final = "traceparent"
_TIMEOUT_S: Final = 300.0
# The service unpacks a directory while it comes, and then commits it.
_ADOPT_S: Final = 900.0
_CONNECTIONS: Final = 32
_encoder: Final = msgspec.msgpack.Encoder()


class ServiceRouter:
    """A Router whose shards are behind a URL. ``key`` is a token that may touch every user."""

    def __init__(self, url: str, key: str | None) -> None:
        headers = {"Content-Type": MSGPACK, "Accept": MSGPACK}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
        # The worker's service is where it was told; a proxy of the environment is for the rest of the world.
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/"), headers=headers, timeout=_TIMEOUT_S, limits=limits, trust_env=False
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def execute(self, user_id: str, command: Command, context: RequestContext) -> Answer:
        """Return the answer; raise the VectorpoolError of the service, ServiceUnavailable if it does not answer."""
        avatar_id: str = getattr(command, "avatar_id", "")
        path = COMMANDS_PATH.format(user_id=quote(user_id, safe=""), avatar_id=quote(avatar_id, safe=""))
        headers: dict[str, str] = {}
        if context.read.consistency is not None:
            headers[CONSISTENCY_HEADER] = context.read.consistency
        with stage(type(command).__name__, kind="client"):
            return await self._send("POST", path, content=_encoder.encode(command), headers=headers)

    async def flush(self, user_id: str) -> None:
        """Have what was acknowledged to a user committed. Raises as ``execute`` does."""
        path = USER_COMMANDS_PATH.format(user_id=quote(user_id, safe=""))
        with stage("Flush", kind="client"):
            await self._send("POST", path, content=_encoder.encode(Flush()), headers={})

    async def adopt(self, user_id: str, directory: Path) -> int:
        """Have a directory committed as the vectorstore of a user who has none; return the commit.

        Raises as ``execute`` does, and VectorstoreExists, InvalidRequest, LimitExceeded.
        """
        sizes = await asyncio.to_thread(regular_files, directory, max_files=MAX_FILES, max_bytes=MAX_STATE_BYTES)
        time_s = SYSTEM.now_ms() // 1000
        chunks = tar_chunks(directory, sizes, time_s)

        async def content() -> AsyncIterator[bytes]:
            while (data := await asyncio.to_thread(next, chunks, None)) is not None:
                yield data

        headers = {"Content-Type": TAR, "Content-Length": str(tar_size(sizes, time_s))}
        path = DIRECTORY_PATH.format(user_id=quote(user_id, safe=""))
        with stage("Adopt", kind="client"):
            answer = await self._send("PUT", path, content=content(), headers=headers, timeout=_ADOPT_S)
        return answer.commit

    async def _send(self, method: str, path: str, *, headers: dict[str, str], **more: Any) -> Answer:
        if traceparent := CURRENT.get():
            headers[TRACEPARENT_HEADER] = traceparent
        try:
            response = await self._client.request(method, path, headers=headers, **more)
        except (httpx.HTTPError, OSError) as error:
            raise ServiceUnavailable(
                f"The service at {self._client.base_url} does not answer ({type(error).__name__}). The job goes on "
                "when it does."
            ) from None
        if response.is_success:
            return Answer(response.content, int(response.headers.get(COMMIT_HEADER, 0)))
        raise _error_of(response)


def _error_of(response: httpx.Response) -> VectorpoolError:
    if response.headers.get("content-type", "").startswith(MSGPACK):
        try:
            return VectorpoolError.from_wire(msgspec.msgpack.decode(response.content, type=ErrorWire))
        except msgspec.DecodeError:
            return InternalError("The service answered what is no error of it.")
    # A stage before the route, or a proxy before the service.
    if response.status_code in (429, 502, 503, 504):
        return ServiceUnavailable(f"The service answered {response.status_code}. The job goes on when it can.")
    if response.status_code == 401:
        return Unauthenticated("The service does not know the worker's token. Set VECTORPOOL_SERVICE_TOKEN to one.")
    if response.status_code == 403:
        return Forbidden("The worker's token may not touch every user. Set VECTORPOOL_SERVICE_TOKEN to one that may.")
    return InternalError(f"The service answered {response.status_code} to a worker's command.")
