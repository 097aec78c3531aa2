"""Any endpoint with OpenAI's ``POST {url}/embeddings``.

The queue's threads send requests, ``_CONNECTIONS`` at a time, over kept-alive connections. 408, 409, 429, 5xx,
time-outs and broken connections are repeated, a bounded number of times, after a wait that doubles, has jitter,
and is at least what Retry-After says; a longer Retry-After than ``_LONGEST_WAIT_S`` is returned to the caller instead.
The key goes into one header and nowhere else: no message, log line or error carries it.

Tokens are counted with the shipped word pieces; on prose the counts are close to those of the endpoint's tokenizer.
"""

from __future__ import annotations

import asyncio
import email.utils
import threading
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import msgspec
import numpy as np
import numpy.typing as npt

from vectorpool.embedding.counts import EmbeddingCounts
from vectorpool.embedding.queue import EmbeddingQueue
from vectorpool.embedding.tokens import Tokens, load_word_pieces
from vectorpool.errors import UNDECODABLE, Draining, EmbedderUnavailable, InvalidRequest, Misconfigured, VectorpoolError
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.telemetry.figures import Figures
from vectorpool.version import __version__

MAX_TOKENS = 8191

_CONNECTIONS = 4
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 20.0
# 2,048 vectors of 8,192 numbers as JSON text are about 350 MB; a batch of this service needs less than a tenth of it.
_MAX_ANSWER_BYTES = 64 * 1024**2
# More than a request can have: a number beyond is not a count.
_MOST_TOKENS = 10**9
_AGAIN = frozenset({408, 409, 429})


class _Row(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Row]
    # Of no use for the vectors: an endpoint may leave it out, or fill it as it likes.
    usage: Any = None


