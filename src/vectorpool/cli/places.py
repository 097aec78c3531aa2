"""Where an operator's command works, a service or the store, and how it shows what it got."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import httpx
import msgspec
from rich.table import Table

from vectorpool.cli.console import out, run
from vectorpool.cli.service_client import ServiceClient, open_client
from vectorpool.commitlog.log import CommitLog
from vectorpool.names import check_user_id
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.unusable import printable
from vectorpool.settings import Settings
from vectorpool.vectorstore.compatibility import ENGINE

_BAD: Final = ("down", "broken", "refuses")


class Place:
    """Where a command works: a service, or the store."""

    def __init__(self, service: str | None, token_file: Path | None, as_json: bool) -> None:
        self.service = service
        self.token_file = token_file
        self.as_json = as_json

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ServiceClient]:
        """Yield the service; raise UsageError if none is named."""
        if self.service is None:
            raise click.UsageError("This needs a running instance: give --service URL.")
        async with open_client(self.service, self.token_file) as client:
            yield client

    def show(self, answer: Any, table: Callable[[Any], Table | str]) -> None:
        """Print an answer as JSON or for people."""
        if self.as_json:
            click.echo(msgspec.json.encode(answer).decode())
            return
        shown = table(answer)
        out.print(shown, markup=False) if isinstance(shown, str) else out.print(shown)


def run_at(work: Callable[[Place], Coroutine[Any, Any, int]], place: dict[str, Any]) -> int:
    return run(work(Place(**place)))


def log_of(bucket: Bucket, settings: Settings, user_id: str) -> CommitLog:
    return CommitLog(bucket, user_id, settings=settings, engine=ENGINE)


def time_text(time_ms: int | None) -> str:
    return "" if not time_ms else datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def plain_table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def cell(text: object) -> str:
    """Return a text that others chose, fit for a table: without markup and control characters."""
    shown = printable(str(text)).replace("[", "\\[")
    return f"[red]{shown}" if text in _BAD else shown


def path_of(user_id: str) -> str:
    """Return the path of a user below /admin; raise InvalidId."""
    return f"/admin/users/{httpx.URL('').copy_with(path='/' + check_user_id(user_id)).raw_path.decode()[1:]}"
