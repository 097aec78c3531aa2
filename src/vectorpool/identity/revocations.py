"""Revoked tokens: their ids, kept in the bucket and known to every instance within a minute.

A revocation is one object whose key has the time at which the token expires and the SHA-256 of its id. So one listing
of the keys that have not expired tells an instance all of them, and no object is read. Those that have expired are
removed. While the store does not answer, what was known stays known.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Final

import msgspec

from vectorpool.errors import LimitExceeded
from vectorpool.identity.claims import LEEWAY_S
from vectorpool.names import (
    MAX_SEQ,
    parse_revocation_key,
    revocation_key,
    revocations_after,
    revocations_prefix,
)
from vectorpool.objects.bucket import Bucket, BucketDenied, BucketUnavailable
from vectorpool.objects.refusals import unavailable
from vectorpool.sources import Sources
from vectorpool.supervision import rest

# With a listing that takes its whole time limit, a revocation is known within a minute.
REFRESH_S: Final = 20.0
MAX_REVOKED: Final = 100_000
# Whose expiry is not known: it stays revoked.
NEVER_S: Final = MAX_SEQ

_PAGE: Final = 1000
_REMOVE_EVERY_S: Final = 3600.0
_REMOVE_AFTER_S: Final = 86_400

_logger = logging.getLogger(__name__)


class Revocation(msgspec.Struct, frozen=True):
    """What the object of a revocation holds, for people. Times are milliseconds since 1970; None: it stays revoked."""

    token_id: str
    revoked_at_ms: int
    expires_at_ms: int | None = None


class Revocations:
    """The ids of revoked tokens, as this instance knows them. Belongs to one event loop."""

    def __init__(self, bucket: Bucket, sources: Sources) -> None:
        self._bucket = bucket
        self._sources = sources
        self._digests: frozenset[bytes] = frozenset()
        # Revoked here, and perhaps not in a listing that began before.
        self._new: set[bytes] = set()
        self._removed_s: float | None = None

    def has(self, token_id: str) -> bool:
        """Return whether a token of this id is revoked."""
        digest = _digest(token_id)
        return digest in self._digests or digest in self._new

    async def load(self) -> None:
        """Read the list again. Raises StoreUnavailable, and keeps what was known."""
        new = set(self._new)
        digests: set[bytes] = set()
        try:
            after = revocations_after(self._sources.now_ms() // 1000 - LEEWAY_S)
            while True:
                page = await self._bucket.list_objects(revocations_prefix(), limit=_PAGE, after=after)
                digests.update(parsed[1] for info in page if (parsed := parse_revocation_key(info.key)))
                if len(page) < _PAGE:
                    break
                if len(digests) >= 2 * MAX_REVOKED:
                    _logger.error("more than %d tokens are revoked; those that expire last are not known", len(digests))
                    break
                after = page[-1].key
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(self._bucket.url, "reading the list of revoked tokens", error) from error
        self._digests = frozenset(digests)
        self._new -= new

    async def watch(self) -> None:
        """Read the list again at an interval, and remove what has expired, until cancelled."""
        while True:
            # The supervisor logs a failure and starts again, sooner than the next interval.
            await self.load()
            now_s = self._sources.monotonic_s()
            if self._removed_s is None or now_s - self._removed_s >= _REMOVE_EVERY_S:
                self._removed_s = now_s
                await self._remove_expired()
            await rest(self._sources, REFRESH_S)

    async def revoke(self, token_id: str, expires_s: float | None) -> Revocation:
        """Revoke the tokens of an id until they expire. Raises LimitExceeded, StoreUnavailable."""
        if len(self._digests) + len(self._new) >= MAX_REVOKED:
            raise LimitExceeded(
                f"{MAX_REVOKED} tokens are revoked, which is the most. Change the key that signed them instead.",
                extra={"limit": MAX_REVOKED},
            )
        now_ms = self._sources.now_ms()
        until_s = NEVER_S if expires_s is None else int(expires_s) + 1
        # JSON holds no half of a surrogate pair; the key is what counts.
        shown = token_id.encode("utf-8", "replace").decode()
        revocation = Revocation(shown, now_ms, None if expires_s is None else until_s * 1000)
        try:
            await self._bucket.put(revocation_key(token_id, until_s), msgspec.json.encode(revocation))
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(self._bucket.url, "changing the list of revoked tokens", error) from error
        self._new.add(_digest(token_id))
        return revocation

    async def _remove_expired(self) -> None:
        before_s = self._sources.now_ms() // 1000 - _REMOVE_AFTER_S
        try:
            for info in await self._bucket.list_objects(revocations_prefix(), limit=_PAGE):
                parsed = parse_revocation_key(info.key)
                if parsed is not None and parsed[0] < before_s:
                    await self._bucket.delete(info.key)
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(self._bucket.url, "changing the list of revoked tokens", error) from error


def _digest(token_id: str) -> bytes:
    return hashlib.sha256(token_id.encode("utf-8", "surrogatepass")).digest()
