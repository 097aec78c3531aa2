"""The short path: requests that a warm user sends all the time skip the framework's router.

They are query, get, count, add and upsert of a collection, and in Chroma's protocol query, get, add and upsert. The
framework's router resolves dependencies, validates what they return and negotiates the response. That costs more than
the rest of the front's work for such a request. So this stage recognises exactly these requests by their path, and
answers them by the same functions that the controllers call. Every other request goes on to the application, whose
routes are also the ones that are documented: escapes or a query in the path, another method, a body without a length or
beyond the limit, a header that is sent twice, or a body that is large enough to pass on in parts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

from litestar import Request, Response
from litestar.types import HTTPResponseStartEvent, HTTPScope, Receive, Send

from vectorpool.answers import Answer
from vectorpool.api.chroma.older_clients import is_older
from vectorpool.api.chroma.requests import API_PATH, COLLECTION_PATH, check_content_type, pass_body
from vectorpool.api.namespaces import AVATAR_PATH, USER_PATH, Namespace, avatar_namespace, own_namespace
from vectorpool.api.problems import COMMIT_HEADER
from vectorpool.api.records import add_to, count_in, get_from, query_in, upsert_into
from vectorpool.api.service import Service
from vectorpool.chroma_bodies import Operation, Target
from vectorpool.context import RequestContext
from vectorpool.front.stages import Head, Stage, context_of, head_of

Native: TypeAlias = Callable[[bytes, Namespace, Service, RequestContext, str], Awaitable[Answer]]
# Answers a request that was recognised, from its body.
Answering: TypeAlias = Callable[[HTTPScope, bytes, Service, RequestContext], Awaitable[Answer]]
# Converts an exception to the response that the application gives for it.
Refuse: TypeAlias = Callable[[Request[Any, Any, Any], Exception], Response[bytes]]

# The template of a path, the status of success, and the function.
Found: TypeAlias = tuple[str, int, Answering]

_COMMIT: Final = COMMIT_HEADER.lower().encode()
_JSON: Final = "application/json"


def _readable(template: str) -> str:
    return template.replace(":str}", "}")


_OWN: Final = _readable(USER_PATH) + "/collections/{name}/"
_OF_AVATAR: Final = _readable(AVATAR_PATH) + "/collections/{name}/"
_OF_CHROMA: Final = _readable(API_PATH + COLLECTION_PATH) + "/"
# The operations of Chroma's protocol that are answered here, with the status of success.
_CHROMAS: Final[dict[str, tuple[Operation, int]]] = {
    "query": ("query", 200),
    "get": ("get", 200),
    "upsert": ("upsert", 200),
    "add": ("add", 201),
}
_LAST: Final = frozenset({"query", "get", "count", "records", *_CHROMAS})
# A longer body goes to the application: of Chroma's protocol it is passed to the shard while it arrives, and one of the
# native API is put together beside the event loop.
_WHOLE_BYTES: Final = 256 * 1024

# Paths that are remembered, and the longest of them. One too many makes the memory begin anew.
_MAX_FOUND: Final = 1024
_MAX_REMEMBERED: Final = 512
_found: dict[tuple[str, bytes], Found | None] = {}


class ShortPathStage:
    """Answers the requests that it recognises; ``service`` is called for each, because it may be opened later."""

    def __init__(self, inner: Stage, service: Callable[[], Service], refuse: Refuse, max_body_bytes: int) -> None:
        self._inner = inner
        self._service = service
        self._refuse = refuse
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on untouched."""
        found = None
        head = head_of(scope)
        if not scope["query_string"] and not head.has_repeated and not scope.get("root_path"):
            length = self._body_bytes(head, scope["method"])
            found = None if length is None else _recognised(scope["method"], scope["raw_path"])
        if found is None:
            await self._inner(scope, receive, send)
            return
        template, status, answering = found
        scope["path_template"] = template
        try:
            body = await _body(receive)
            if body is None:
                return
            answer = await answering(scope, body, self._service(), context_of(scope))
        except Exception as error:
            request = Request[Any, Any, Any](scope, receive, send)
            await _send_response(self._refuse(request, error), send)
        else:
            headers = [(b"content-type", b"application/json"), (_COMMIT, b"%d" % answer.commit)]
            await _send(status, headers, answer.body, send)

    def _body_bytes(self, head: Head, method: str) -> int | None:
        """Return the length of the body if it is known and allowed, and plain; the server holds the sender to it."""
        length, fields = head.length, head.fields
        most = min(self._max_body_bytes, _WHOLE_BYTES)
        if length is None or length > most or b"content-encoding" in fields:
            return None
        return length if method == "GET" or b"content-length" in fields else None


