"""``vectorpool serve``: the HTTP server around an application whose parts are opened before it listens."""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import uvicorn
import uvloop

from vectorpool import logs
from vectorpool.api.callers import Callers, read_callers
from vectorpool.cli import address
from vectorpool.errors import Misconfigured
from vectorpool.front.admission import Admission
from vectorpool.identity.authority import Authority
from vectorpool.jobs.client import Jobs
from vectorpool.platform import allocator, descriptors, interpreter
from vectorpool.settings import Settings
from vectorpool.shard.router import Router, open_router
from vectorpool.sources import SYSTEM
from vectorpool.supervision import Supervisor
from vectorpool.telemetry.figures import Figures
from vectorpool.traces import open_tracer

if TYPE_CHECKING:
    # Imported while the shards start; see ``_serve``.
    from vectorpool.front.pipeline import Pipeline

_logger = logging.getLogger(__name__)

# A scraper keeps its connection between scrapes, which come every minute at the most seldom.
_SCRAPER_IDLE_S: Final = 120
_STOP_METRICS_S: Final = 3.0
# Supervisors send one of these to end a process; some images name the third as their stop signal.
_LEAVE: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM, SIGINT or SIGQUIT, then drain; SIGHUP reads the files of tokens and secrets again.

    Raises Misconfigured before anything is started.
    """
    logs.configure(settings)
    callers = read_callers(settings.tokens_file)
    authority = Authority(settings)
    allocator.limit_arenas()
    interpreter.switch_often()
    settings = descriptors.fit(settings, descriptors.allow_most())
    admission = Admission(settings)
    with (
        bind(settings.host, settings.port) as listener,
        _metrics_listener(settings) as metrics_listener,
        address.told(settings.address_file, listener),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        check_openness(settings, callers, authority, listener)
        runner.run(_serve(settings, callers, authority, admission, listener, metrics_listener))


class _Server(uvicorn.Server):
    """Prints its address once it listens, and leaves signals to ``_leave`` while the service drains."""

    announcement = ""
    # What begins once callers can reach the service.
    begin: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then print the address."""
        await super().startup(sockets)
        if self.started and self.announcement:
            click.echo(self.announcement)
            if self.begin is not None:
                self.begin()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle no signals: ``_leave`` does, while the server continues to refuse requests with 503."""
        yield


async def _serve(
    settings: Settings,
    callers: Callers,
    authority: Authority,
    admission: Admission,
    listener: socket.socket,
    metrics_listener: socket.socket | None,
) -> None:
    # Until the service listens there is nothing to drain; a signal then ends it by the default of ``_ignore``.
    for number in (*_LEAVE, signal.SIGHUP):
        signal.signal(number, _ignore)
    figures = Figures()
    figures.add_source(admission.samples)
    tracer = open_tracer(settings, figures)
    router = open_router(settings)
    started = asyncio.create_task(router.start())
    # If another part fails first, its error is reported. This marks the shards' own error as seen.
    started.add_done_callback(lambda task: task.cancelled() or task.exception())
    # The shards' processes load Chroma while this one loads the web framework, about a second and a half each.
    app = await asyncio.to_thread(importlib.import_module, "vectorpool.app")
    connection = importlib.import_module("vectorpool.front.connection")
    parts: dict[str, Any] = {
        "authority": authority,
        "figures": figures,
        "tracer": tracer,
        "allowances": app.Allowances(settings),
    }
    # The application is made while the parts open. Most of that time is the model's, without the interpreter lock.
    making: asyncio.Task[Pipeline] = asyncio.create_task(
        asyncio.to_thread(app.create_app, settings, service=None, callers=callers, **parts)
    )
    making.add_done_callback(lambda task: task.cancelled() or task.exception())
    jobs = Jobs(settings, partial(address.url_of, listener))
    starting = app.StartingRouter(router, started)
    async with app.open_service(settings, starting=starting, jobs=jobs, **parts) as service:
        front = await making
        # The server below starts later, so no request comes before this.
        front.app.state.service = service
        front.tokens.start(service.supervisor)
        server = _server_of(front, partial(connection.Connection, settings, admission), app.KEEP_ALIVE_S)
        server.announcement = announce(settings, callers, authority, listener, metrics_listener)
        # The worker loads more than a second of libraries, on cores that the start needs.
        server.begin = partial(jobs.start, service.supervisor)
        leaving: set[asyncio.Task[None]] = set()

        def leave() -> None:
            if leaving:
                server.force_exit = True
            leaving.add(asyncio.create_task(_leave(settings, front, router, server, jobs)))

        def reload() -> None:
            for again in (front.tokens.reload(), authority.reload()):
                reloading.add(task := asyncio.create_task(again))
                task.add_done_callback(reloading.discard)

        reloading: set[asyncio.Task[None]] = set()
        for number in _LEAVE:
            asyncio.get_running_loop().add_signal_handler(number, leave)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        supervisor = Supervisor(SYSTEM)
        # Bodies and texts pass through this process; what they took goes back to the system.
        supervisor.start("memory return", partial(allocator.give_back, SYSTEM))
        interpreter.keep_what_is_loaded()
        async with _scraped(front, settings, connection.Connection, metrics_listener):
            try:
                await server.serve(sockets=[listener])
            finally:
                await supervisor.stop(1.0)


def _server_of(front: Any, connection: Any, keep_alive_s: int) -> _Server:
    return _Server(
        uvicorn.Config(
            front,
            http=connection,
            # The service has no WebSockets, and a connection that became one would bypass the stages.
            ws="none",
            # The connection itself reads X-Forwarded-For, of trusted proxies only.
            proxy_headers=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=keep_alive_s,
            # Requests had their time before the listener is closed; only idle connections are left.
            timeout_graceful_shutdown=1,
        )
    )


@asynccontextmanager
async def _scraped(
    front: Pipeline, settings: Settings, connection: Any, listener: socket.socket | None
) -> AsyncIterator[None]:
    """Answer ``/metrics`` on its own port meanwhile, also while the instance drains."""
    if listener is None:
        yield
        return
    metrics_port = importlib.import_module("vectorpool.front.metrics_port")
    bounds = metrics_port.bounds_of_scrapers(settings)
    server = _server_of(
        metrics_port.MetricsPort(front.scrape), partial(connection, bounds, Admission(bounds)), _SCRAPER_IDLE_S
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        await asyncio.wait([serving], timeout=_STOP_METRICS_S)
        serving.cancel()


async def _leave(settings: Settings, front: Pipeline, router: Router, server: _Server, jobs: Jobs) -> None:
    """Refuse new requests with 503, finish those under way, commit, and only then close the listener.

    Requests get at most half of the time budget; the rest is for committing acknowledged writes.
    """
    started_s = SYSTEM.monotonic_s()
    # New requests are refused from now on, the worker's too: what it has not sent, its successor sends.
    unfinished, _ = await asyncio.gather(front.draining.leave(settings.drain_s / 2), jobs.stop())
    if unfinished:
        _logger.warning("%d requests did not finish in time", unfinished)
    _logger.info("responses by status: %s", front.metering.summary())
    await router.stop(max(settings.drain_s - (SYSTEM.monotonic_s() - started_s), 0.0))
    server.should_exit = True


def _ignore(*_: object) -> None:
    pass


def announce(
    settings: Settings,
    callers: Callers,
    authority: Authority,
    listener: socket.socket,
    metrics_listener: socket.socket | None = None,
) -> str:
    """Return the text at the start: the service's address, its directories, and a first request."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = address.url_of(listener)
    store = settings.store if "://" in settings.store else Path(settings.store).resolve()
    known = [f"{callers.count} known"] if callers.count is not None else []
    known += authority.describe()
    tokens = f"asked for; {', '.join(known)}" if known else "not asked for"
    if not known and settings.insecure_open:
        tokens += ". EVERYONE who reaches this address may read and change everything (insecure_open)"
    curl = "curl" if not known else 'curl -H "Authorization: Bearer $TOKEN"'
    return (
        f"vectorpool listens on http://{shown}:{port}\n"
        f"  store       {store}\n"
        f"  replicas    {Path(settings.replica_dir).resolve()}\n"
        f"  durability  {settings.durability}\n"
        f"  API         {url}/schema\n"
        f"  tokens      {tokens}\n"
        f"  metrics     {address.url_of(metrics_listener or listener)}/metrics\n"
        "Try:\n"
        f"  {curl} -X PUT --data-binary @README.md {url}/users/42/avatars/7/documents/README.md\n"
        f"  {curl} -X POST '{url}/users/42/avatars/7/ingest?wait_s=60'\n"
        f'  {curl} -X POST {url}/users/42/avatars/7/query -d \'{{"text": "How do I start it?"}}\''
    )


