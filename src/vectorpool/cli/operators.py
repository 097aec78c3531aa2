"""``vectorpool admin``: users, and what a running service alone can tell or do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, nullcontext
from typing import Any, Final

import click
import msgspec
from rich.filesize import decimal
from rich.table import Table

from vectorpool import operating
from vectorpool.cli.console import err, out
from vectorpool.cli.logs import open_store
from vectorpool.cli.places import Place, cell, path_of, plain_table, run_at, time_text
from vectorpool.commitlog.everyone import users_page
from vectorpool.errors import VectorpoolError
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.unusable import printable
from vectorpool.settings import Settings

_PAGE: Final = 200

# --- Users -------------------------------------------------------------------------------------------


def users(settings: Settings, limit: int | None, **place: Any) -> int:
    """List users, a page at a time; with --json one line a user."""

    async def pages(where: Place) -> AsyncGenerator[operating.UserPage, None]:
        cursor: str | None = None
        async with where.client() if where.service else nullcontext() as client, _store(where, settings) as bucket:
            while True:
                if client is not None:
                    params = {"limit": _PAGE, **({"cursor": cursor} if cursor else {})}
                    answer = await client.ask("GET", "/admin/users", params=params)
                    page = msgspec.convert(answer, operating.UserPage)
                else:
                    assert bucket is not None
                    page = await users_page(bucket, limit=_PAGE, cursor=cursor)
                yield page
                if (cursor := page.next_cursor) is None:
                    return

    async def work(where: Place) -> int:
        async with aclosing(pages(where)) as listing:
            return await show(where, listing)

    async def show(where: Place, listing: AsyncIterator[operating.UserPage]) -> int:
        left = limit
        async for page in listing:
            rows = page.users if left is None else page.users[:left]
            for name in page.refused:
                err.print(f"users/{name}: not a user id; passed over", markup=False)
            if where.as_json:
                for row in rows:
                    click.echo(msgspec.json.encode(row).decode())
            elif rows:
                out.print(_user_table(rows))
            left = None if left is None else left - len(rows)
            if left == 0:
                break
        return 0

    return run_at(work, place)


@asynccontextmanager
async def _store(where: Place, settings: Settings) -> AsyncIterator[Bucket | None]:
    if where.service is not None:
        yield None
        return
    async with open_store(settings) as bucket:
        yield bucket


def _user_table(rows: list[operating.UserRow]) -> Table:
    table = plain_table("user", "commit", "time (UTC)", "bytes", "")
    for row in rows:
        note = (
            ""
            if not row.is_deleted
            else "deleted, " + ("verified empty" if row.verified_empty_at_ms else "not yet verified")
        )
        note = f"[red]{cell(row.damage)}" if row.damage else note
        table.add_row(cell(row.user_id), str(row.commit or ""), time_text(row.time_ms), decimal(row.bytes), note)
    return table


# --- A service alone ---------------------------------------------------------------------------------


def _shown(
    path: str, table: Callable[[Any], Table | str], place: dict[str, Any], method: str = "GET", **options: Any
) -> int:
    async def work(where: Place) -> int:
        async with where.client() as client:
            where.show(await client.ask(method, path, **options), table)
        return 0

    return run_at(work, place)


def pool(settings: Settings, **place: Any) -> int:
    """Print every slot."""

    def table(view: Any) -> Table:
        bounds = (
            f"{view['open_slots']} of {view['open_slots_limit']} slots, {decimal(view['local_bytes'])} of "
            f"{decimal(view['local_bytes_limit'])} on disk, {view['waiting']} waiting"
        )
        shown = plain_table("user", "shard", "state", "commit", "bytes", "uses", "last use (UTC)", "")
        shown.caption, shown.caption_justify = bounds, "left"
        for slot in view["slots"]:
            kept = slot.get("kept_open_until_ms")
            note = "; ".join(
                filter(
                    None,
                    [slot["dirty"] and "dirty", kept and f"kept open until {time_text(kept)}", slot["detail"] or ""],
                )
            )
            shown.add_row(
                cell(slot["user_id"]),
                str(slot["shard"]),
                cell(slot["state"]),
                str(slot["commit"]),
                decimal(slot["bytes"]),
                str(slot.get("uses", "")),
                time_text(slot["last_use_ms"]),
                cell(note),
            )
        return shown

    return _shown("/admin/pool", table, place)


def _shard_table(shards: list[Any]) -> Table:
    shown = plain_table("shard", "state", "process", "requests", "starts", "deaths", "ready since (UTC)")
    for shard in shards:
        name = f"isolated {shard['shard']}" if shard["is_isolated"] else str(shard["shard"])
        numbers = (shard["process_id"], shard["requests"], shard["starts"], shard["deaths"])
        shown.add_row(name, cell(shard["state"]), *map(str, numbers), time_text(shard["ready_since_ms"]))
    return shown


def shards(settings: Settings, **place: Any) -> int:
    """Print the shards."""
    return _shown("/admin/shards", lambda page: _shard_table(page["shards"]), place)


def restart(settings: Settings, shard: int, force: bool, **place: Any) -> int:
    """Restart a shard; print it."""
    path = f"/admin/shards/{shard}/restart"
    return _shown(path, lambda view: _shard_table([view]), place, "POST", params={"force": str(force).lower()})


def tasks(settings: Settings, **place: Any) -> int:
    """Print the background tasks."""

    def table(page: Any) -> Table:
        shown = plain_table("task", "shard", "state", "starts", "failures", "last error", "next run (UTC)")
        for task in page["tasks"]:
            where = "front" if task["shard"] is None else str(task["shard"])
            counts = (str(task["starts"]), str(task["failures"]))
            shown.add_row(
                task["name"],
                where,
                cell(task["state"]),
                *counts,
                task["last_error"] or "",
                time_text(task.get("next_run_ms")),
            )
        return shown

    return _shown("/admin/tasks", table, place)


def ready(settings: Settings, **place: Any) -> int:
    """Print whether a service takes work, and why not; return 1 if it does not."""

    async def work(where: Place) -> int:
        async with where.client() as client:
            told = await client.ask("GET", "/admin/ready", ok=(503,))
        if "reasons" not in told:
            raise VectorpoolError(told.get("detail", "The service is not ready."))
        where.show(told, lambda view: "\n".join([view["status"], *(f"  {reason}" for reason in view["reasons"])]))
        return 0 if told["status"] == "ready" else 1

    return run_at(work, place)


def residency(settings: Settings, method: str, action: str, user_id: str, body: Any = None, **place: Any) -> int:
    """Send an operation on a user's slot; print where the vectorstore is then."""

    def line(view: Any) -> str:
        kept = view.get("kept_open_until_ms")
        return (
            f"user {printable(view['user_id'])} is {view['state']} on shard {view['shard']}, commit {view['commit']}, "
            f"{decimal(view['bytes'])} open, {decimal(view['warm_bytes'])} cached"
            + (f", kept open until {time_text(kept)} UTC" if kept else "")
        )

    options = {} if body is None else {"json": body}
    return _shown(f"{path_of(user_id)}/{action}", line, place, method, **options)
