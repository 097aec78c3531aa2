"""Limits that operators store for users: one small object for each such user, known to every instance within a minute.

One listing shows which objects changed, and only those are read. An object that cannot be read as limits is reported,
and changes nothing: the limits that were read before stay, or the defaults if there were none. While the store does not
answer, what was known stays known.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import msgspec

from vectorpool.errors import InvalidRequest, LimitExceeded, StoreUnavailable
from vectorpool.limits import Given, read_limits
from vectorpool.names import limits_key, limits_prefix, parse_limits_key
from vectorpool.objects.bucket import Bucket, BucketDenied, BucketUnavailable, ObjectInfo, ObjectMissing
from vectorpool.objects.refusals import unavailable
from vectorpool.sources import Sources

MAX_USERS: Final = 100_000
_MAX_OBJECT_BYTES: Final = 16 * 1024
_PAGE: Final = 1000
_READS: Final = 16

_logger = logging.getLogger(__name__)


class StoredLimits(msgspec.Struct, frozen=True):
    """What is stored for one user. ``given`` is None if it could never be read; ``problem`` says what is wrong with it.

    ``changed_at_ms`` is when they were set, milliseconds since 1970.
    """

    given: dict[str, float | None] | None
    etag: str
    changed_at_ms: int | None = None
    problem: str | None = None


class _Object(msgspec.Struct):
    """The object of one user."""

    limits: dict[str, Any]
    changed_at_ms: int | None = None


class LimitStore:
    """The stored limits, as this instance knows them. Belongs to one event loop."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._bucket: Bucket | None = None
        # By user. Only this object changes it.
        self.known: dict[str, StoredLimits] = {}
        # Users whose limits were changed here since the last listing began.
        self._written: set[str] = set()
        self._foreign: frozenset[str] = frozenset()
        self.generation = 0

    def __len__(self) -> int:
        return len(self.known)

    def find(self, user_id: str) -> StoredLimits | None:
        """Return what is stored for a user; None if nothing is."""
        return self.known.get(user_id)

    def given(self, user_id: str) -> Given | None:
        """Return the limits that are stored for a user; None if there are none that can be read."""
        known = self.known.get(user_id)
        return None if known is None else known.given

    # --- Reading -------------------------------------------------------------------------------------

    async def open(self, bucket: Bucket) -> None:
        """Read what is stored. If the store does not answer, the defaults are in force until it does."""
        self._bucket = bucket
        try:
            await self.load()
        except StoreUnavailable as error:
            _logger.error("limits that are stored for users are not known yet: %s", error.detail)

    async def watch(self, every_s: float) -> None:
        """Read again at an interval, until cancelled."""
        while True:
            await self._sources.sleep(every_s)
            # The supervisor logs a failure and starts again, sooner than the next interval.
            await self.load()

    async def load(self) -> None:
        """List what is stored, and read what changed. Raises StoreUnavailable, and keeps what was known."""
        assert self._bucket is not None, "it is opened"
        self._written.clear()
        listed: dict[str, ObjectInfo] = {}
        foreign: set[str] = set()
        after: str | None = None
        try:
            while True:
                page = await self._bucket.list_objects(limits_prefix(), limit=_PAGE, after=after)
                for info in page:
                    user_id = parse_limits_key(info.key)
                    if user_id is not None:
                        listed[user_id] = info
                    elif len(foreign) < _PAGE:
                        foreign.add(info.key)
                if len(page) < _PAGE:
                    break
                if len(listed) >= MAX_USERS:
                    _logger.error(
                        "limits are stored for more than %d users; those of the last are not known", MAX_USERS
                    )
                    break
                after = page[-1].key
            changed = [user_id for user_id, info in listed.items() if self._is_new(user_id, info)]
            for start in range(0, len(changed), _READS):
                part = changed[start : start + _READS]
                read = await asyncio.gather(*(self._read(self._bucket, user_id, listed[user_id]) for user_id in part))
                for user_id, stored in zip(part, read, strict=True):
                    self._set(user_id, stored)
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(self._bucket.url, "reading the limits of users", error) from error
        for user_id in self.known.keys() - listed.keys():
            self._set(user_id, None)
        if foreign - self._foreign:
            _logger.warning("%d objects below %s are of no user, and are passed over", len(foreign), limits_prefix())
        self._foreign = frozenset(foreign)

    def _is_new(self, user_id: str, info: ObjectInfo) -> bool:
        known = self.known.get(user_id)
        return known is None or known.etag != info.etag

    def _set(self, user_id: str, stored: StoredLimits | None) -> None:
        if user_id in self._written:
            # The listing may have begun before that.
            return
        if stored is None:
            self.known.pop(user_id, None)
        else:
            self.known[user_id] = stored
        self.generation += 1

    async def _read(self, bucket: Bucket, user_id: str, info: ObjectInfo) -> StoredLimits | None:
        before = self.given(user_id)
        try:
            if info.size > _MAX_OBJECT_BYTES:
                raise InvalidRequest(f"it has {info.size} bytes, and at most {_MAX_OBJECT_BYTES} are read")
            body = await bucket.get(info.key)
            found = msgspec.json.decode(body.data, type=_Object)
            return StoredLimits(read_limits(found.limits, nulls=True), body.etag, found.changed_at_ms)
        except ObjectMissing:
            return None
        except (InvalidRequest, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            why = error.detail if isinstance(error, InvalidRequest) else str(error)
            kept = "those that were read before are" if before is not None else "the defaults are"
            _logger.error("the limits that are stored for a user cannot be read, %s in force: %s", kept, why)
            problem = f"The object {info.key} holds no limits ({why[:300]}); {kept} in force. Put the limits again."
            return StoredLimits(None if before is None else dict(before), info.etag, problem=problem)

    # --- Changing ------------------------------------------------------------------------------------

    async def put(self, user_id: str, given: Given) -> StoredLimits:
        """Store the limits of a user in the place of earlier ones. Raises LimitExceeded, StoreUnavailable."""
        if user_id not in self.known and len(self.known) >= MAX_USERS:
            raise LimitExceeded(
                f"Limits are stored for {MAX_USERS} users, which is the most. Delete some, or change the defaults.",
                extra={"limit": MAX_USERS},
            )
        now_ms = self._sources.now_ms()
        body = msgspec.json.encode(_Object(dict(given), now_ms))
        bucket = self._opened()
        try:
            etag = await bucket.put(limits_key(user_id), body)
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(bucket.url, "storing the limits of a user", error) from error
        stored = StoredLimits(dict(given), etag, now_ms)
        self._change(user_id, stored)
        return stored

    async def delete(self, user_id: str) -> bool:
        """Delete the limits that are stored for a user; return whether any were. Raises StoreUnavailable."""
        bucket = self._opened()
        try:
            try:
                await bucket.head(limits_key(user_id))
            except ObjectMissing:
                if user_id not in self.known:
                    return False
            await bucket.delete(limits_key(user_id))
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(bucket.url, "deleting the limits of a user", error) from error
        self._change(user_id, None)
        return True

    def _opened(self) -> Bucket:
        if self._bucket is None:
            raise StoreUnavailable("The instance is not started yet. Send the request again.")
        return self._bucket

    def _change(self, user_id: str, stored: StoredLimits | None) -> None:
        self._written.discard(user_id)
        self._set(user_id, stored)
        self._written.add(user_id)
        _logger.info("the limits of a user were %s", "set" if stored is not None else "deleted")