def check_openness(settings: Settings, callers: Callers, authority: Authority, listener: socket.socket) -> None:
    """Raise Misconfigured if others than this machine could reach a service that asks for no tokens."""
    if callers.count is not None or authority.is_configured:
        return
    if settings.insecure_open:
        _logger.warning("everyone who reaches the service may read and change everything: insecure_open, no tokens")
        return
    address = listener.getsockname()[0].partition("%")[0]
    if not ipaddress.ip_address(address).is_loopback:
        raise Misconfigured(
            f"On {settings.host} everyone who reaches the service could read and change every user's data, because no "
            "tokens are asked for. Set --tokens-file, or --host 127.0.0.1, or say --insecure-open if that is meant."
        )


@contextmanager
def _metrics_listener(settings: Settings) -> Generator[socket.socket | None, None, None]:
    """Yield the socket of ``metrics_port``, or None if it is not set. Raises Misconfigured."""
    if settings.metrics_port is None:
        yield None
        return
    with bind(settings.metrics_host, settings.metrics_port, setting="metrics-") as listener:
        yield listener


def bind(host: str, port: int, *, setting: str = "") -> socket.socket:
    """Return a socket bound to an address; raise Misconfigured if the address is taken or not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Misconfigured(
            f"Cannot listen on {host}:{port}: {reason}. Choose another --{setting}host or --{setting}port."
        ) from None
    listener.setblocking(False)
    return listener
