"""The service as a worker reaches it: commands of a sync by HTTP, so that the instance that owns the user commits."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import httpx
import msgspec

from vectorpool.answers import Answer
from vectorpool.commands import Command
from vectorpool.context import RequestContext
from vectorpool.errors import ErrorWire, Forbidden, InternalError, ServiceUnavailable, Unauthenticated, VectorpoolError
from vectorpool.telemetry.spans import CURRENT, stage

COMMANDS_PATH: Final = "/users/{user_id}/avatars/{avatar_id}/commands"
MSGPACK: Final = "application/msgpack"
COMMIT_HEADER: Final = "X-Vectorpool-Commit"
CONSISTENCY_HEADER: Final = "X-Vectorpool-Consistency"
TRACEPARENT_HEADER: Final = "traceparent"
_TIMEOUT_S: Final = 300.0
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
            return await self._post(path, _encoder.encode(command), headers)

    async def _post(self, path: str, content: bytes, headers: dict[str, str]) -> Answer:
        if traceparent := CURRENT.get():
            headers[TRACEPARENT_HEADER] = traceparent
        try:
            response = await self._client.post(path, content=content, headers=headers)
        except (httpx.HTTPError, OSError) as error:
            raise ServiceUnavailable(
                f"The service at {self._client.base_url} does not answer ({type(error).__name__}). The job goes on "
                "when it does."
            ) from None
        if response.status_code == 200:
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