class _Failed(Exception):
    """An attempt that may be repeated. ``wait_s`` is the endpoint's Retry-After, in seconds."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


class OpenAiEndpoint:
    """The blocking client: a batch of texts in, vectors out. Safe to call from several threads."""

    def __init__(self, settings: Settings, sources: Sources, counts: EmbeddingCounts | None = None) -> None:
        """Prepare connections; nothing is sent yet."""
        self._counts = EmbeddingCounts(Figures()) if counts is None else counts
        self._url = settings.openai_url.rstrip("/") + "/embeddings"
        self._key = settings.openai_api_key
        self._model = settings.embedder_model
        self._timeout_s = settings.openai_timeout_s
        self._retries = settings.openai_retries
        self._sources = sources
        self._closing = threading.Event()
        # Whether a caller still waits for the request of the calling thread.
        self.is_wanted: Callable[[], bool] = lambda: True
        # The span that the request of the calling thread belongs to, in W3C's form; empty without one.
        self.traceparent: Callable[[], str] = lambda: ""
        headers = {"user-agent": f"vectorpool/{__version__}"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        self._client = httpx.Client(
            headers=headers,
            timeout=settings.openai_timeout_s,
            limits=httpx.Limits(max_connections=_CONNECTIONS),
            follow_redirects=False,
        )

    def close(self) -> None:
        """End waits between attempts and close the connections."""
        self._closing.set()
        self._client.close()

    def interrupt(self) -> None:
        """End waits between attempts."""
        self._closing.set()

    def __call__(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return float32[n, d]; raise EmbedderUnavailable after the last attempt."""
        wait_s = _FIRST_WAIT_S
        for attempt in range(self._retries + 1):
            try:
                return self._ask(texts)
            except _Failed as failed:
                pause_s = max(failed.wait_s, wait_s * (0.5 + self._sources.random()))
                if attempt == self._retries or pause_s > _LONGEST_WAIT_S:
                    raise EmbedderUnavailable(
                        f"The embedding endpoint {self._url} {failed.reason}; {attempt + 1} attempts were made. Send "
                        "the request again later.",
                        retry_after_s=max(failed.wait_s, 2.0),
                    ) from None
                if self._closing.wait(pause_s):
                    raise Draining("The embedder is shutting down. Send the request again later.") from None
                if not self.is_wanted():
                    raise EmbedderUnavailable("The callers of this run left, so no further attempt is made.") from None
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S / 2)
        raise AssertionError("the loop returns or raises")

    def _ask(self, texts: list[str]) -> npt.NDArray[np.float32]:
        # Endpoints refuse the empty string, but an empty text is valid here.
        body = {"model": self._model, "input": [text or " " for text in texts], "encoding_format": "float"}
        headers = {"content-type": "application/json"}
        if traceparent := self.traceparent():
            headers["traceparent"] = traceparent
        deadline_s = self._sources.monotonic_s() + self._timeout_s
        try:
            with self._client.stream("POST", self._url, content=msgspec.json.encode(body), headers=headers) as response:
                answer = self._read(response, deadline_s)
        except httpx.TimeoutException:
            raise _Failed(f"did not answer within {self._timeout_s:g} s") from None
        except httpx.HTTPError as error:
            raise _Failed(f"broke the connection ({self._clean(str(error)) or type(error).__name__})") from None
        except httpx.InvalidURL:
            raise Misconfigured(f"{self._url} is not a URL. Set VECTORPOOL_OPENAI_URL to the endpoint's.") from None
        if response.status_code != 200:
            raise self._refusal(response, answer)
        return self._vectors(answer, len(texts))

    def _read(self, response: httpx.Response, deadline_s: float) -> bytes:
        """Return the body; bounded in bytes, and in time even if it arrives slowly."""
        parts = bytearray()
        for part in response.iter_bytes():
            parts += part
            if len(parts) > _MAX_ANSWER_BYTES:
                raise self._nonsense(f"more than {_MAX_ANSWER_BYTES} bytes")
            if self._sources.monotonic_s() > deadline_s:
                raise _Failed(f"did not finish its answer within {self._timeout_s:g} s")
        return bytes(parts)

    def _refusal(self, response: httpx.Response, body: bytes) -> Exception:
        """Return what an answer other than 200 means."""
        status = response.status_code
        if status in _AGAIN or status >= 500:
            return _Failed(f"answered {status}", self._retry_after_s(response))
        said = self._clean(body[:2000].decode("utf-8", "replace"))[:300]
        if status in (401, 403):
            how = "refuses the key" if self._key else "wants a key"
            return Misconfigured(
                f"The embedding endpoint {self._url} {how} (status {status}). Set VECTORPOOL_OPENAI_API_KEY to one "
                "that may use the model."
            )
        if status in (404, 405) or 300 <= status < 400:
            return Misconfigured(
                f"The embedding endpoint {self._url} answered {status} for the model {self._model!r}: {said}. Check "
                "VECTORPOOL_OPENAI_URL and VECTORPOOL_EMBEDDER_MODEL."
            )
        return InvalidRequest(f"The embedding endpoint {self._url} refuses the texts (status {status}): {said}.")

    def _retry_after_s(self, response: httpx.Response) -> float:
        text = response.headers.get("retry-after", "")
        try:
            return min(max(0.0, float(text)), 86_400.0)
        except ValueError:
            pass
        try:
            at_s = email.utils.parsedate_to_datetime(text).timestamp()
        except (ValueError, TypeError):
            return 0.0
        return min(max(0.0, at_s - self._sources.now_ms() / 1000), 86_400.0)

    def _vectors(self, body: bytes, count: int) -> npt.NDArray[np.float32]:
        try:
            answer = msgspec.json.decode(body, type=_Answer)
            rows = sorted(answer.data, key=lambda row: row.index)
        except UNDECODABLE:
            raise self._nonsense("something that is not a list of embeddings") from None
        if [row.index for row in rows] != list(range(count)):
            raise self._nonsense(f"{len(rows)} embeddings for {count} texts")
        if len({len(row.embedding) for row in rows}) != 1 or not rows[0].embedding:
            raise self._nonsense("embeddings of different or no dimension")
        # A number too large for float32 becomes infinite, and the check below refuses it.
        with np.errstate(over="ignore"):
            vectors = np.array([row.embedding for row in rows], dtype=np.float64).astype(np.float32)
        if not np.isfinite(vectors).all():
            raise self._nonsense("embeddings that are not finite")
        tokens = answer.usage.get("total_tokens") if isinstance(answer.usage, dict) else None
        if isinstance(tokens, int) and 0 <= tokens <= _MOST_TOKENS:
            self._counts.tokens.add(tokens)
        return vectors

    def _nonsense(self, what: str) -> VectorpoolError:
        return EmbedderUnavailable(
            f"The embedding endpoint {self._url} answered with {what}. Check that VECTORPOOL_OPENAI_URL is an "
            "OpenAI-compatible endpoint.",
            retry_after_s=10.0,
        )

    def _clean(self, text: str) -> str:
        """Return an endpoint's text on one line, with the key removed."""
        if self._key:
            text = text.replace(self._key, "***")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())