def _recognised(method: str, raw_path: bytes) -> Found | None:
    """Return what ``_find`` does, which is remembered."""
    key = method, raw_path
    try:
        return _found[key]
    except KeyError:
        found = _find(method, raw_path)
    if len(raw_path) <= _MAX_REMEMBERED:
        if len(_found) >= _MAX_FOUND:
            _found.clear()
        _found[key] = found
    return found


def _find(method: str, raw_path: bytes) -> Found | None:
    """Return (template, status, function) of a request that is answered here."""
    if b"%" in raw_path or not raw_path.isascii():
        return None
    parts = raw_path.decode("ascii").split("/")
    if parts[-1] not in _LAST:
        return None
    match method, parts:
        case "POST", ["", "users", user_id, "collections", name, "query"]:
            return _OWN + "query", 200, _native(query_in, user_id, None, name)
        case "POST", ["", "users", user_id, "avatars", avatar_id, "collections", name, "query"]:
            return _OF_AVATAR + "query", 200, _native(query_in, user_id, avatar_id, name)
        case "POST", ["", "users", user_id, "collections", name, "records", "get"]:
            return _OWN + "records/get", 200, _native(get_from, user_id, None, name)
        case "POST", ["", "users", user_id, "avatars", avatar_id, "collections", name, "records", "get"]:
            return _OF_AVATAR + "records/get", 200, _native(get_from, user_id, avatar_id, name)
        case "GET", ["", "users", user_id, "collections", name, "count"]:
            return _OWN + "count", 200, _native(count_in, user_id, None, name)
        case "GET", ["", "users", user_id, "avatars", avatar_id, "collections", name, "count"]:
            return _OF_AVATAR + "count", 200, _native(count_in, user_id, avatar_id, name)
        case "PUT", ["", "users", user_id, "collections", name, "records"]:
            return _OWN + "records", 200, _native(upsert_into, user_id, None, name)
        case "PUT", ["", "users", user_id, "avatars", avatar_id, "collections", name, "records"]:
            return _OF_AVATAR + "records", 200, _native(upsert_into, user_id, avatar_id, name)
        case "POST", ["", "users", user_id, "collections", name, "records"]:
            return _OWN + "records", 201, _native(add_to, user_id, None, name)
        case "POST", ["", "users", user_id, "avatars", avatar_id, "collections", name, "records"]:
            return _OF_AVATAR + "records", 201, _native(add_to, user_id, avatar_id, name)
        case "POST", ["", "api", "v2", "tenants", tenant, "databases", database, "collections", collection, name]:
            if name in _CHROMAS and tenant and database and collection:
                operation, status = _CHROMAS[name]
                return _OF_CHROMA + name, status, _chromas(tenant, Target(operation, database, collection))
    return None


def _native(function: Native, user_id: str, avatar_id: str | None, name: str) -> Answering:
    async def answer(scope: HTTPScope, body: bytes, service: Service, context: RequestContext) -> Answer:
        namespace = own_namespace(user_id) if avatar_id is None else avatar_namespace(user_id, avatar_id)
        return await function(body, namespace, service, context, name)

    return answer


def _chromas(tenant: str, target: Target) -> Answering:
    async def answer(scope: HTTPScope, body: bytes, service: Service, context: RequestContext) -> Answer:
        async def whole() -> AsyncIterator[bytes]:
            yield body

        fields = head_of(scope).fields
        content_type, agent = _text(fields, b"content-type"), _text(fields, b"user-agent")
        if content_type != _JSON:
            check_content_type(content_type)
        older = is_older(service, agent, content_type)
        return await pass_body(service, context, tenant, target, whole(), is_older=older)

    return answer


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = fields.get(name)
    return None if value is None else value.decode("latin-1")


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
