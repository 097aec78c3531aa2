"""The audit: what operators, deletions, restores, forks, changes of tokens and limits did, as append-only objects.

An entry is one object below ``.vectorpool/audit/{day}/``, written by a conditional create and never overwritten. Its
name has the time, an id, a digest of the user and the action, so that a reader chooses entries without reading them.
What an entry holds is for operators: ids of users are in it, secrets are not.

An action that changes what is stored, or who may do what, has two entries of one id. The first says that it begins, and
is written before anything else: if it cannot be, the action is refused, and nothing happened (``recorded``). The second
says how it ended. If only the first is there, the instance did not live to say so. An action that changes nothing that
is stored (to evict a vectorstore, to start a shard again) has one entry, after it, and is not refused while the store
does not answer, because operators need it most then (``record``). An entry that cannot be written any more is logged
whole, at ERROR.

Entries are kept for ``audit_retention_s``, in whole days. Each instance removes older ones, a bounded number at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

import msgspec

from vectorpool import names
from vectorpool.cursors import from_cursor, to_cursor
from vectorpool.errors import DeadlineExceeded, InvalidRequest, OutcomeUnknown, StoreUnavailable, VectorpoolError
from vectorpool.objects.bucket import Bucket, BucketDenied, BucketUnavailable, ObjectExists, ObjectMissing
from vectorpool.objects.refusals import unavailable
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.supervision import rest

Outcome: TypeAlias = Literal["begun", "done", "failed", "unknown"]

# The longest wait for an entry to be written, and the longest text of one member of its details.
_WRITE_S: Final = 10.0
_MAX_TEXT: Final = 1000
_PAGE: Final = 1000
# Listings that one page of a reader may take, and entries that are read at the same time.
_LISTINGS: Final = 10
_AT_ONCE: Final = 16
# How often old entries are looked for, and how many listings of them one look may delete.
_REMOVE_EVERY_S: Final = 6 * 3600.0
_REMOVALS: Final = 10

_log = logging.getLogger(__name__)


class Who(msgspec.Struct, frozen=True):
    """Who acts: the name of a token (or of an account, on the command line), the id of a signed one, the request."""

    caller: str
    request_id: str = ""
    token_id: str | None = None
    via: Literal["service", "command line", "background"] = "service"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry. ``error`` is the code of an error; ``detail`` is what the action was given, or what it did."""

    time_ms: int
    id: str
    action: str
    outcome: Outcome
    caller: str
    user_id: str | None = None
    request_id: str = ""
    token_id: str | None = None
    via: str = "service"
    error: str | None = None
    detail: dict[str, Any] = {}


class AuditPage(msgspec.Struct):
    """Entries, oldest first. ``next_cursor`` asks for what follows; None: this was the end.

    A page may hold fewer entries than were asked for before the end. ``unreadable`` counts objects that are no entries.
    """

    entries: list[Entry]
    next_cursor: str | None = None
    unreadable: int = 0


class Query(msgspec.Struct, frozen=True):
    """Which entries to read: of days (``2026-11-21``) from ``since`` to ``until``, of one user, of one action."""

    since: str | None = None
    until: str | None = None
    user_id: str | None = None
    action: str | None = None


