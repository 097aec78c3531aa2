"""``vectorpool admin limits``: the limits of a user, on a service or straight on a bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import click
import msgspec
from rich.table import Table

from vectorpool.allowances.allowances import Allowances
from vectorpool.api.limit_shapes import limits_view
from vectorpool.cli.auditing import audited
from vectorpool.cli.console import err
from vectorpool.cli.logs import open_store
from vectorpool.cli.places import Place, cell, path_of, plain_table, run_at, time_text
from vectorpool.limits import read_limits
from vectorpool.names import check_user_id
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings


def limits(settings: Settings, user_id: str, given: Sequence[str], is_delete: bool, **place: Any) -> int:
    """Store or delete the limits of a user if that is asked for; print what is stored and what is in force."""
    wanted = read_limits(_parsed(given), nulls=True) if given else None

    async def work(where: Place) -> int:
        if where.service is not None:
            path = f"{path_of(user_id)}/limits"
            async with where.client() as client:
                if wanted is not None:
                    told = await client.ask("PUT", path, json=wanted)
                else:
                    told = await client.ask("DELETE" if is_delete else "GET", path)
        else:
            async with _opened(settings) as (allowances, bucket):
                check_user_id(user_id)
                if wanted is not None:
                    async with audited(bucket, settings, "set-limits", user_id, limits=wanted):
                        await allowances.stored.put(user_id, wanted)
                elif is_delete:
                    async with audited(bucket, settings, "delete-limits", user_id):
                        await allowances.stored.delete(user_id)
                told = msgspec.to_builtins(limits_view(allowances, user_id))
        where.show(told, _table)
        if told.get("problem"):
            err.print(told["problem"], markup=False)
        return 0

    return run_at(work, place)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Allowances, Bucket]]:
    async with open_store(settings) as bucket:
        allowances = Allowances(settings)
        await allowances.open(bucket)
        # A store that does not answer is an error of this command, not a state to wait out.
        await allowances.stored.load()
        yield allowances, bucket


def _parsed(given: Sequence[str]) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"{text!r} is not NAME=VALUE. Write a limit as records=100000.")
        if name in values:
            raise click.UsageError(f"{name} is given twice. Give it once.")
        try:
            values[name] = float(value) if value else None
        except ValueError:
            raise click.UsageError(f"{value!r} is no number. Write a limit as records=100000.") from None
    return values


def _table(told: Any) -> Table:
    table = plain_table("limit", "in force", "from", "stored")
    stored = told["stored"] or {}
    for name in sorted({*told["in_force"], *stored}):
        in_force = told["in_force"].get(name)
        value, source = ("none", "") if in_force is None else (f"{in_force['value']:.15g}", in_force["source"])
        kept = "" if name not in stored else "none" if stored[name] is None else f"{stored[name]:.15g}"
        table.add_row(cell(name), value, source, kept)
    changed = time_text(told["changed_at_ms"])
    table.caption = f"stored {changed} UTC" if changed else "nothing is stored; the defaults are in force"
    table.caption_justify = "left"
    return table
