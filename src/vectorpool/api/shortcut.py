"""The short way of the three requests that a warm user sends all the time: query, get and count of a collection.

The router of the web framework resolves dependencies, validates what they return and negotiates the response for every
request, which costs more than everything else that the front does for such a read. So a request that is exactly one of
the three is recognised by its path and answered by the same functions that the controllers call. Whatever is out of the
ordinary (escapes or a question mark in the path, another method, a body without a length or beyond the limit) goes the
long way, which is also the one that is documented.

It runs behind ``guarding.refuse``, like every route.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from litestar import Request, Response
from litestar.types import HTTPResponseStartEvent, HTTPScope, Receive, Send

from vectorpool.answers import Answer
from vectorpool.api.places import AVATAR_PATH, USER_PATH, Place, avatar_place, own_place
from vectorpool.api.problems import COMMIT_HEADER
from vectorpool.api.reading import for_request
from vectorpool.api.records import count_in, get_from, query_in
from vectorpool.api.service import Service

Read: TypeAlias = Callable[[bytes, Place, Service, str], Awaitable[Answer]]
# What turns an exception into the response that the long way would give.
Refuse: TypeAlias = Callable[[Request[Any, Any, Any], Exception], Response[bytes]]

_COMMIT: Final = COMMIT_HEADER.lower().encode()


def _readable(template: str) -> str:
    return template.replace(":str}", "}")


_OWN: Final = _readable(USER_PATH) + "/collections/{name}/"
_OF_AVATAR: Final = _readable(AVATAR_PATH) + "/collections/{name}/"


class Shortcut:
    """Answers what it can; ``service`` is asked for at each request, because it may be opened after the application."""

    def __init__(self, service: Callable[[], Service], refuse: Refuse, max_body_bytes: int) -> None:
        self._service = service
        self._refuse = refuse
        self._max_body_bytes = max_body_bytes

    async def answer(self, scope: HTTPScope, receive: Receive, send: Send) -> bool:
        """Answer a request and return True, or leave it untouched and return False."""
        if scope["query_string"] or not self._has_plain_body(scope):
            return False
        found = _find(scope["method"], scope["raw_path"])
        if found is None:
            return False
        template, user_id, avatar_id, name, read = found
        scope["path_template"] = template
        request = Request[Any, Any, Any](scope, receive, send)
        try:
            body = await _body(receive)
            if body is None:
                return True
            place = own_place(user_id) if avatar_id is None else avatar_place(user_id, avatar_id)
            answer = await read(body, place, for_request(self._service(), request), name)
        except Exception as error:
            await _send_response(self._refuse(request, error), send)
        else:
            headers = [(b"content-type", b"application/json"), (_COMMIT, b"%d" % answer.commit)]
            await _send(200, headers, answer.body, send)
        return True

    def _has_plain_body(self, scope: HTTPScope) -> bool:
        """Whether the length of the body is known and allowed; the server holds the sender to it."""
        length = b"0" if scope["method"] == "GET" else b""
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = value
            elif name in (b"transfer-encoding", b"content-encoding"):
                return False
        return length.isdigit() and len(length) < 20 and int(length) <= self._max_body_bytes


def _find(method: str, raw_path: bytes) -> tuple[str, str, str | None, str, Read] | None:
    """Return (template, user, avatar, collection, function) of a request that goes the short way."""
    if b"%" in raw_path or not raw_path.isascii():
        return None
    match method, raw_path.decode("ascii").split("/"):
        case "POST", ["", "users", user_id, "collections", name, "query"]:
            return _OWN + "query", user_id, None, name, query_in
        case "POST", ["", "users", user_id, "avatars", avatar_id, "collections", name, "query"]:
            return _OF_AVATAR + "query", user_id, avatar_id, name, query_in
        case "POST", ["", "users", user_id, "collections", name, "records", "get"]:
            return _OWN + "records/get", user_id, None, name, get_from
        case "POST", ["", "users", user_id, "avatars", avatar_id, "collections", name, "records", "get"]:
            return _OF_AVATAR + "records/get", user_id, avatar_id, name, get_from
        case "GET", ["", "users", user_id, "collections", name, "count"]:
            return _OWN + "count", user_id, None, name, count_in
        case "GET", ["", "users", user_id, "avatars", avatar_id, "collections", name, "count"]:
            return _OF_AVATAR + "count", user_id, avatar_id, name, count_in
    return None


async def _body(receive: Receive) -> bytes | None:
    """Return the whole body, or None if the caller is gone."""
    parts = []
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return None
        parts.append(event["body"])
        if not event.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _send_response(response: Response[bytes], send: Send) -> None:
    headers = [(b"content-type", (response.media_type or "").encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in response.headers.items()]
    assert response.status_code is not None
    await _send(response.status_code, headers, response.content, send)


async def _send(status: int, headers: list[tuple[bytes, bytes]], body: bytes, send: Send) -> None:
    start: HTTPResponseStartEvent = {
        "type": "http.response.start",
        "status": status,
        "headers": [*headers, (b"content-length", b"%d" % len(body))],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