class Audit:
    """The audit of one bucket. Belongs to one event loop; any number may exist, in any process."""

    def __init__(self, bucket: Bucket, settings: Settings, sources: Sources = SYSTEM) -> None:
        self._bucket = bucket
        self._settings = settings
        self._sources = sources
        # Entries that are written after their caller left.
        self._writing: set[asyncio.Task[None]] = set()

    # --- Writing -------------------------------------------------------------------------------------

    async def record(
        self,
        action: str,
        who: Who,
        *,
        user_id: str | None = None,
        outcome: Outcome = "done",
        error: str | None = None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Note what was done, after it was done. An entry that cannot be written is logged whole, at ERROR."""
        entry = self._entry(action, who, user_id, outcome, error, detail)
        await asyncio.shield(self._later(entry))

    @asynccontextmanager
    async def recorded(
        self, action: str, who: Who, *, user_id: str | None = None, detail: dict[str, Any] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Note that an action begins, yield what its block adds to the details, and note how it ended.

        Raises StoreUnavailable, and the block does not run, if the beginning cannot be noted.
        """
        begun = self._entry(action, who, user_id, "begun", None, detail)
        await self._write(begun, "begun")
        added: dict[str, Any] = {}
        outcome: Outcome = "unknown"
        code: str | None = None
        try:
            yield added
            outcome = "done"
        except VectorpoolError as error:
            # At its deadline a change goes on without its caller.
            outcome, code = "unknown" if isinstance(error, OutcomeUnknown | DeadlineExceeded) else "failed", error.code
            raise
        except Exception as error:
            outcome, code = "failed", type(error).__name__
            raise
        finally:
            ended = self._entry(action, who, user_id, outcome, code, {**(detail or {}), **added}, begun.id)
            await asyncio.shield(self._later(ended))

    def _entry(
        self,
        action: str,
        who: Who,
        user_id: str | None,
        outcome: Outcome,
        error: str | None,
        detail: dict[str, Any] | None,
        entry_id: str | None = None,
    ) -> Entry:
        return Entry(
            time_ms=self._sources.now_ms(),
            id=entry_id or hashlib.sha256(self._sources.uuid().encode()).hexdigest()[:32],
            action=action,
            outcome=outcome,
            caller=_short(who.caller),
            user_id=user_id,
            request_id=_short(who.request_id),
            token_id=None if who.token_id is None else _short(who.token_id),
            via=who.via,
            error=error,
            detail={name: _short(value) if isinstance(value, str) else value for name, value in (detail or {}).items()},
        )

    def _later(self, entry: Entry) -> asyncio.Task[None]:
        """Write an entry in a task, which ends also if its caller leaves."""
        task = asyncio.create_task(self._write_or_log(entry))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return task

    async def _write_or_log(self, entry: Entry) -> None:
        try:
            await self._write(entry, "ended")
        except VectorpoolError as error:
            # Operators' own log is the one place that is left; so this line has the ids that others leave out.
            _log.error("an entry of the audit is not written: %s %s", msgspec.json.encode(entry).decode(), error)

    async def _write(self, entry: Entry, phase: str) -> None:
        key = names.audit_key(day_of(entry.time_ms), entry.time_ms, entry.id, entry.user_id, entry.action, phase)
        try:
            async with asyncio.timeout(_WRITE_S):
                await self._bucket.create(key, msgspec.json.encode(entry))
        except ObjectExists:
            # Its id is new, so this is an earlier attempt of the same create.
            return
        except TimeoutError:
            raise StoreUnavailable(
                f"The object store {self._bucket.url} did not take an entry of the audit within {_WRITE_S:g} s, so the "
                "action did not begin. Send the request again."
            ) from None
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(
                self._bucket.url, "writing the audit, without which the action does not begin", error
            ) from error

    async def close(self) -> None:
        """Wait, for a bounded time, until the entries are written whose callers left."""
        if self._writing:
            await asyncio.wait(set(self._writing), timeout=_WRITE_S)

    # --- Reading -------------------------------------------------------------------------------------

    async def page(self, query: Query, *, limit: int, cursor: str | None = None) -> AuditPage:
        """Return entries, oldest first, at most ``limit``, after a cursor. Raises InvalidRequest, StoreUnavailable."""
        prefix, after = names.audit_prefix(), _start(query, cursor)
        wanted = None if query.user_id is None else names.audit_digest(query.user_id)
        page = AuditPage([])
        for _ in range(_LISTINGS):
            try:
                found = await self._bucket.list_objects(prefix, limit=_PAGE, after=after)
            except (BucketUnavailable, BucketDenied) as error:
                raise unavailable(self._bucket.url, "listing the audit", error) from error
            chosen = list[str]()
            for info in found:
                name = names.parse_audit_key(info.key)
                if query.until is not None and info.key[len(prefix) :][:10] > query.until:
                    return await self._read(page, chosen)
                if len(chosen) + len(page.entries) >= limit:
                    page.next_cursor = to_cursor((after or "").removeprefix(prefix))
                    return await self._read(page, chosen)
                after = info.key
                if name is None:
                    page.unreadable += 1
                elif wanted in (None, name["user"]) and query.action in (None, name["action"]):
                    chosen.append(info.key)
            await self._read(page, chosen)
            if len(found) < _PAGE:
                return page
        page.next_cursor = to_cursor((after or "").removeprefix(prefix))
        return page

    async def _read(self, page: AuditPage, keys: list[str]) -> AuditPage:
        for start in range(0, len(keys), _AT_ONCE):
            for entry in await asyncio.gather(*map(self._get, keys[start : start + _AT_ONCE])):
                if entry is None:
                    page.unreadable += 1
                else:
                    page.entries.append(entry)
        return page

    async def _get(self, key: str) -> Entry | None:
        """Return an entry; None for what another program put there, and for what is gone."""
        name = names.parse_audit_key(key)
        try:
            body = await self._bucket.get(key)
            entry = msgspec.json.decode(body.data, type=Entry)
        except (ObjectMissing, msgspec.DecodeError, UnicodeDecodeError):
            return None
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(self._bucket.url, "reading the audit", error) from error
        told = name is not None and (entry.id, f"{entry.time_ms:013d}") == (name["id"], name["time_ms"])
        return entry if told else None

    # --- The end of an entry -------------------------------------------------------------------------

    async def watch(self) -> None:
        """Remove old entries at an interval, until cancelled. Instances that start together begin at random times."""
        while True:
            await rest(self._sources, _REMOVE_EVERY_S * (0.5 + self._sources.random()))
            await self.remove_old()

    async def remove_old(self) -> int:
        """Remove entries of days that ended longer than ``audit_retention_s`` ago, a bounded number; return how many.

        Raises StoreUnavailable.
        """
        before = day_of(self._sources.now_ms() - int(self._settings.audit_retention_s * 1000))
        removed = 0
        try:
            for _ in range(_REMOVALS):
                page = await self._bucket.list_objects(names.audit_prefix(), limit=_PAGE)
                parsed = [(info.key, names.parse_audit_key(info.key)) for info in page]
                old = [key for key, name in parsed if name is not None and name["day"] < before]
                for start in range(0, len(old), _AT_ONCE):
                    await asyncio.gather(*map(self._bucket.delete, old[start : start + _AT_ONCE]))
                removed += len(old)
                if len(old) < _PAGE:
                    break
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(self._bucket.url, "removing old entries of the audit", error) from error
        return removed


def day_of(time_ms: int) -> str:
    """Return the day of a time, in UTC."""
    return datetime.fromtimestamp(max(time_ms, 0) / 1000, UTC).strftime("%Y-%m-%d")


def check_day(day: str) -> str:
    """Return a day if it is one; raise InvalidRequest."""
    try:
        return datetime.strptime(day, "%Y-%m-%d").strftime("%Y-%m-%d")
    except ValueError:
        raise InvalidRequest(f"{names.excerpt(day)} is no day. Write it as 2026-11-21.") from None


def _start(query: Query, cursor: str | None) -> str | None:
    """Return the key after which a page begins."""
    if cursor is not None:
        return names.audit_prefix() + from_cursor(cursor)
    return None if query.since is None else names.audit_prefix(check_day(query.since))[:-1]


def cursor_at(time_ms: int) -> str:
    """Return the cursor of the page that begins at a time."""
    return to_cursor(f"{day_of(time_ms)}/{time_ms:013d}")


def _short(text: str) -> str:
    shown = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
    return shown.encode("utf-8", "replace").decode()
