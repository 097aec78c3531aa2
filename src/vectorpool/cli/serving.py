"""``vectorpool serve``: the HTTP server around an application whose parts are opened before it listens."""

from __future__ import annotations

import asyncio
import importlib
import logging
import math
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import click
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vectorpool.errors import Misconfigured
from vectorpool.settings import Settings
from vectorpool.shard.router import open_router


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises Misconfigured before anything is started."""
    logging.basicConfig(
        level=settings.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    with (
        bind(settings.host, settings.port) as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(settings, listener))


class _Server(uvicorn.Server):
    """Says where it listens once it does, and leaves signals to us while the service drains."""

    announcement = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.started:
            click.echo(self.announcement)


# What the parser refuses never reaches the application. The text is that of ``api.problems``, which is not loaded yet.
_UNPARSABLE: Final = (
    b'{"type":"https://vectorpool.dev/problems/invalid-request","title":"The request is not valid","status":400,'
    b'"detail":"This is not HTTP, or its path or headers are longer than 64 KiB. Ids belong in less.",'
    b'"instance":"","code":"invalid-request"}'
)


class _Protocol(HttpToolsProtocol):
    """Answers what is not HTTP, or has a path of megabytes, with a problem too."""

    def send_400_response(self, msg: str) -> None:
        """Send the problem and close the connection."""
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%s" % (len(_UNPARSABLE), _UNPARSABLE)
        )
        self.transport.close()


async def _serve(settings: Settings, listener: socket.socket) -> None:
    # uvicorn gives a signal on to whoever had it before, after its own shutdown; then the drain is still to come.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)
    router = open_router(settings)
    started = asyncio.create_task(router.start())
    # If something else fails first, that is what is reported; this says that nobody forgot the shards' own failure.
    started.add_done_callback(lambda task: task.cancelled() or task.exception())
    # The shards' processes load Chroma while this one loads the web framework, about a second and a half each.
    app = await asyncio.to_thread(importlib.import_module, "vectorpool.app")
    async with app.open_service(settings, starting=app.StartingRouter(router, started)) as service:
        server = _Server(
            uvicorn.Config(
                app.create_app(settings, service=service),
                http=_Protocol,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=app.KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, math.ceil(settings.drain_s)),
            )
        )
        server.announcement = announce(settings, listener)
        await server.serve(sockets=[listener])


def _ignore(*_: object) -> None:
    pass


def announce(settings: Settings, listener: socket.socket) -> str:
    """Return what a person needs first: where the service listens, where things are, and a first request."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else shown}:{port}"
    store = settings.store if "://" in settings.store else Path(settings.store).resolve()
    return (
        f"vectorpool listens on http://{shown}:{port}\n"
        f"  store       {store}\n"
        f"  replicas    {Path(settings.replica_dir).resolve()}\n"
        f"  durability  {settings.durability}\n"
        f"  API         {url}/schema\n"
        "Try:\n"
        f"  curl -X PUT --data-binary @README.md {url}/users/42/avatars/7/documents/README.md\n"
        f"  curl -X POST {url}/users/42/avatars/7/ingest\n"
        f'  curl -X POST {url}/users/42/avatars/7/query -d \'{{"text": "How do I start it?"}}\''
    )


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; raise Misconfigured if that is taken or not this machine's."""
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
        raise Misconfigured(f"Cannot listen on {host}:{port}: {reason}. Choose another --host or --port.") from None
    listener.setblocking(False)
    return listener
