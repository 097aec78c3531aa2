"""The openai provider against a real HTTP server on loopback that behaves, refuses, garbles and stalls."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from vectorpool.embedding import Embedder, open_embedder
from vectorpool.errors import EmbedderUnavailable, InvalidRequest, Misconfigured
from vectorpool.settings import Settings

KEY = "sk-very-secret-123"
Reply = Callable[["Handler", list[str]], None]


def vector_of(text: str) -> list[float]:
    return [float(len(text)), float(sum(map(ord, text)) % 97), 1.0]


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's next planned reply says, or properly."""

    protocol_version = "HTTP/1.1"
    server: Endpoint

    def log_message(self, format: str, *args: Any) -> None: ...

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"content-length": str(len(body)), **named}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def embed(self, texts: list[str], *, backwards: bool = False) -> None:
        rows = [{"object": "embedding", "index": i, "embedding": vector_of(text)} for i, text in enumerate(texts)]
        if backwards:
            rows.reverse()
        self.send(200, json.dumps({"object": "list", "data": rows, "model": "m"}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), body))
            reply = self.server.plan.pop(0) if self.server.plan else None
        try:
            if reply is not None:
                reply(self, body["input"])
            elif self.headers.get("authorization") != f"Bearer {KEY}":
                self.send(401, json.dumps({"error": {"message": f"bad {self.headers['authorization']}"}}).encode())
            else:
                self.embed(body["input"])
        except OSError:
            self.close_connection = True


