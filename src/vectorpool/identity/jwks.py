"""The public keys of an identity provider: a JWKS document of a URL or of a file, cached and renewed.

The document is fetched at the start, then at an interval, and when a token names a key that is not known, at most once
in ``COOLDOWN_S``. If it cannot be fetched, or holds no key that can be used, the keys that were known stay for
``MAX_AGE_S``: a provider that is down for longer has issued no token that is still valid.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from vectorpool.environment import check_writers
from vectorpool.errors import Misconfigured, TokenKeysUnavailable
from vectorpool.identity.signatures import PublicKey, public_key
from vectorpool.sources import Sources
from vectorpool.supervision import rest

MAX_BYTES: Final = 1024**2
MAX_KEYS: Final = 256
# For the whole fetch. A provider that hangs delays only requests whose key is not known.
FETCH_S: Final = 5.0
COOLDOWN_S: Final = 10.0
MAX_AGE_S: Final = 86_400.0
# Requests that wait for a fetch at once; more are refused.
MAX_WAITERS: Final = 64

_logger = logging.getLogger(__name__)


class _Document(msgspec.Struct):
    keys: list[dict[str, Any]]


class Unusable(Exception):
    """The document cannot be fetched, or has no key that can be used. The text says why."""


def parse(content: bytes) -> dict[tuple[str | None, str], PublicKey]:
    """Return the keys of a JWKS document that verify, by key id and algorithm. Raises Unusable if there are none.

    Other keys are passed over: symmetric and private ones (a public document holds no secret), those for encryption,
    of other algorithms, and too short ones. Of two keys with the same id and algorithm the first counts.
    """
    try:
        document = msgspec.json.decode(content, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Unusable('it is not a JSON object with "keys"') from None
    if len(document.keys) > MAX_KEYS:
        raise Unusable(f"it has more than {MAX_KEYS} keys")
    found: dict[tuple[str | None, str], PublicKey] = {}
    for member in document.keys:
        key = public_key(member)
        if key is not None:
            found.setdefault((key.key_id, key.algorithm), key)
    if not found:
        raise Unusable("it has no key for RS256, ES256 or EdDSA")
    return found


class ProviderKeys:
    """The keys of one provider, of an ``https://`` URL or a path. Belongs to one event loop."""

    def __init__(self, location: str, refresh_s: float, sources: Sources) -> None:
        self._is_url = "://" in location
        self._location = location
        self._refresh_s = refresh_s
        self._sources = sources
        self._keys: dict[tuple[str | None, str], PublicKey] = {}
        self._content = b""
        # Of the last success, and of the last attempt.
        self._read_s: float | None = None
        self._tried_s: float | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._waiters = 0
        # Changes with the keys: what was verified by older ones is verified again.
        self.generation = 0

    async def open(self) -> None:
        """Read the keys. Raises Misconfigured for a file that cannot be used; a URL may be down, and is tried again."""
        try:
            await self._read()
        except Unusable as error:
            if not self._is_url:
                raise Misconfigured(
                    f"token_jwks = {self._location} cannot be used: {error}. Correct the file."
                ) from None
            _logger.error("the keys of tokens cannot be fetched: %s; they are asked for again", error)

    async def watch(self, look_s: float) -> None:
        """Read the keys again at their interval, a file as often as ``look_s``, until cancelled."""
        while True:
            await rest(self._sources, self._pause_s(look_s))
            await self.renew()

    def _pause_s(self, look_s: float) -> float:
        if not self._is_url:
            return look_s
        return self._refresh_s if self._read_s is not None and self._read_s == self._tried_s else COOLDOWN_S

    async def find(self, key_id: str | None, algorithm: str) -> PublicKey | None:
        """Return the key of a token's header, None if the provider has none. Raises TokenKeysUnavailable."""
        key = self._known(key_id, algorithm)
        if key is None and self._may_ask():
            await self._wait()
            key = self._known(key_id, algorithm)
        if key is None and self._is_stale():
            raise TokenKeysUnavailable(
                "The keys that verify this token cannot be fetched from its issuer now. Try again in a moment.",
                retry_after_s=COOLDOWN_S,
            )
        return key

    def _known(self, key_id: str | None, algorithm: str) -> PublicKey | None:
        if self._is_stale():
            return None
        if key_id is None:
            fitting = [key for (_, of), key in self._keys.items() if of == algorithm]
            return fitting[0] if len(fitting) == 1 else None
        return self._keys.get((key_id, algorithm))

    def _is_stale(self) -> bool:
        if self._read_s is None:
            return True
        return self._is_url and self._sources.monotonic_s() - self._read_s > MAX_AGE_S

    def _may_ask(self) -> bool:
        """Return whether a document may be fetched now for a key that is not known."""
        if self._fetching is not None:
            return self._waiters < MAX_WAITERS
        return self._tried_s is None or self._sources.monotonic_s() - self._tried_s >= COOLDOWN_S

    async def _wait(self) -> None:
        """Fetch, or wait for the fetch that is under way; a caller that leaves does not end it."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self.renew())
            self._fetching.add_done_callback(self._fetched)
        self._waiters += 1
        try:
            await asyncio.shield(self._fetching)
        finally:
            self._waiters -= 1

    def _fetched(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def renew(self) -> None:
        """Read the keys now. What cannot be read changes nothing, and the log says why."""
        try:
            await self._read()
        except Unusable as error:
            _logger.warning("the keys of tokens could not be read again, those that were known stay: %s", error)

    async def _read(self) -> None:
        self._tried_s = began_s = self._sources.monotonic_s()
        content = await (self._fetch() if self._is_url else asyncio.to_thread(self._load))
        if content != self._content:
            self._keys = await asyncio.to_thread(parse, content)
            self._content = content
            self.generation += 1
        self._read_s = began_s

    def _load(self) -> bytes:
        try:
            with Path(self._location).open("rb") as file:
                check_writers("file of token_jwks", Path(self._location), file.fileno())
                content = file.read(MAX_BYTES + 1)
        except Misconfigured as error:
            raise Unusable(error.detail.rstrip(".")) from None
        except OSError as error:
            raise Unusable(f"it cannot be read: {error.strerror}") from None
        if len(content) > MAX_BYTES:
            raise Unusable(f"it is larger than {MAX_BYTES} bytes")
        return content

    async def _fetch(self) -> bytes:
        try:
            async with (
                asyncio.timeout(FETCH_S),
                httpx.AsyncClient(follow_redirects=False, timeout=FETCH_S) as client,
                client.stream("GET", self._location, headers={"Accept": "application/json"}) as response,
            ):
                if response.status_code != 200:
                    raise Unusable(f"the answer has the status {response.status_code}")
                content = bytearray()
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > MAX_BYTES:
                        raise Unusable(f"it is larger than {MAX_BYTES} bytes")
                return bytes(content)
        except TimeoutError:
            raise Unusable(f"no whole answer came within {FETCH_S:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise Unusable(f"no answer came: {type(error).__name__}") from None
