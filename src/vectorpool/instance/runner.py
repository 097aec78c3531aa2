"""The thread with the event loop, and the application that answers on it."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - see ``_watch_exit``
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeVar
from urllib.parse import unquote
from weakref import WeakSet

import msgspec
import uvloop

from vectorpool.app import create_app, open_service
from vectorpool.documents.reports import IngestReport
from vectorpool.front.pipeline import Pipeline
from vectorpool.names import check_avatar_id, check_document_path, check_user_id
from vectorpool.settings import Settings

T = TypeVar("T")

# Calls name this machine, as the pipeline demands of callers without a token.
_HOST: Final = (b"host", b"localhost")


class Call(msgspec.Struct, frozen=True):
    """A request to the application. ``target`` is the path with its query, percent-encoded."""

    method: str
    target: str
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Reply(msgspec.Struct, frozen=True):
    """The response to a call."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of a name in lower case."""
        return next((value for known, value in self.headers if known == name), None)


class Runner:
    """Runs an instance on a loop of its own until it is closed, or the process ends."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process_id = os.getpid()
        self._lock = threading.Lock()
        self._is_closed = False
        self._opened: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._app: Pipeline | None = None
        # A daemon, because the interpreter would otherwise wait for it before ``_close_all`` may end it.
        self._thread = threading.Thread(target=self._run, name="vectorpool", daemon=True)

    def start(self) -> Future[None]:
        """Start the thread, once; return a future that is done when the instance serves. It raises Misconfigured."""
        with self._lock:
            if self not in _running and not self._is_closed:
                _watch_exit()
                _running.add(self)
                self._thread.start()
        return self._opened

    def submit(self, call: Call) -> Future[Reply]:
        """Send a call to the application. Cancelling the future ends the work as a caller that leaves does."""
        return self._begin(self._answer(call))

    def ingest(self, user_id: str, avatar_id: str, paths: Sequence[str] | None, *, force: bool) -> Future[IngestReport]:
        """Bring an avatar's records up to its documents. There is no worker of jobs behind this instance."""
        return self._begin(self._ingest(user_id, avatar_id, paths, force=force))

    def _begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            if os.getpid() != self._process_id:
                raise RuntimeError("The pool was opened before this process was forked. Open one in the new process.")
            with self._lock:
                if self._is_closed or self._loop is None:
                    raise RuntimeError("The pool is closed. Open another one.")
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise

    def close(self) -> None:
        """Refuse new calls, finish those under way, commit what was acknowledged, and end the shards."""
        if os.getpid() != self._process_id:
            return
        with self._lock:
            self._is_closed = True
            loop, closing = self._loop, self._closing
        if loop is not None and closing is not None:
            # It may have ended by itself.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(closing.set)
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join()
        _running.discard(self)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)

    async def _serve(self) -> None:
        app = self._app = create_app(self._settings)
        self._closing = asyncio.Event()
        async with open_service(self._settings) as service:
            app.app.state.service = service
            with self._lock:
                if self._is_closed:
                    return
                self._loop = asyncio.get_running_loop()
            self._opened.set_result(None)
            await self._closing.wait()
            # Half of the time for calls under way; the rest is the shards', for commits.
            await app.draining.leave(self._settings.drain_s / 2)

    async def _ingest(self, user_id: str, avatar_id: str, paths: Sequence[str] | None, *, force: bool) -> IngestReport:
        assert self._app is not None
        ingestor = self._app.app.state.service.ingestor
        chosen = None if paths is None else [check_document_path(path) for path in paths]
        report: IngestReport = await ingestor.ingest(
            check_user_id(user_id), check_avatar_id(avatar_id), chosen, force=force
        )
        return report

    async def _answer(self, call: Call) -> Reply:
        assert self._app is not None
        exchange = _Exchange(call)
        await self._app(exchange.scope, exchange.receive, exchange.send)
        return exchange.reply()


class _Exchange:
    """One request and its response, as an ASGI server would carry them."""

    def __init__(self, call: Call) -> None:
        path, _, query = call.target.partition("?")
        length = ((b"content-length", str(len(call.body)).encode()),) if call.body else ()
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": call.method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "root_path": "",
            "headers": [_HOST, *length, *(h for h in call.headers if h[0] not in (b"host", b"content-length"))],
            "client": ("127.0.0.1", 0),
            "server": ("localhost", 80),
            "state": {},
        }
        self.scope: Any = scope
        self._body: bytes | None = call.body
        self._status = 500
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []

    async def receive(self) -> Any:
        """Return the body once. The caller never leaves; it cancels the task instead."""
        if self._body is None:
            await asyncio.get_running_loop().create_future()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Any) -> None:
        """Keep a part of the response."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [(bytes(name).lower(), bytes(value)) for name, value in message["headers"]]
        elif message["type"] == "http.response.body" and message["body"]:
            self._parts.append(bytes(message["body"]))

    def reply(self) -> Reply:
        """Return the whole response."""
        return Reply(self._status, self._headers, b"".join(self._parts))


_running: WeakSet[Runner] = WeakSet()
_is_watching = False


def _watch_exit() -> None:
    """Close every instance when the process ends, while its threads may still start others."""
    global _is_watching
    if not _is_watching:
        _is_watching = True
        # Executors take no work once ``atexit`` runs, and draining needs them. They use this hook themselves, which
        # runs the latest function first. Their module is imported above, so that ours is later. None is public.
        register: Callable[[Callable[[], None]], object] = getattr(threading, "_register_atexit", atexit.register)
        register(_close_all)


def _close_all() -> None:
    for runner in list(_running):
        runner.close()
