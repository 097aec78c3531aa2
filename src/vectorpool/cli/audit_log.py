"""``vectorpool audit``: entries of the audit, from a service or from the bucket, and on as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from vectorpool.audit import Audit, AuditPage, Entry, Query, check_day, cursor_at, day_of
from vectorpool.cli.console import err, out, run
from vectorpool.cli.logs import open_store
from vectorpool.cli.service_client import ServiceClient, open_client
from vectorpool.names import check_user_id
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.unusable import printable
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM

_PAGE: Final = 200
_LOOK_S: Final = 2.0
# An entry's name has the clock of its instance, and it is written a little later: so far back looks overlap.
_OVERLAP_MS: Final = 60_000
_REMEMBERED: Final = 100_000


class _Reader:
    """Reads pages from a service or a bucket."""

    def __init__(self, query: Query, client: ServiceClient | None, bucket: Bucket | None, settings: Settings) -> None:
        self._query = query
        self._client = client
        self._audit = None if bucket is None else Audit(bucket, settings)

    async def page(self, cursor: str | None) -> AuditPage:
        if self._audit is not None:
            return await self._audit.page(self._query, limit=_PAGE, cursor=cursor)
        assert self._client is not None
        asked = {
            "since": self._query.since,
            "until": self._query.until,
            "user": self._query.user_id,
            "action": self._query.action,
            "cursor": cursor,
            "limit": _PAGE,
        }
        params = {name: value for name, value in asked.items() if value is not None}
        return msgspec.convert(await self._client.ask("GET", "/admin/audit", params=params), AuditPage)

    async def all(self, cursor: str | None) -> AsyncIterator[Entry]:
        unreadable = 0
        while True:
            page = await self.page(cursor)
            unreadable += page.unreadable
            for entry in page.entries:
                yield entry
            if (cursor := page.next_cursor) is None:
                break
        if unreadable:
            err.print(f"{unreadable} objects among the entries are none; passed over")


def audit(
    settings: Settings,
    since: str | None,
    until: str | None,
    of_user: str | None,
    action: str | None,
    follow: bool,
    service: str | None,
    token_file: Path | None,
    as_json: bool,
) -> int:
    """Print the chosen entries; return the exit code."""
    query = Query(
        since=check_day(since) if since else day_of(SYSTEM.now_ms()),
        until=None if until is None else check_day(until),
        user_id=None if of_user is None else check_user_id(of_user),
        action=action,
    )
    with contextlib.suppress(KeyboardInterrupt):
        return run(_audit(settings, query, follow, service, token_file, as_json))
    return 0


async def _audit(
    settings: Settings, query: Query, follow: bool, service: str | None, token_file: Path | None, as_json: bool
) -> int:
    async with contextlib.AsyncExitStack() as stack:
        client = bucket = None
        if service is not None:
            client = await stack.enter_async_context(open_client(service, token_file))
        else:
            bucket = await stack.enter_async_context(open_store(settings))
        reader = _Reader(query, client, bucket, settings)
        shown: OrderedDict[tuple[str, bool], None] = OrderedDict()
        cursor: str | None = None
        while True:
            looked_ms = SYSTEM.now_ms()
            async for entry in reader.all(cursor):
                mark = entry.id, entry.outcome == "begun"
                if mark not in shown:
                    shown[mark] = None
                    _print(entry, as_json)
            while len(shown) > _REMEMBERED:
                shown.popitem(last=False)
            if not follow:
                return 0
            cursor = cursor_at(looked_ms - _OVERLAP_MS)
            await asyncio.sleep(_LOOK_S)


def _print(entry: Entry, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(entry).decode())
        return
    when = datetime.fromtimestamp(entry.time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    result = entry.outcome + (f" ({entry.error})" if entry.error else "")
    about = f" user {printable(entry.user_id)}" if entry.user_id is not None else ""
    out.print(
        f"{when}  {entry.action}{about}  {result}  by {printable(entry.caller)}{_rest(entry)}",
        markup=False,
        style="red" if entry.outcome == "failed" else None,
    )


def _rest(entry: Entry) -> str:
    parts: list[str] = []
    if entry.via != "service":
        parts.append(entry.via)
    if entry.request_id:
        parts.append(f"request {printable(entry.request_id)}")
    told: dict[str, Any] = {name: value for name, value in entry.detail.items() if value not in (None, {}, [])}
    if told:
        parts.append(printable(msgspec.json.encode(told).decode()))
    return f"  [{'; '.join(parts)}]" if parts else ""
