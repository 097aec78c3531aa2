"""Every route of both protocols, as the application itself lists them, with every kind of token.

A route that is added and not thought of fails here: it is open, or its POST reads and is not listed, or it is about a
user or an avatar that the guard does not find.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from litestar.routes import HTTPRoute

from tests.support.tokens import Clock
from tests.unit.api.parts import FakeRouter, application
from tests.unit.front.test_identity import JOINTS, METHODS, SEGMENTS, ask
from vectorpool import commands
from vectorpool.api.callers import Callers
from vectorpool.context import RequestContext
from vectorpool.errors import UserNotFound
from vectorpool.front.pipeline import Pipeline
from vectorpool.identity.caller import Caller
from vectorpool.settings import Settings

WRITER, READER, AVATAR, AVATAR_READER, OPERATOR = b"writer", b"reader", b"avatar", b"avatar-reader", b"operator"
ALICE, BOB = "alice", "bob"
COLLECTION = "0a1b2c3d-0000-4000-8000-000000000000"

CALLERS = Callers(
    {
        hashlib.sha256(token).digest(): caller
        for token, caller in {
            WRITER: Caller("writer", frozenset({ALICE})),
            READER: Caller("reader", frozenset({ALICE}), may_write=False),
            AVATAR: Caller("avatar", frozenset({ALICE}), avatars=frozenset({"7"})),
            AVATAR_READER: Caller("avatar", frozenset({ALICE}), avatars=frozenset({"7"}), may_write=False),
            OPERATOR: Caller("operator", is_admin=True),
        }.items()
    }
)

# What needs no token.
OPEN = {
    "/health/live",
    "/health/ready",
    "/schema",
    "/schema/openapi.json",
    "/schema/{path}",
    "/api/v2",
    "/api/v2/heartbeat",
    "/api/v2/version",
    "/api/v2/healthcheck",
    "/api/v2/pre-flight-checks",
}
# What needs a token that may operate the service.
OF_OPERATORS = ("/admin/", "/metrics")
# What every caller may ask: it says nothing of a user that the caller did not say itself.
OF_ALL = {"/api/v2/auth/identity", "/api/v1/{rest}"}
# What every caller of any user's data may ask, readers too: texts are embedded and nothing is stored.
OF_ANY = {"/embed"}
# The POST requests that change nothing, by the ends of their paths.
POST_READS = (
    "/users/{user_id}/collections/{name}/query",
    "/users/{user_id}/collections/{name}/records/get",
    "/users/{user_id}/avatars/{avatar_id}/query",
    "/users/{user_id}/avatars/{avatar_id}/collections/{name}/query",
    "/users/{user_id}/avatars/{avatar_id}/collections/{name}/records/get",
    "/vectorflow/users/{user_id}/avatars/{avatar_id}/jobs/status",
    "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection}/get",
    "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection}/query",
    "/api/v2/tenants/{tenant}/databases/{database}/collections/{collection}/search",
)
READING = ("GET", "HEAD", "OPTIONS")
# Commands that change nothing and are no Read.
QUIET = (
    commands.Inspect,
    commands.ListCommits,
    commands.ListBackups,
    commands.GetBackup,
)


@cache
def _built() -> tuple[Pipeline, FakeRouter]:
    router = FakeRouter()
    app = application(router, Settings(allow_reset=True))
    app.identity.callers = CALLERS
    return app, router


def guarded() -> tuple[Pipeline, FakeRouter]:
    app, router = _built()
    router.commands.clear()
    return app, router


def routes() -> list[tuple[str, str]]:
    """Return method and template of every route of the application, and HEAD where there is GET."""
    found = set()
    for route in _built()[0].app.routes:
        assert isinstance(route, HTTPRoute), f"{route.path} is served past the stages of requests"
        parts = [part if isinstance(part, str) else f"{{{part.name}}}" for part in route.path_components]
        found.update((method, "/" + "/".join(parts)) for method in route.methods)
        if "GET" in route.methods:
            found.add(("HEAD", "/" + "/".join(parts)))
    return sorted(found)


def filled(template: str, user: str = ALICE, avatar: str = "7", database: str = "avatar-7") -> str:
    """Return a path of a template."""
    values = {"user_id": user, "tenant": user, "avatar_id": avatar, "database": database, "collection": COLLECTION}
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", value)
    return template.replace("{", "").replace("}", "")


def bodies(method: str) -> Iterator[bytes]:
    """Yield bodies that several routes take."""
    if method in READING:
        yield b""
        return
    yield b"{}"
    yield b'{"ids": ["a"], "embeddings": [[1, 2]], "query_embeddings": [[1, 2]]}'
    yield b'{"name": "notes"}'
    yield b'{"records": [{"id": "a", "embedding": [1, 2]}]}'
    yield b'{"user_id": "alice"}'


def reads(method: str, template: str) -> bool:
    return method in READING or (method == "POST" and template in POST_READS)


def is_about_a_user(template: str) -> bool:
    return "{tenant}" in template or template.startswith(("/users/{user_id}", "/vectorflow/users/{user_id}"))


ROUTES = routes()


def test_the_application_lists_its_routes() -> None:
    """Both protocols are among them, and each name above is a route."""
    templates = {template for _, template in ROUTES}
    assert len(templates) > 55
    assert OPEN | OF_ALL | OF_ANY | set(POST_READS) <= templates
    for template in templates:
        assert template in OPEN | OF_ALL | OF_ANY or template.startswith(
            (
                "/users/{user_id}",
                "/vectorflow/users/{user_id}",
                *OF_OPERATORS,
                "/api/v2/tenants",
                "/api/v2/reset",
                "/api/v2/collections/",
            )
        ), f"{template} is of no family that the guard knows: teach vectorpool.identity.access whom it is about"


@pytest.mark.parametrize(("method", "template"), ROUTES)
async def test_no_route_is_unguarded(method: str, template: str) -> None:
    """Without a token, and with an unknown one, every route but the open ones is 401, and reaches no shard."""
    app, router = guarded()
    for token in (None, b"unknown", b"a.b.c"):
        status, headers, _ = await ask(app, method, filled(template), token=token)
        if template in OPEN:
            assert status not in (401, 403)
        else:
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert router.commands == []


@pytest.mark.parametrize(("method", "template"), ROUTES)
async def test_a_token_of_one_user_gets_nothing_of_another(method: str, template: str) -> None:
    """On each route bob's path is 403 to alice's token, and whatever else it sends, only alice's shard is asked."""
    app, router = guarded()
    for body in bodies(method):
        status, _, answer = await ask(app, method, filled(template, BOB), body=body, token=WRITER)
        if is_about_a_user(template) or template.startswith(OF_OPERATORS):
            assert status == 403
            code = json.loads(answer) if method != "HEAD" else {}
            assert code.get("code", code.get("error", "forbidden")) in ("forbidden", "AuthorizationError")
    assert {user for user, _ in router.commands} <= {ALICE}
    for name in ("user_id", "name"):
        await ask(app, method, filled(template), body=json.dumps({name: BOB}).encode(), token=WRITER)
    assert {user for user, _ in router.commands} <= {ALICE}
    # ``name`` is a backup's, a database's or a collection's too; of tenants and forks alone it is a user's.
    targets = {getattr(command, "target_user_id", ALICE) for _, command in router.commands}
    assert targets <= {ALICE}


