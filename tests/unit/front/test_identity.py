"""Identity: whatever a path looks like, what reaches a shard is a user whom the token allows."""

from __future__ import annotations

import asyncio
import hashlib
import json
from functools import cache
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from litestar.routes import HTTPRoute

from tests.unit.api.parts import FakeRouter, application, talk
from vectorpool.api.callers import Callers
from vectorpool.front.pipeline import Pipeline
from vectorpool.identity.caller import Caller

ALICE = b"alices-secret"
BOTH = b"another-secret"
OPERATOR = b"operators-secret"
OWN, OTHER = "alice", "bob"

CALLERS = Callers(
    {
        hashlib.sha256(ALICE).digest(): Caller("alice", frozenset({OWN})),
        hashlib.sha256(BOTH).digest(): Caller("both", frozenset({OWN, OTHER})),
        hashlib.sha256(OPERATOR).digest(): Caller("operator", is_admin=True),
    }
)


@cache
def _built() -> tuple[Pipeline, FakeRouter]:
    router = FakeRouter()
    app = application(router)
    app.identity.callers = CALLERS
    return app, router


def guarded() -> tuple[Pipeline, FakeRouter]:
    """Return the application, built once because that takes longer than many requests, and its router, emptied."""
    app, router = _built()
    router.commands.clear()
    return app, router


