"""Composition: an instance's parts, opened in order and closed in reverse, and the HTTP application over them.

Nothing is global: ``create_app`` may be called twice in one process. The front process never imports chromadb, and
logs no user's id above the debug level, because ids may be personal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, NamedTuple, TypeGuard, cast

from litestar import Litestar, Request
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import HTTPScope, LifeSpanScope, Message, Receive, Scope, Send

from vectorpool import __version__
from vectorpool.api.callers import Callers, read_callers
from vectorpool.api.documentation import DESCRIPTION, SECURITY, TOKEN_SCHEMES, operation_id
from vectorpool.api.guarding import provide_caller, refuse
from vectorpool.api.page import SchemaJson, SchemaPage
from vectorpool.api.reading import for_request
from vectorpool.api.refusing import EXCEPTION_HANDLERS, is_chromas, send_refusal
from vectorpool.api.routes import chroma_routes, native_routes
from vectorpool.api.service import Service
from vectorpool.api.shortcut import Shortcut
from vectorpool.documents.ingest import Ingestor
from vectorpool.documents.library import DocumentLibrary
from vectorpool.embedding import open_embedder
from vectorpool.errors import Draining, VectorpoolError
from vectorpool.objects.opening import open_bucket
from vectorpool.objects.probe import probe
from vectorpool.settings import Settings
from vectorpool.shard.router import Router, open_router
from vectorpool.sources import SYSTEM, Sources

KEEP_ALIVE_S: Final = 75
# How often a leaving instance looks whether its last request has ended.
_LEAVE_LOOK_S: Final = 0.02

_logger = logging.getLogger("vectorpool.http")


class StartingRouter(NamedTuple):
    """A router whose shards are on their way, because whoever started it had other things to do meanwhile."""

    router: Router
    started: Awaitable[None]


@asynccontextmanager
async def open_service(
    settings: Settings, sources: Sources = SYSTEM, *, starting: StartingRouter | None = None
) -> AsyncIterator[Service]:
    """Open the parts of an instance, and close them in reverse; the router drains.

    ``starting`` is a router that the caller began to start; it is stopped here all the same. Raises Misconfigured if
    the store is refused or the model cannot be loaded.
    """
    async with AsyncExitStack() as stack:
        # First in, last out: shards that the caller started must end even if nothing else can be opened.
        router = starting.router if starting is not None else open_router(settings)
        stack.push_async_callback(router.stop)
        bucket = open_bucket(settings)
        stack.push_async_callback(bucket.close)
        embedder = open_embedder(settings, sources)
        stack.push_async_callback(embedder.close)
        started = starting.started if starting is not None else router.start()
        # Shards import Chroma while the model loads and the store is asked: the slowest decides, not the sum.
        await _all(probe(bucket, sources=sources), embedder.start(), started)
        library = DocumentLibrary(bucket, settings)
        ingestor = Ingestor(library, embedder, router, settings)
        yield Service(settings, router, embedder, library, ingestor)


async def _all(*starting: Awaitable[object]) -> None:
    """Run all to their ends, then raise the first failure: what started half is closed by the caller."""
    for outcome in await asyncio.gather(*starting, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def is_http(scope: Scope | LifeSpanScope) -> TypeGuard[HTTPScope]:
    """Return whether a scope is a request's, not the application's own start and end."""
    kind: str = scope["type"]
    return kind == "http"


class Front(Litestar):
    """The application, with what must happen around every request: callers and paths are guarded, and a line is logged.

    It also leaves in order: ``leave`` refuses new requests and waits for those under way.
    """

    # Set by ``create_app``; without them no request would get in.
    callers: Callers
    shortcut: Shortcut
    _is_leaving = False
    _under_way = 0

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        """Load no plugins for pydantic and attrs, which chromadb installs and no handler uses: 0.1 s of every start.

        Should the framework stop asking here, a start is slower by that, and nothing else.
        """
        return [*plugins, MsgspecDIPlugin()]

    async def leave(self, timeout_s: float) -> int:
        """Refuse new requests from now on; wait for those under way, and return how many were not finished."""
        self._is_leaving = True
        deadline_s = SYSTEM.monotonic_s() + timeout_s
        while self._under_way and SYSTEM.monotonic_s() < deadline_s:
            await SYSTEM.sleep(_LEAVE_LOOK_S)
        return self._under_way

    async def __call__(self, scope: Scope | LifeSpanScope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        """Serve one request."""
        if not is_http(scope):
            await super().__call__(scope, receive, send)
            return
        started_s = SYSTEM.monotonic_s()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        if scope["method"] == "HEAD" and is_chromas(scope["path"]):
            # Chroma's server answers it wherever it answers GET; whoever speaks HTTP leaves the body out.
            scope = cast(HTTPScope, {**scope, "method": "GET"})
        raw_path = scope.get("raw_path", b"")
        self._under_way += 1
        try:
            refusal = self._refuse(scope)
            if refusal is not None:
                await send_refusal(refusal, scope, watched)
            elif not await self.shortcut.answer(scope, receive, watched):
                await super().__call__(scope, receive, watched)
        finally:
            self._under_way -= 1
            route = scope.get("path_template") or "(no route)"
            elapsed_ms = (SYSTEM.monotonic_s() - started_s) * 1000
            _logger.info("method=%s route=%s status=%d ms=%.1f", scope["method"], route, status, elapsed_ms)
            _logger.debug("method=%s path=%r", scope["method"], raw_path[:512])

    def _refuse(self, scope: HTTPScope) -> VectorpoolError | None:
        if self._is_leaving and scope["path"] != "/health/live":
            return Draining("The instance is shutting down. Send the request to another one.")
        return refuse(scope, self.callers)


def provide_service(state: State, request: Request[Any, Any, Any]) -> Service:
    """Return the parts of the instance, reading as the request's headers ask. They are there after startup."""
    return for_request(state.service, request)


def create_app(settings: Settings, *, service: Service | None = None, callers: Callers | None = None) -> Front:
    """Return the application.

    Without ``service`` it opens its own parts at startup and closes them at shutdown; without ``callers`` it reads the
    tokens file. Raises Misconfigured if that cannot be read.
    """

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with open_service(settings) as opened:
            app.state.service = opened
            yield

    front = Front(
        route_handlers=[*native_routes(), *chroma_routes(settings)],
        dependencies={
            "service": Provide(provide_service, sync_to_thread=False),
            "caller": Provide(provide_caller, sync_to_thread=False),
        },
        exception_handlers=EXCEPTION_HANDLERS,
        state=State({"service": service}),
        lifespan=[lifespan] if service is None else [],
        request_max_body_size=settings.max_body_bytes,
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="vectorpool",
            version=__version__,
            description=DESCRIPTION,
            path="/schema",
            render_plugins=[SchemaPage(), SchemaJson()],
            operation_id_creator=operation_id,
            use_handler_docstrings=True,
            components=TOKEN_SCHEMES,
            security=SECURITY,
        ),
    )
    front.shortcut = Shortcut(lambda: front.state.service, EXCEPTION_HANDLERS[Exception], settings.max_body_bytes)
    front.callers = read_callers(settings.tokens_file) if callers is None else callers
    return front