@pytest.mark.parametrize(("method", "template"), ROUTES)
async def test_a_reader_reads_everything_and_writes_nothing(method: str, template: str) -> None:
    """A token without write reaches each route that reads, and is 403 on each that does not, whatever its body."""
    app, router = guarded()
    for body in bodies(method):
        status, _, _ = await ask(app, method, filled(template), body=body, token=READER)
        if template in OPEN | OF_ALL | OF_ANY:
            continue
        may = reads(method, template) and not template.startswith(OF_OPERATORS)
        assert (status != 403) == may, (status, body)
    for _, command in router.commands:
        assert isinstance(command, (commands.Read, *QUIET)) and not command.is_change, type(command).__name__


@pytest.mark.parametrize(("method", "template"), ROUTES)
async def test_an_avatars_token_sees_one_avatar(method: str, template: str) -> None:
    """It reaches the routes of its avatar in both protocols, all of them, and no other of its user."""
    app, router = guarded()
    places = [("7", "avatar-7"), ("8", "avatar-8"), ("7x", "default_database"), ("", "avatar-"), ("*", "avatar-7 ")]
    for avatar, database in places:
        path = filled(template, ALICE, avatar or "_", database)
        for token in (AVATAR, AVATAR_READER):
            for body in bodies(method):
                status, _, _ = await ask(app, method, path.replace(" ", "%20"), body=body, token=token)
                if template in OPEN | OF_ALL | OF_ANY:
                    continue
                own = avatar == "7" and ("{avatar_id}" in template or "{database}" in template)
                # What workers send is for tokens of every user.
                own &= not (template.endswith("/commands") and method == "POST")
                # Chroma's clients ask for the tenant first; the answer is the name that they sent.
                own |= template == "/api/v2/tenants/{tenant}" and method in READING
                # A job is an avatar's, which its handler checks.
                own |= template.startswith("/users/{user_id}/jobs")
                may = own and (token == AVATAR or reads(method, template))
                assert (status != 403) == may, (avatar, database, status, body)
    for user, command in router.commands:
        assert user == ALICE
        assert getattr(command, "avatar_id", "7") == "7"
        assert getattr(command, "database", "avatar-7") == "avatar-7"
        if hasattr(command, "confined"):
            assert command.confined, "a collection of another database could be named by its id"


@pytest.mark.parametrize(("method", "template"), ROUTES)
async def test_an_operators_token_operates_and_sees_no_data(method: str, template: str) -> None:
    """/admin takes it, and no route of a user does."""
    app, router = guarded()
    status, _, _ = await ask(app, method, filled(template), token=OPERATOR)
    if template.startswith(OF_OPERATORS):
        assert status != 403
    elif is_about_a_user(template):
        assert status == 403 and router.commands == []


