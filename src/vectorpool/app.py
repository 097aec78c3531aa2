"""Composition: an instance's parts, opened in order and closed in reverse, and the HTTP application over them.

Nothing is global: ``create_app`` may be called twice in one process. The front process never imports chromadb, and
logs no user's id above the debug level, because ids may be personal data.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from litestar import Litestar
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin

from vectorpool.allowances.allowances import Allowances
from vectorpool.allowances.embedder import LimitedEmbedder
from vectorpool.api.call import Call
from vectorpool.api.callers import Callers, read_callers
from vectorpool.api.documentation import DESCRIPTION, SECURITY, TOKEN_SCHEMES, operation_id
from vectorpool.api.page import SchemaJson, SchemaPage
from vectorpool.api.refusals import EXCEPTION_HANDLERS
from vectorpool.api.routes import chroma_routes, native_routes
from vectorpool.api.service import Service
from vectorpool.api.transfers import Transfers
from vectorpool.audit import Audit
from vectorpool.care.parts import open_care
from vectorpool.documents.ingest import Ingestor
from vectorpool.documents.library import DocumentLibrary
from vectorpool.documents.sweep import Sweep
from vectorpool.embedding import open_embedder
from vectorpool.extraction.workshop import Workshop
from vectorpool.front.pipeline import Pipeline
from vectorpool.identity.authority import Authority
from vectorpool.jobs.client import Jobs
from vectorpool.objects.metered import MeteredBucket
from vectorpool.objects.probe import probe
from vectorpool.objects.stores import open_bucket
from vectorpool.objects.watch import StoreWatch
from vectorpool.platform import allocator
from vectorpool.settings import Settings
from vectorpool.shard.pressure import MemoryWatch
from vectorpool.shard.router import Router, open_router
from vectorpool.sources import SYSTEM, Sources
from vectorpool.supervision import Supervisor
from vectorpool.targets.named import scheduled_targets
from vectorpool.telemetry.figures import Figures
from vectorpool.traces import OtlpTracer, open_tracer
from vectorpool.version import __version__

KEEP_ALIVE_S: Final = 75


class StartingRouter(NamedTuple):
    """A router whose shards are being started, so that its caller can do other work meanwhile."""

    router: Router
    started: Awaitable[None]


@asynccontextmanager
async def open_service(
    settings: Settings,
    sources: Sources = SYSTEM,
    *,
    starting: StartingRouter | None = None,
    authority: Authority | None = None,
    figures: Figures | None = None,
    tracer: OtlpTracer | None = None,
    allowances: Allowances | None = None,
    jobs: Jobs | None = None,
) -> AsyncIterator[Service]:
    """Open the parts of an instance, and close them in reverse; the router drains.

    ``starting`` is a router that the caller began to start; it is stopped here all the same. ``authority`` and
    ``allowances`` are opened too, and ``tracer`` is closed. ``figures`` are those of the front. ``jobs`` are started by
    the caller once it listens, and stopped here.

    Raises Misconfigured if the store is refused, the model cannot be loaded, or a key or target cannot be used.
    """
    figures = Figures() if figures is None else figures
    scheduled_targets(settings)
    async with AsyncExitStack() as stack:
        # First in, last out: shards that the caller started must end even if nothing else can be opened.
        if tracer is not None:
            stack.push_async_callback(tracer.close)
        router = starting.router if starting is not None else open_router(settings)
        stack.push_async_callback(router.stop)
        bucket = MeteredBucket(open_bucket(settings), sources, figures)
        stack.push_async_callback(bucket.close)
        allowances = allowances or Allowances(settings, sources)
        embedder = LimitedEmbedder(open_embedder(settings, sources, figures), allowances)
        stack.push_async_callback(embedder.close)
        router.limit(allowances.quota_of)
        started = starting.started if starting is not None else router.start()
        # Shards import Chroma while the model loads and the store is asked: the slowest decides, not the sum.
        authority = authority or Authority(settings, sources)
        await _all(probe(bucket, sources=sources), embedder.start(), started, authority.prepare())
        await _all(authority.open(bucket), allowances.open(bucket))
        library = DocumentLibrary(bucket, settings)
        workshop = Workshop(settings)
        stack.push_async_callback(workshop.close)
        ingestor = Ingestor(library, embedder, router, settings, sources, workshop=workshop)
        audit = Audit(bucket, settings, sources)
        stack.push_async_callback(audit.close)
        supervisor = Supervisor(sources)
        stack.push_async_callback(supervisor.stop, 1.0)
        supervisor.start("memory return of the front", partial(allocator.give_back, sources))
        supervisor.start("removal of old audit entries", audit.watch)
        store = StoreWatch(bucket, sources)
        supervisor.start("watch of the store", store.run)
        authority.watch(supervisor)
        allowances.watch(supervisor)
        memory = MemoryWatch(router, settings, sources)
        if memory.is_on:
            supervisor.start("memory watch", memory.watch)
        care = open_care(router, library, audit, allowances, settings, sources, figures, jobs)
        care.start(supervisor)
        service = Service(
            settings, router, embedder, library, ingestor, audit, store, supervisor, figures, tracer, memory, allowances
        )
        service = replace(service, care=care)
        if jobs is not None:
            authority.admit_worker(jobs.key)
            stack.push_async_callback(jobs.stop)
            service = replace(service, jobs=jobs)
            figures.add_slow_source("jobs", jobs.samples)
            if settings.sweep_interval_s and jobs.are_installed:
                sweep = Sweep(ingestor, jobs.sync, jobs.waiting, lambda user: allowances.limits_of(user).jobs != 0)
                supervisor.start("sweep of documents", sweep.run)
        yield service


async def _all(*starting: Awaitable[object]) -> None:
    """Run all to their ends, then raise the first failure: what started half is closed by the caller."""
    for outcome in await asyncio.gather(*starting, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


class LeanLitestar(Litestar):
    """The framework without its plugins for pydantic and attrs, which no handler uses.

    The framework imports pydantic if it is installed, and chromadb installs it: 0.1 to 0.3 s of every start. It has no
    public option against that. If a later version does not call this method, a start is slower by that time, and
    ``tests/unit/test_app.py`` says so.
    """

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def create_app(
    settings: Settings,
    *,
    service: Service | None = None,
    callers: Callers | None = None,
    authority: Authority | None = None,
    figures: Figures | None = None,
    tracer: OtlpTracer | None = None,
    allowances: Allowances | None = None,
) -> Pipeline:
    """Return the application behind its stages.

    Without ``service`` it opens its own parts at startup and closes them at shutdown; without ``callers`` it reads the
    tokens file; without ``authority`` it makes one of the settings; ``allowances`` are those of the service. Raises
    Misconfigured if they cannot be meant.
    """
    authority = authority or Authority(settings)
    figures = Figures() if figures is None else figures
    tracer = tracer or open_tracer(settings, figures)
    allowances = allowances or (service.allowances if service is not None else Allowances(settings))

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        opening = open_service(settings, authority=authority, figures=figures, tracer=tracer, allowances=allowances)
        async with opening as opened:
            app.state.service = opened
            pipeline.tokens.start(opened.supervisor)
            yield

    app = LeanLitestar(
        route_handlers=[*native_routes(), *chroma_routes(settings)],
        request_class=Call,
        exception_handlers=EXCEPTION_HANDLERS,
        state=State({"service": service, "authority": authority, "transfers": Transfers(settings)}),
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
    if callers is None:
        callers = read_callers(settings.tokens_file)
    pipeline = Pipeline(
        app, settings, callers, authority=authority, figures=figures, tracer=tracer, allowances=allowances
    )
    app.state.is_draining = lambda: pipeline.draining.is_leaving
    return pipeline