class Endpoint(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.plan: list[Reply] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.stop = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


def settings_for(endpoint: Endpoint, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "embedder": "openai",
        "embedder_model": "m-small",
        "openai_url": endpoint.url,
        "openai_api_key": KEY,
        "openai_timeout_s": 20.0,
        "openai_retries": 3,
        "embedder_batch": 8,
    }
    return Settings(**{**values, **changes})


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[Embedder]:
    embedder = open_embedder(settings)
    try:
        await embedder.start()
        yield embedder
    finally:
        await embedder.close()


def status(code: int, body: bytes = b"{}", **headers: str) -> Reply:
    return lambda handler, texts: handler.send(code, body, **headers)


async def test_texts_are_embedded_in_batches_and_in_order(endpoint: Endpoint) -> None:
    """The dimension is learned at start; every text gets its vector; no request carries more than a batch."""
    async with started(settings_for(endpoint)) as embedder:
        assert (embedder.name, embedder.dimension) == ("openai:m-small", 3)
        texts = [f"text {'x' * (i * 7 % 31)}" for i in range(50)]
        vectors = await embedder.embed(texts)
        assert np.array_equal(vectors, np.array([vector_of(text) for text in texts], dtype=np.float32))
        assert vectors.dtype == np.float32 and vectors.flags.c_contiguous
        assert (await embedder.embed([])).shape == (0, 3)
    path, headers, body = endpoint.requests[-1]
    assert path == "/v1/embeddings" and headers["authorization"] == f"Bearer {KEY}"
    assert body["model"] == "m-small" and body["encoding_format"] == "float"
    assert len(endpoint.requests) == 1 + 7 and max(len(b["input"]) for _, _, b in endpoint.requests) == 8


async def test_rows_are_taken_by_their_index_and_blank_text_is_no_error(endpoint: Endpoint) -> None:
    """An answer in another order is put in order; the empty string, which endpoints refuse, goes as a space."""
    async with started(settings_for(endpoint)) as embedder:
        endpoint.plan = [lambda handler, texts: handler.embed(texts, backwards=True)]
        vectors = await embedder.embed(["", "bb", "ccc"])
        assert vectors.tolist() == [vector_of(" "), vector_of("bb"), vector_of("ccc")]


@pytest.mark.parametrize("code", [408, 409, 429, 500, 502, 503, 529])
async def test_what_may_pass_is_tried_again(endpoint: Endpoint, code: int) -> None:
    """Throttling and server errors are followed by another attempt, which succeeds."""
    async with started(settings_for(endpoint)) as embedder:
        endpoint.plan = [status(code), status(code, retry_after="0")]
        assert len(await embedder.embed(["a"])) == 1
    assert len(endpoint.requests) == 1 + 3


async def test_retry_after_is_honoured_and_handed_on_when_it_is_long(endpoint: Endpoint) -> None:
    """A short Retry-After is waited for; a long one ends the call and is told to the caller."""
    async with started(settings_for(endpoint)) as embedder:
        loop = asyncio.get_running_loop()
        endpoint.plan = [status(429, retry_after="1")]
        before = loop.time()
        await embedder.embed(["a"])
        assert loop.time() - before >= 1.0
        endpoint.plan = [status(429, retry_after="3600")]
        with pytest.raises(EmbedderUnavailable, match="answered 429") as caught:
            await embedder.embed(["a"])
        assert caught.value.retry_after_s == 3600
        endpoint.plan = [status(503, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")]
        assert len(await embedder.embed(["a"])) == 1


async def test_attempts_are_bounded(endpoint: Endpoint) -> None:
    """An endpoint that stays broken is asked as often as the setting says, and named."""
    async with started(settings_for(endpoint, openai_retries=2)) as embedder:
        endpoint.plan = [status(500)] * 10
        with pytest.raises(EmbedderUnavailable, match=r"answered 500; 3 attempts were made"):
            await embedder.embed(["a"])
    assert len(endpoint.requests) == 1 + 3


async def test_a_broken_connection_is_tried_again(endpoint: Endpoint) -> None:
    """A connection that ends without an answer, or in the middle of one, costs an attempt and nothing else."""

    def hang_up(handler: Handler, texts: list[str]) -> None:
        handler.close_connection = True

    def cut_off(handler: Handler, texts: list[str]) -> None:
        handler.send(200, b'{"data": [', content_length="5000")
        handler.close_connection = True

    async with started(settings_for(endpoint)) as embedder:
        endpoint.plan = [hang_up, cut_off]
        assert (await embedder.embed(["abc"])).tolist() == [vector_of("abc")]


@pytest.mark.parametrize("trickle", [False, True], ids=["silent", "trickling"])
async def test_an_endpoint_that_stalls_is_given_up(endpoint: Endpoint, trickle: bool) -> None:
    """Silence ends with the time-out, and so does an answer that comes byte by byte."""

    def stall(handler: Handler, texts: list[str]) -> None:
        if trickle:
            handler.send(200, b"", content_length="100000")
        while not handler.server.stop.wait(0.05):
            if trickle:
                handler.wfile.write(b" ")
                handler.wfile.flush()

    async with started(settings_for(endpoint, openai_timeout_s=0.5, openai_retries=1)) as embedder:
        endpoint.plan = [stall, stall]
        with pytest.raises(EmbedderUnavailable, match=r"within 0\.5 s; 2 attempts"):
            await embedder.embed(["a"])
        assert len(await embedder.embed(["b"])) == 1


async def test_a_caller_that_leaves_ends_the_attempts(endpoint: Endpoint) -> None:
    """No further attempt is made for texts that no caller waits for."""
    failed = threading.Event()

    def fail(handler: Handler, texts: list[str]) -> None:
        handler.send(503, b"{}")
        failed.set()

    async with started(settings_for(endpoint)) as embedder:
        endpoint.plan = [fail]
        asked = asyncio.create_task(embedder.embed(["left"]))
        assert await asyncio.to_thread(failed.wait, 60)
        asked.cancel()
        await asyncio.wait([asked])
        assert len(await embedder.embed(["b"])) == 1
        # Longer than the pause before a second attempt.
        await asyncio.sleep(0.6)
    inputs = [body["input"] for _, _, body in endpoint.requests]
    assert inputs == [["dimension"], ["left"], ["b"]]


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"",
        b"[]",
        b'{"data": 7}',
        b'{"data": []}',
        b'{"data": [{"index": 0, "embedding": [1, 2, 3]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2, 3]}, {"index": 0, "embedding": [1, 2, 3]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2, 3]}, {"index": 1, "embedding": [1, 2]}]}',
        b'{"data": [{"index": 0, "embedding": []}, {"index": 1, "embedding": []}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2, 3]}, {"index": 1, "embedding": [1, 2, 1e300]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2]}, {"index": 1, "embedding": [1, 2]}]}',
        b'\xff\xfe{"data"',
    ],
)
async def test_an_answer_that_makes_no_sense_is_not_believed(endpoint: Endpoint, body: bytes) -> None:
    """Garbage, a wrong count, another dimension or infinity is an error that says so, and the next call works."""
    async with started(settings_for(endpoint, openai_retries=0)) as embedder:
        endpoint.plan = [status(200, body)]
        with pytest.raises(EmbedderUnavailable, match="answered with"):
            await embedder.embed(["a", "b"])
        assert len(await embedder.embed(["a", "b"])) == 2


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


async def test_a_wrong_key_stops_the_start_and_is_never_shown(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """The error says which setting to change; neither it, nor what led to it, nor any log line repeats the key."""
    caplog.set_level("DEBUG")
    wrong = "sk-wrong-but-also-secret"
    for key in (wrong, None):
        with pytest.raises(Misconfigured, match="VECTORPOOL_OPENAI_API_KEY") as caught:
            async with started(settings_for(endpoint, openai_api_key=key)):
                pass
        shown = [f"{error!r} {error}" for error in chain_of(caught.value)]
        assert not any(wrong in text for text in [*shown, caplog.text])
    assert len(endpoint.requests) == 2


async def test_a_refusal_repeats_what_the_endpoint_said_without_the_key(endpoint: Endpoint) -> None:
    """A 400 is the request's fault and is not tried again; an echoed key is masked."""
    async with started(settings_for(endpoint)) as embedder:
        endpoint.plan = [status(400, f'{{"error": "too long,\n Bearer {KEY}"}}'.encode())]
        with pytest.raises(InvalidRequest, match=r"too long, Bearer \*\*\*") as caught:
            await embedder.embed(["a"])
        assert KEY not in str(caught.value)
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    "reply",
    [status(404, b"no such model"), status(307, location="http://127.0.0.1:9/elsewhere"), status(400, b"unknown")],
)
async def test_a_wrong_model_or_address_stops_the_start(endpoint: Endpoint, reply: Reply) -> None:
    """What cannot work later is said at start; a redirect is not followed, since it would carry the key elsewhere."""
    endpoint.plan = [reply]
    with pytest.raises(Misconfigured, match=r"127\.0\.0\.1"):
        async with started(settings_for(endpoint)):
            pass
    assert len(endpoint.requests) == 1


async def test_nobody_at_the_address_stops_the_start(endpoint: Endpoint) -> None:
    """An endpoint that cannot be reached is named in one sentence."""
    with pytest.raises(Misconfigured, match=r"http://127\.0\.0\.1:9/v1/embeddings broke the connection"):
        async with started(settings_for(endpoint, openai_url="http://127.0.0.1:9/v1", openai_retries=0)):
            pass


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"embedder_model": None}, "VECTORPOOL_EMBEDDER_MODEL"),
        ({"openai_url": "example.org/v1"}, "http://"),
        ({"openai_url": "https://user:pw@example.org/v1"}, "holds a user or password"),
        ({"openai_api_key": "sk-\n"}, "VECTORPOOL_OPENAI_API_KEY"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(endpoint: Endpoint, changes: dict[str, Any], says: str) -> None:
    """Before anything is sent, the error names the setting."""
    with pytest.raises(Misconfigured, match=says):
        open_embedder(settings_for(endpoint, **changes))