async def ask(
    app: Pipeline, method: str, raw_path: str, token: bytes | None = ALICE, body: bytes = b"{}", root_path: str = ""
) -> tuple[int, dict[str, str], bytes]:
    """Send a path as it stands, which an HTTP client would tidy first; decode it as the HTTP server does."""
    path, _, query = raw_path.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": root_path + unquote(path),
        "raw_path": (root_path + path).encode("ascii"),
        "root_path": root_path,
        "query_string": query.encode("ascii"),
        "headers": [(b"host", b"vectorpool"), (b"content-length", str(len(body)).encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    if token is not None:
        scope["headers"].append((b"authorization", b"Bearer " + token))
    sent: list[dict[str, Any]] = []

    parts: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    complete = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if parts:
            return parts.pop()
        # As a server says it: when the answer is complete.
        await complete.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            complete.set()

    await app(scope, receive, send)  # type: ignore[arg-type]
    headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


# --- Bypasses ----------------------------------------------------------------------------------------

# Each is a way to write a segment, or what stands between two, that somebody may read differently.
ENCODED = "".join(f"%{ord(char):02x}" for char in OTHER)
SEGMENTS = [
    OWN, OTHER, ENCODED, "%62ob", "BOB", "Bob", "bob%20", "%20bob", "bob%00", "bob;alice", "bob%3Balice", "alice%2Fbob",
    "alice%2F..%2Fbob", "alice%5c..%5cbob", "%2e%2e", "..", ".", "%2e", "bob%2F", "%2Fbob", "%252e%252e", "bob%252F",
    "alice%3Fx", "alice%23", "*", "%2A", "b%C3%B6b", "bob%FF", "users", "Users", "%75sers", "USERS", "admin", "%61dmin",
    "avatars", "7", "documents", "document%73", "a.txt", "collections", "collection%73", "notes", "count", "fork",
    "records", "query", "health", "live", "schema", "api", "v2", "tenants", "pool", "evict", "lost", "databases",
]  # fmt: skip
JOINTS = ["/", "/", "/", "/", "//", "/./", "/../", "%2F", "/%2F", "%2f/", "\\", "%5C", "/%2e%2e/", ";/"]
HEADS = [
    "/users/",
    "/users/",
    "/%75sers/",
    "//users/",
    "/users//",
    "/users%2F",
    "/admin/users/",
    "/api/v2/tenants/",
    "/",
]

paths = st.builds(
    lambda head, parts, last, tail: head + "".join(part + joint for part, joint in parts) + last + tail,
    st.sampled_from(HEADS),
    st.lists(st.tuples(st.sampled_from(SEGMENTS), st.sampled_from(JOINTS)), max_size=6),
    st.sampled_from(SEGMENTS),
    st.sampled_from(["", "", "/", "//", "%2F", "?user_id=bob", "?documents=true"]),
)
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@given(path=paths, method=st.sampled_from(METHODS))
@example(path="//users//bob", method="DELETE")
@example(path="/%75sers/bob", method="DELETE")
@example(path="/users/alice%2F..%2Fbob", method="GET")
@example(path="/users/alice/../bob", method="GET")
@example(path="/users/%62ob/collections", method="GET")
@example(path="/users/bob/", method="GET")
@example(path="/health/../users/bob", method="GET")
@example(path="/users/alice/avatars/7/documents/..%2F..%2F..%2F..%2Fbob", method="GET")
@settings(max_examples=600, deadline=None)
async def test_no_path_reaches_another_user(path: str, method: str) -> None:
    """However a path is written, a command that it causes is for the token's own user, and nobody operates with it."""
    app, router = guarded()
    status, _, _ = await ask(app, method, path)
    assert {user for user, _ in router.commands} <= {OWN}, path
    kinds = {type(command).__name__ for _, command in router.commands}
    assert not kinds & {"Hydrate", "Flush", "Evict", "Verify", "LastVerification"}, path
    # Behind a command of its own, some handlers do not understand what the fake router answers.
    assert status < 500 or router.commands, path


@given(path=paths, method=st.sampled_from(METHODS))
@example(path="/users/bob", method="GET")
@example(path="//users/bob", method="GET")
@example(path="/users/bob%2F", method="GET")
@example(path="/api/v2/../../users/bob", method="GET")
@settings(max_examples=300, deadline=None)
async def test_no_path_gets_in_without_a_token(path: str, method: str) -> None:
    """Without a token nothing reaches a shard, and only what is open, or an ambiguous path, is anything but 401."""
    app, router = guarded()
    status, _, body = await ask(app, method, path, token=None)
    assert router.commands == [], path
    is_ambiguous = status == 400 and any(why in body for why in (b"empty segment", b"encoded slash", b"not UTF-8"))
    if status != 401 and not is_ambiguous:
        assert path.replace("%2F", "/").strip("/").startswith(("health", "schema", "api/v2")), (path, status)


@given(path=paths, method=st.sampled_from(METHODS))
@settings(max_examples=200, deadline=None)
async def test_an_operators_token_reaches_no_users_data(path: str, method: str) -> None:
    """What an operator's token causes is an operator's command."""
    app, router = guarded()
    await ask(app, method, path, token=OPERATOR)
    kinds = {type(command).__name__ for _, command in router.commands}
    assert kinds <= {"Hydrate", "Flush", "Evict", "Verify", "LastVerification"}, path


@pytest.mark.parametrize("root_path", ["/mounted", "/users", "/alice"])
async def test_a_root_path_is_no_way_round(root_path: str) -> None:
    """Mounted below another path, the guard still reads the path as the router does."""
    app, router = guarded()
    for path in ("/users/bob/lost", "/users/bob/collections", "/admin/pool"):
        assert (await ask(app, "GET", path, root_path=root_path))[0] in (400, 403, 404), path
    assert router.commands == []
    await ask(app, "GET", "/users/alice/lost", root_path="/mounted")
    assert [user for user, _ in router.commands] == [OWN]


async def test_the_bypasses_are_near_to_what_is_allowed() -> None:
    """The pieces of the paths above, put together rightly, do reach a shard: nothing else refuses them."""
    app, router = guarded()
    for path in ("/users/alice/lost", "/%75sers/%61lice/lost/", "/users/alice/collections/notes/count"):
        assert (await ask(app, "GET", path))[0] == 200
    assert [user for user, _ in router.commands] == [OWN] * 3
    assert (await ask(app, "POST", "/admin/users/bob/evict", token=OPERATOR))[0] == 200
    assert (await ask(app, "GET", "/users/%62ob/lost", token=BOTH))[0] == 200
    assert [user for user, _ in router.commands[3:]] == [OTHER] * 2


# --- Every route -------------------------------------------------------------------------------------


def templates() -> list[tuple[str, str]]:
    """Return method and path of every route, with an example in the place of each parameter."""
    found = set()
    for route in guarded()[0].app.routes:
        if isinstance(route, HTTPRoute):
            parts = [part if isinstance(part, str) else f"{{{part.name}}}" for part in route.path_components]
            found.update((method, "/" + "/".join(parts)) for method in route.methods if method != "OPTIONS")
    return sorted(found)


def test_every_route_has_its_user_where_the_guard_looks() -> None:
    """A route belongs to a family that the guard knows, and a user in its path stands at that family's place."""
    assert len(templates()) > 40
    for _, path in templates():
        parts = path.split("/")[1:]
        named = [at for at, part in enumerate(parts) if part in ("{user_id}", "{tenant}")]
        match parts:
            case ["users", "{user_id}", *_]:
                assert named == [1], path
            case ["vectorflow", "users", "{user_id}", "avatars", "{avatar_id}", *_]:
                assert named == [2], path
            case ["api", "v2", "tenants", _, *_]:
                assert named == [3], path
            case ["admin" | "metrics", *_]:
                assert named in ([], [2]), path
            case ["health" | "schema" | "api" | "embed", *_]:
                assert named == [], path
            case _:
                pytest.fail(f"{path} is of no family that the guard knows: teach it whom this route is about")


@pytest.mark.parametrize(("method", "path"), templates())
async def test_every_route_asks(method: str, path: str) -> None:
    """Each route of a user or of operators is 401 without a token, and 403 with one that does not allow it."""
    app, router = guarded()
    filled = path.replace("{user_id}", OTHER).replace("{tenant}", OTHER).replace("{", "").replace("}", "")
    status, headers, _ = await ask(app, method, filled, token=None)
    if path.startswith(("/health", "/schema")):
        assert status != 401
    elif path.startswith(("/users/", "/admin/", "/api/v2/tenants/", "/metrics")):
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert (await ask(app, method, filled, token=b"unknown"))[0] == 401
        status, _, body = await ask(app, method, filled)
        assert status == 403
        answer = json.loads(body)
        assert answer.get("code") == "forbidden" or answer.get("error") == "AuthorizationError"
    assert router.commands == []


# --- What else ---------------------------------------------------------------------------------------


async def test_a_fork_needs_both_users() -> None:
    """The target of a fork is in the body, and the token must allow it too, whatever the body looks like."""
    app, router = guarded()
    for body in (b'{"user_id": "bob"}', b'{"user_id": "\\u0062ob"}', b'{"user_id": "alice", "user_id": "bob"}'):
        status, _, answer = await ask(app, "POST", "/users/alice/fork", body=body)
        assert (status, json.loads(answer)["code"]) == (403, "forbidden")
    assert (await ask(app, "POST", "/users/bob/fork", body=b'{"user_id": "alice"}'))[0] == 403
    assert router.commands == []
    assert (await ask(app, "POST", "/users/alice/fork", token=BOTH, body=b'{"user_id": "bob"}'))[0] == 201
    # The state is the caller's; what became of its documents is asked of the target.
    assert [user for user, _ in router.commands] == [OWN, OTHER]


@pytest.mark.parametrize(("token", "status", "name"), [(None, 401, "AuthError"), (ALICE, 403, "AuthorizationError")])
async def test_below_api_a_refusal_is_chromas(token: bytes | None, status: int, name: str) -> None:
    """Chroma's clients read the error's name and its message, and find no problem there."""
    path = "/api/v2/tenants/bob/databases/default_database/collections"
    got, headers, body = await ask(guarded()[0], "GET", path, token=token)
    assert (got, headers["content-type"]) == (status, "application/json")
    error = json.loads(body)
    assert set(error) == {"error", "message"} and error["error"] == name
    assert ("www-authenticate" in headers) is (status == 401)


async def test_an_id_that_says_two_things_is_refused_to_its_owner_too() -> None:
    """An allowed caller's path must be one path: empty segments and encoded slashes are an error in every spelling."""
    app, _ = guarded()
    for path in ("//users//alice", "/users//alice", "/%75sers/alice%2Fx", "/users/alice//lost", "/users/alice%5cx"):
        status, _, body = await ask(app, "GET", path)
        assert status in (400, 403), path
        assert json.loads(body)["code"] in ("invalid-id", "forbidden")
    # Where the guard can tell whom the path means, it is the path that is refused.
    assert (await ask(app, "GET", "//users//alice"))[0] == 400
    assert (await ask(app, "GET", "/users/alice/avatars/7/documents/a%2Fb"))[0] == 404
    assert (await ask(app, "GET", "/users/alice/avatars/7/documents/a%2F%2Fb"))[0] == 400


async def test_without_a_tokens_file_all_is_as_it_was() -> None:
    """No token is asked for, one that is sent is not looked at, and everybody may operate."""
    router = FakeRouter()
    async with talk(application(router)) as client:
        assert (await client.get("/users/bob/lost")).status_code == 200
        assert (await client.get("/users/bob/lost", headers={"Authorization": "Bearer x"})).status_code == 200
        assert (await client.get("/admin/pool")).status_code == 200
        assert (await client.post("/users/bob/fork", json={"user_id": "carol"})).status_code == 201
    assert [user for user, _ in router.commands] == ["bob", "bob", "bob", "carol"]