async def test_whoever_opens_data_may_embed_and_an_operator_may_not() -> None:
    """Texts are embedded for readers and for tokens of one avatar; a token that opens no data is refused."""
    app, _ = guarded()
    for token, expected in ((WRITER, 200), (READER, 200), (AVATAR_READER, 200), (OPERATOR, 403)):
        status, _, _ = await ask(app, "POST", "/embed", body=b'{"texts": ["aeio"]}', token=token)
        assert status == expected, token


class EmptyRouter(FakeRouter):
    """A router whose users have nothing."""

    async def execute(self, user_id: str, command: Any, context: RequestContext) -> Any:
        answer = await super().execute(user_id, command, context)
        if not command.is_change:
            raise UserNotFound(f"Nothing is stored for {user_id}.")
        return answer


@pytest.mark.parametrize(("method", "template"), ROUTES)
async def test_a_reader_creates_nothing_by_asking(method: str, template: str) -> None:
    """Where a first request creates a database, a reader's does not: it is told that there is none."""
    router = EmptyRouter()
    app = empty_application()
    app.app.state.service = app.app.state.service.__class__(
        **{**vars(app.app.state.service), "router": router},
    )
    for token in (READER, AVATAR_READER):
        for database in ("default_database", "avatar-7"):
            for body in bodies(method):
                status, _, _ = await ask(app, method, filled(template, database=database), body=body, token=token)
                assert status < 500 or template == "/api/v2/healthcheck"
    assert not [command for _, command in router.commands if command.is_change]


@cache
def empty_application() -> Pipeline:
    app = application(EmptyRouter())
    app.identity.callers = CALLERS
    return app


# --- Limits -------------------------------------------------------------------------------------------


@cache
def limited_application() -> tuple[Pipeline, FakeRouter]:
    router = FakeRouter()
    app = application(router, Settings(allow_reset=True, limit_requests_per_s=0.001, limit_burst=1), Clock())
    app.identity.callers = CALLERS
    return app, router


@pytest.mark.parametrize(("method", "template"), ROUTES)
async def test_no_route_goes_round_a_users_limits(method: str, template: str) -> None:
    """On each route that is about a user, or is the caller's own, the request after the last allowed one is 429.

    It reaches no shard. What is open or an operator's is never refused for that.
    """
    app, router = limited_application()
    app.allowances._spending.clear()
    is_operators = template.startswith(("/admin/", "/metrics"))
    path, token = filled(template), OPERATOR if is_operators else WRITER
    statuses, reached = [], []
    for body in [*bodies(method), b"{}"][:3] if method not in READING else [b"", b"", b""]:
        router.commands.clear()
        statuses.append((await ask(app, method, path, body=body, token=token))[0])
        reached.append(bool(router.commands))
    if template in OPEN or is_operators:
        assert 429 not in statuses
    else:
        assert statuses[0] != 429
        assert statuses[1:] == [429] * len(statuses[1:])
        assert not any(reached[1:])


# --- However a path is written -----------------------------------------------------------------------

avatar_paths = st.builds(
    lambda head, parts, tail: head + "".join(joint + part for joint, part in parts) + tail,
    st.sampled_from(
        ["/users/alice", "/api/v2/tenants/alice", "/api/v2/tenants/alice/databases", "/users/alice/avatars"]
    ),
    st.lists(st.tuples(st.sampled_from(JOINTS), st.sampled_from([*SEGMENTS, "8", "avatar-7", "avatar-8"])), max_size=6),
    st.sampled_from(["", "/", "%2F", "?documents=true", "?avatar_id=8"]),
)


@given(path=avatar_paths, method=st.sampled_from(METHODS))
@example(path="/users/alice/avatars/7/../8/collections", method="GET")
@example(path="/users/alice/avatars/7%2F..%2F8/collections", method="GET")
@example(path="/users/alice/avatars//8/collections", method="GET")
@example(path="/api/v2/tenants/alice/databases/avatar-7/../avatar-8/collections", method="GET")
@example(path="/api/v2/tenants/alice/databases/avatar-7%2F..%2Favatar-8/collections", method="GET")
@settings(max_examples=400, deadline=None)
async def test_no_path_leads_out_of_an_avatar(path: str, method: str) -> None:
    """However a path is written, what reaches a shard by an avatar's token is about that avatar."""
    app, router = guarded()
    await ask(app, method, path, token=AVATAR)
    for user, command in router.commands:
        assert (user, getattr(command, "avatar_id", "7")) == (ALICE, "7"), path
        assert getattr(command, "database", "avatar-7") == "avatar-7", path
        assert (
            hasattr(command, "avatar_id") or hasattr(command, "database") or type(command) is commands.ChromaGetTenant
        )


@given(path=avatar_paths, method=st.sampled_from(METHODS))
@settings(max_examples=400, deadline=None)
async def test_no_path_lets_a_reader_write(path: str, method: str) -> None:
    """However a path is written, what reaches a shard by a reader's token changes nothing."""
    app, router = guarded()
    await ask(app, method, path, token=READER)
    for _, command in router.commands:
        assert isinstance(command, (commands.Read, *QUIET)) and not command.is_change, path
