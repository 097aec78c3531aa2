"""What tests of single stages need: a scope, an application behind the stage, and what was sent."""

from __future__ import annotations

from typing import Any

from vectorpool.api.call import CONTEXT_KEY
from vectorpool.context import RequestContext


def scope_of(path: str = "/users/42/lost", method: str = "GET", query: bytes = b"", **headers: str) -> Any:
    """Return the scope of a request with a context; a header's name has underscores for hyphens."""
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "state": {CONTEXT_KEY: RequestContext("an-id", timeout_s=30.0)},
    }


class Answering:
    """An application that answers 200, and remembers the scopes that it saw."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope)
        await answer(send)


async def answer(send: Any, status: int = 200) -> None:
    """Send a response with this status."""
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"{}", "more_body": False})


class Sent:
    """A ``send`` that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def __call__(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        """The status of the response."""
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        """The body of the response."""
        return b"".join(message["body"] for message in self.messages[1:])


async def nothing() -> Any:
    """Return the whole body of a request that has none."""
    return {"type": "http.request", "body": b"", "more_body": False}