class OpenAiEmbedder:
    """An endpoint behind the queue. See Embedder for what the methods promise."""

    max_tokens = MAX_TOKENS

    def __init__(self, settings: Settings, sources: Sources, counts: EmbeddingCounts | None = None) -> None:
        self._counts = EmbeddingCounts(Figures()) if counts is None else counts
        self._settings = settings
        self._endpoint = OpenAiEndpoint(settings, sources, self._counts)
        self._queue: EmbeddingQueue | None = None
        self.name = f"openai:{settings.embedder_model}"
        self.dimension = 0
        self.tokenizer = Tokens(load_word_pieces())

    async def start(self) -> None:
        """Embed one word, to find the dimension and to detect a wrong key or URL at the start."""
        try:
            self.dimension = (await asyncio.to_thread(self._endpoint, ["dimension"])).shape[1]
        except (EmbedderUnavailable, InvalidRequest) as error:
            raise Misconfigured(f"The embedder does not work. {error.detail}") from error
        settings = self._settings
        self._queue = EmbeddingQueue(
            self._embed_batch,
            batch=settings.embedder_batch,
            limit=settings.embedder_queue,
            workers=_CONNECTIONS,
            counts=self._counts,
        )
        self._endpoint.is_wanted = self._queue.is_wanted
        self._endpoint.traceparent = self._queue.traceparent
        self._queue.start()

    def _embed_batch(self, texts: list[str]) -> npt.NDArray[np.float32]:
        vectors: npt.NDArray[np.float32] = self._endpoint(texts)
        if vectors.shape[1] != self.dimension:
            raise EmbedderUnavailable(
                f"The embedding endpoint answered with dimension {vectors.shape[1]}, and at start it was "
                f"{self.dimension}. Its model was exchanged: start vectorpool again."
            )
        return vectors

    async def embed(self, texts: Sequence[str], user_id: str = "") -> npt.NDArray[np.float32]:
        """Return float32[n, dimension], as the endpoint makes them."""
        assert self._queue is not None, "start() comes first"
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return await self._queue.embed(texts, user_id)

    async def close(self) -> None:
        """Fail waiting calls, and wait until the requests under way end."""
        self._endpoint.interrupt()
        if self._queue is not None:
            await self._queue.close()
        self._endpoint.close()


def build(
    settings: Settings, sources: Sources, counts: EmbeddingCounts | None = None, *, is_bulk: bool = False
) -> OpenAiEmbedder:
    """Return the embedder, not started; raise Misconfigured if the model or a usable URL is missing.

    ``is_bulk`` makes no difference.
    """
    if not settings.embedder_model:
        raise Misconfigured(
            "The openai embedder needs the name of a model. Set VECTORPOOL_EMBEDDER_MODEL, such as "
            "text-embedding-3-small."
        )
    if not settings.openai_url.startswith(("http://", "https://")):
        raise Misconfigured("VECTORPOOL_OPENAI_URL does not begin with http:// or https://. Set it to the endpoint's.")
    if httpx.URL(settings.openai_url).userinfo:
        raise Misconfigured("VECTORPOOL_OPENAI_URL holds a user or password. Move it to VECTORPOOL_OPENAI_API_KEY.")
    if settings.openai_api_key and not (settings.openai_api_key.isascii() and settings.openai_api_key.isprintable()):
        raise Misconfigured("VECTORPOOL_OPENAI_API_KEY holds characters that no key has. Set it again.")
    return OpenAiEmbedder(settings, sources, counts)
