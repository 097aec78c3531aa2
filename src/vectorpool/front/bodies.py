"""The bytes of bodies that arrived and are not answered yet: one budget for the instance, and a share for each user.

A body is refused by its announced length before any of it is read, and one without a length as soon as it exceeds what
is left. What arrived counts until its request ends, because until then something may hold it.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple, cast

from litestar.types import HTTPReceiveMessage, HTTPScope, Receive, Send

from vectorpool.api.refusals import send_refusal
from vectorpool.bounds import STREAMS, STREAMS_OF_USER
from vectorpool.errors import LimitExceeded, QueueFull
from vectorpool.front.stages import Stage, context_of, head_of
from vectorpool.settings import Settings

# Where the stage before says what the user may send.
BODY_BOUND_KEY: Final = "body_bound"


class BodyBound(NamedTuple):
    """The longest body that a user, or a token, may send; ``source`` says who set it."""

    limit: int
    source: str

    def refusal(self, length: int | None) -> LimitExceeded | None:
        """Return the error of a body of this length; None if it may be sent, or if the length is not known."""
        if length is None or length <= self.limit:
            return None
        return LimitExceeded(
            f"The body has {length} bytes or more; {self.limit} are allowed (request_bytes). Split the request.",
            extra={"limit_name": "request_bytes", "limit": self.limit, "limit_source": self.source, "count": length},
        )


class BodiesStage:
    """Refuses bodies beyond ``max_body_bytes_under_way``, and beyond half of that for one user."""

    def __init__(self, inner: Stage, settings: Settings) -> None:
        self._inner = inner
        self._max_body_bytes = settings.max_body_bytes
        # One body of the usual limit always has room while nothing else is under way.
        self._max_of_user = max(settings.max_body_bytes_under_way // 2, settings.max_body_bytes)
        self._max_bytes = max(settings.max_body_bytes_under_way, self._max_of_user)
        self._of_users: dict[str, int] = {}
        self._bytes = 0
        self._streams: Counter[str] = Counter()

    @property
    def bytes_under_way(self) -> int:
        """Bytes of bodies that count at the moment."""
        return self._bytes

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        head = head_of(scope)
        announced, place = head.length, head.place
        user = place.user or context_of(scope).caller
        if place.takes_stream and scope["method"] == "PUT":
            # Its handler has a batch and a line in memory, whatever its length.
            await self._stream(user, scope, receive, send)
            return
        # An archive is written to disk as it comes, with a bound of its own.
        is_kept_on_disk = place.takes_archive and scope["method"] == "PUT"
        if is_kept_on_disk or announced == 0 or (announced is not None and announced > self._max_body_bytes):
            # A body that is too long for any request is refused as that, unread, where its limit is known.
            await self._inner(scope, receive, send)
            return
        try:
            self._check(user, announced or 0)
        except QueueFull as error:
            await send_refusal(error, scope, send)
            return
        taken = 0
        bound: BodyBound | None = scope["state"].get(BODY_BOUND_KEY)

        async def counted() -> HTTPReceiveMessage:
            nonlocal taken
            message = cast(HTTPReceiveMessage, await receive())
            if message["type"] == "http.request" and (size := len(message["body"])):
                self._check(user, size)
                taken += size
                self._bytes += size
                self._of_users[user] = self._of_users.get(user, 0) + size
                if bound is not None and (too_large := bound.refusal(taken)) is not None:
                    raise too_large
            return message

        try:
            await self._inner(scope, counted, send)
        finally:
            self._bytes -= taken
            if taken:
                left = self._of_users.pop(user) - taken
                if left:
                    self._of_users[user] = left

    async def _stream(self, user: str, scope: HTTPScope, receive: Receive, send: Send) -> None:
        if self._streams.total() >= STREAMS or self._streams[user] >= STREAMS_OF_USER:
            refusal = QueueFull(
                f"{self._streams[user]} streams of this user are under way ({STREAMS_OF_USER} may), and "
                f"{self._streams.total()} on this instance ({STREAMS} may). Send the stream later."
            )
            await send_refusal(refusal, scope, send)
            return
        self._streams[user] += 1
        try:
            await self._inner(scope, receive, send)
        finally:
            self._streams[user] -= 1
            if not self._streams[user]:
                del self._streams[user]

    def _check(self, user: str, more: int) -> None:
        if self._bytes + more > self._max_bytes:
            raise QueueFull(
                f"{self._max_bytes} bytes of bodies are under way on this instance (max_body_bytes_under_way). Send "
                "the request again later."
            )
        if self._of_users.get(user, 0) + more > self._max_of_user:
            raise QueueFull(
                f"{self._max_of_user} bytes of this user's bodies are under way (half of max_body_bytes_under_way). "
                "Send fewer at a time."
            )
