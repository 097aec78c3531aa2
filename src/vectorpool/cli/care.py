"""``vectorpool admin health``, ``recover``, ``notifications`` and ``acknowledge``: on a running service."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click
import msgspec
from rich.table import Table

from vectorpool.cli.console import out
from vectorpool.cli.places import Place, cell, path_of, plain_table, run_at, time_text
from vectorpool.names import check_user_id
from vectorpool.objects.unusable import printable
from vectorpool.settings import Settings


def health(settings: Settings, user_id: str | None, check: bool, **place: Any) -> int:
    """Print the health of a user, or of an instance; return 1 if something is not well."""

    async def work(where: Place) -> int:
        async with where.client() as client:
            if user_id is None:
                told = await client.ask("GET", "/admin/health")
                where.show(told, _instance)
                return 1 if told["unwell"] or told["canary"]["state"] == "failed" else 0
            if check:
                told = await client.ask("POST", f"{path_of(user_id)}/health")
            else:
                told = await client.ask("GET", f"{path_of(check_user_id(user_id)).removeprefix('/admin')}/health")
        where.show(told, _user)
        return 0 if told["state"] == "healthy" else 1

    return run_at(work, place)


def _user(told: Any) -> str:
    lines = [
        f"user {printable(told['user_id'])} is {told['state']} at commit {told['commit']}, {told['records']} records, "
        f"checked {time_text(told['checked_at_ms'])}"
    ]
    for check in told["checks"]:
        lines.append(f"  {check['check']}: {check['state']}" + (f": {check['reason']}" if check["reason"] else ""))
        lines += [f"    {check['remedy']}"] if check["remedy"] and check["state"] == "failed" else []
    return "\n".join(lines)


def _instance(told: Any) -> str:
    canary, counts = told["canary"], told["checked"]
    shown = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no user checked yet"
    lines = [f"canary {canary['state']}" + (f": {canary['reason']}" if canary["reason"] else "")]
    lines += [f"{shown}; {told['waiting']} wait for a check"]
    return "\n".join([*lines, *map(_user, told["unwell"])])


def recover(settings: Settings, user_id: str, dry_run: bool, into: str | None, **place: Any) -> int:
    """Recover a user, or print the plan."""

    async def work(where: Place) -> int:
        async with where.client() as client:
            params = {"dry_run": str(dry_run).lower()} | ({} if into is None else {"into": into})
            told = await client.ask("POST", f"{path_of(user_id)}/recover", params=params)
        where.show(told, _recovery)
        return 0

    return run_at(work, place)


def _recovery(told: Any) -> str:
    plan, report = told["plan"], told.get("report")
    if report is not None:
        lines = [
            f"recovered as commit {report['commit']} with {report['records']} records, from a "
            f"{report['source']['kind']} of commit {report['source']['commit']}"
        ]
        lines += [
            f"  lost commit {each['commit']}" + (f": {each['damage']}" if each.get("damage") else "")
            for each in report["lost"]
        ]
        lines += _names(report)
        return "\n".join(lines + [f"  avatar {printable(each)} is ingested again" for each in report["reingested"]])
    if not plan["is_damaged"]:
        return f"commit {plan['commit']} can be read: there is nothing to recover"
    lines = [f"commit {plan['commit']} is damaged: {printable(plan['reason'])}"]
    for source in plan["sources"]:
        name = f" {source['name']}" if source.get("name") else ""
        held = f"{source['records']} records" if source["records"] is not None else "records not counted"
        if source.get("documents") is not None:
            held = f"{source['documents']} documents"
        lines.append(
            f"  {source['kind']}{name} of commit {source['commit']}: {held}; loses {source['lost_commits']} commits "
            f"(+{source['lost_added']}, -{source['lost_deleted']}, {source['unreadable']} not readable)"
        )
    lines += _names(plan)
    lines += [f"  no source: {name}: {printable(fault)}" for name, fault in plan.get("faults", {}).items()]
    return "\n".join(lines if plan["sources"] else [*lines, "  there is no source"])


def _names(told: Any) -> list[str]:
    """Return the lines about collections that get names of their own."""
    rows = ((printable(each["database"]), printable(each["collection"]), each) for each in told.get("collections", []))
    return [f"  {database}/{name} comes back as {printable(each['recovered_as'])}" for database, name, each in rows]


def notifications(settings: Settings, state: str | None, **place: Any) -> int:
    """Print the notifications, a page at a time."""

    async def work(where: Place) -> int:
        cursor: str | None = None
        async with where.client() as client:
            while True:
                params = {name: value for name, value in (("state", state), ("cursor", cursor)) if value is not None}
                page = await client.ask("GET", "/admin/notifications", params=params)
                if where.as_json:
                    for each in page["notifications"]:
                        click.echo(msgspec.json.encode(each).decode())
                elif page["notifications"]:
                    out.print(_table(page["notifications"]))
                if (cursor := page.get("next_cursor")) is None:
                    return 0

    return run_at(work, place)


def _table(found: list[Any]) -> Table:
    table = plain_table("id", "event", "state", "user", "last (UTC)", "times", "reason")
    for each in found:
        table.add_row(
            each["id"],
            each["event"],
            each["state"],
            cell(each.get("user_id") or ""),
            time_text(each["last_ms"]),
            str(each.get("count", 1)),
            cell(each.get("reason", "")),
        )
    return table


def acknowledge(settings: Settings, notification: str, **place: Any) -> int:
    """Acknowledge a notification; print it."""

    async def work(where: Place) -> int:
        async with where.client() as client:
            told = await client.ask("POST", f"/admin/notifications/{quote(notification, safe='')}/acknowledge")
        where.show(told, lambda each: f"{each['event']} of {time_text(each['last_ms'])} is acknowledged")
        return 0

    return run_at(work, place)
