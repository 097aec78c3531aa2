"""``vectorpool export`` and ``import`` with a URL: copies in other databases, and vectorstores made of them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from vectorpool.cli.auditing import audited
from vectorpool.cli.console import err, out, run, spinner
from vectorpool.cli.logs import open_store
from vectorpool.commitlog.ending import newest_header
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.scratch import make_scratch
from vectorpool.errors import UserNotFound, VectorstoreExists
from vectorpool.export.copying import Copied, build_directory, export_directory
from vectorpool.export.places import open_sink, open_source
from vectorpool.export.shapes import Sink
from vectorpool.local_paths import scratch_dir
from vectorpool.names import check_user_id
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings
from vectorpool.vectorstore.compatibility import ENGINE

_IN_VIEW: Final = "The password in the URL can be read in the list of processes. Put it into PGPASSWORD or a ~/.pgpass."


def export(settings: Settings, user_id: str, url: str, at: int | None) -> int:
    """Bring a user's copy in a target up to a commit; the copy of a deleted user is deleted."""
    return run(_export(settings, check_user_id(user_id), _seen(url), at))


def import_source(settings: Settings, url: str, user_id: str, source_user_id: str | None) -> int:
    """Commit what a source holds as a user's vectorstore."""
    return run(_import(settings, _seen(url), check_user_id(user_id), source_user_id or user_id))


def _seen(url: str) -> str:
    if urlsplit(url).password:
        err.print(_IN_VIEW)
    return url


def _host(url: str) -> str:
    """Return what may be shown of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


async def _export(settings: Settings, user_id: str, url: str, at: int | None) -> int:
    async with open_store(settings) as bucket:
        newest = await newest_header(bucket, user_id)
        with closing(await asyncio.to_thread(open_sink, url)) as sink:
            if newest is not None and newest.header.tombstone and at is None:
                return await _forget(bucket, settings, user_id, url, sink)
            commit = at or (0 if newest is None else newest.header.seq)
            if commit and await asyncio.to_thread(sink.commit_of, user_id) == commit:
                out.print(f"{_host(url)} has commit {commit} of user {user_id} already", markup=False)
                return 0
            with _scratch(settings) as directory, spinner(f"Exporting {user_id}"):
                hydrated = await CommitLog(bucket, user_id, settings=settings, engine=ENGINE).export(directory, at=at)
                commit = hydrated.position.seq
                async with audited(bucket, settings, "export", user_id, of_commit=commit, to=_host(url)):
                    done = await asyncio.to_thread(export_directory, directory, user_id, commit, sink)
    out.print(f"{_host(url)} has commit {commit} of user {user_id}: {_told(done)}", markup=False)
    return 0


async def _forget(bucket: Bucket, settings: Settings, user_id: str, url: str, sink: Sink) -> int:
    async with audited(bucket, settings, "delete-export", user_id, to=_host(url)):
        was_there = await asyncio.to_thread(sink.forget, user_id)
    if not was_there:
        raise UserNotFound(f"User {user_id} is deleted, and {_host(url)} has nothing of it.")
    out.print(f"User {user_id} is deleted; the copy at {_host(url)} is deleted now too", markup=False)
    return 0


async def _import(settings: Settings, url: str, user_id: str, source_user_id: str) -> int:
    async with open_store(settings) as bucket:
        newest = await newest_header(bucket, user_id)
        if newest is not None and not newest.header.tombstone:
            raise VectorstoreExists(f"User {user_id} has a vectorstore. Delete it first, or import for another user.")
        with (
            _scratch(settings) as directory,
            spinner(f"Importing {source_user_id}"),
            closing(await asyncio.to_thread(open_source, url, source_user_id)) as source,
        ):
            done = await asyncio.to_thread(build_directory, source, directory)
            async with audited(bucket, settings, "import", user_id, source=_host(url)) as told:
                position = await CommitLog(bucket, user_id, settings=settings, engine=ENGINE).adopt(directory)
                told["commit"] = position.seq
    out.print(f"{_host(url)} is commit {position.seq} of user {user_id}: {_told(done)}", markup=False)
    return 0


def _told(done: Copied) -> str:
    parts: list[tuple[int, Callable[[int], str]]] = [
        (done.unchanged, lambda count: f"{count} records unchanged"),
        (done.deleted, lambda count: f"{count} records deleted"),
    ]
    more = "".join(f", {say(count)}" for count, say in parts if count)
    return f"{done.collections} collections, {done.written} records written{more}"


@contextmanager
def _scratch(settings: Settings) -> Iterator[Path]:
    path = make_scratch(scratch_dir(Path(settings.replica_dir)))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
