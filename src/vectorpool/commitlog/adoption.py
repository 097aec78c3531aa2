"""Adopt: a plain Chroma directory becomes the first commit. The directory itself is not changed.

A directory whose database has a journal or a write-ahead log is copied first, and SQLite recovers the copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Final

from vectorpool import names
from vectorpool.commitlog.append import build_commit
from vectorpool.commitlog.body import BodyBuilder
from vectorpool.commitlog.fetch import PART_BYTES, WINDOW, store_errors
from vectorpool.commitlog.format import MAX_FILES, MAX_STATE_BYTES, Summary, check_path
from vectorpool.commitlog.image import EMPTY, UncleanDirectory, capture_into
from vectorpool.commitlog.outcomes import PendingCommit, Position
from vectorpool.commitlog.stamp import Engine
from vectorpool.errors import InvalidRequest, LimitExceeded
from vectorpool.objects.bucket import Bucket, ObjectInfo, ObjectMissing
from vectorpool.sources import Sources

_PAGE: Final = 1000


async def has_plain_directory(bucket: Bucket, user_id: str) -> bool:
    """Whether an older tool put a Chroma directory directly below ``vectorstore/``."""
    key = names.vectorstore_prefix(user_id) + names.CHROMA_DATABASE_FILE
    with store_errors(bucket, f"looking for {key}"):
        try:
            await bucket.head(key)
        except ObjectMissing:
            return False
    return True


async def list_everything(bucket: Bucket, prefix: str) -> list[ObjectInfo]:
    """Return every object below ``prefix``; raise LimitExceeded beyond MAX_FILES * 10."""
    found: list[ObjectInfo] = []
    while True:
        with store_errors(bucket, f"listing {prefix}"):
            page = await bucket.list_objects(prefix, limit=_PAGE, after=found[-1].key if found else None)
        found += page
        if len(page) < _PAGE:
            return found
        if len(found) > MAX_FILES * 10:
            raise LimitExceeded(f"There are more than {MAX_FILES * 10} objects below {prefix}. Remove some first.")


async def download_plain_directory(bucket: Bucket, user_id: str, directory: Path) -> None:
    """Copy a plain Chroma directory from the bucket into ``directory``, and settle its databases."""
    prefix = names.vectorstore_prefix(user_id)
    objects = []
    for info in await list_everything(bucket, prefix):
        path = info.key.removeprefix(prefix)
        if path.startswith(("log/", "tags/")) or path.endswith("/"):
            continue
        if wrong := check_path(path):
            raise InvalidRequest(f"The Chroma directory below {prefix} cannot be adopted: {wrong}. Remove it there.")
        objects.append((path, info))
    if len(objects) > MAX_FILES or sum(info.size for _, info in objects) > MAX_STATE_BYTES:
        raise LimitExceeded(
            f"The Chroma directory below {prefix} is over {MAX_FILES} files or {MAX_STATE_BYTES} bytes."
        )
    gate = asyncio.Semaphore(WINDOW * 2)
    tasks = [asyncio.create_task(_download(bucket, info, directory / path, gate)) for path, info in objects]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(settle, directory)


async def _download(bucket: Bucket, info: ObjectInfo, file: Path, gate: asyncio.Semaphore) -> None:
    async with gate:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as handle:
            for start in range(0, info.size, PART_BYTES):
                end = min(info.size, start + PART_BYTES)
                with store_errors(bucket, f"reading {info.key}"):
                    data = await bucket.get_range(info.key, start, end)
                await asyncio.to_thread(handle.write, data)


def settle(directory: Path) -> None:
    """Let SQLite recover what a crash left in the journals of the databases in ``directory``, a private copy."""
    for side in sorted(directory.rglob("*")):
        for suffix in ("-wal", "-journal"):
            if not side.name.endswith(suffix) or not side.is_file() or not side.stat().st_size:
                continue
            database = side.with_name(side.name.removesuffix(suffix))
            if not database.is_file():
                continue
            try:
                with contextlib.closing(sqlite3.connect(database)) as connection:
                    connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.DatabaseError as error:
                raise InvalidRequest(
                    f"{database.name} was left in the middle of a write, and SQLite cannot finish it ({error}). "
                    "Open it once with the Chroma that wrote it."
                ) from None


def is_clean(directory: Path) -> bool:
    """Whether no journal of ``directory`` holds anything."""
    return not any(f.name.endswith(("-wal", "-journal")) and f.stat().st_size for f in directory.rglob("*"))


def copy_directory(source: Path, target: Path) -> None:
    """Copy a directory, so that the copy can be settled."""
    shutil.copytree(source, target, dirs_exist_ok=True)


def adopt_directory(
    user_id: str, parent: Position, state_before: bytes, directory: Path, sources: Sources, engine: Engine
) -> PendingCommit:
    """Return the self-contained commit of everything in ``directory``. Synchronous: run it in a thread.

    Raises InvalidRequest if it is no Chroma directory or cannot be captured, NewerEngine if a later engine wrote it.
    """
    if not os.path.isfile(directory / names.CHROMA_DATABASE_FILE):  # noqa: PTH113 - one stat; no exception for a loop
        raise InvalidRequest(
            f"There is no {names.CHROMA_DATABASE_FILE} in {directory}. Name the directory that a "
            "chromadb.PersistentClient was given as its path."
        )
    stamp = engine.stamp_of(directory)
    engine.check(stamp)
    body = BodyBuilder()
    try:
        image, _, _ = capture_into(directory, EMPTY, body.add)
    except UncleanDirectory as error:
        raise InvalidRequest(f"The directory cannot be adopted: {error}") from error
    return build_commit(
        user_id, parent, state_before, image, [], body, Summary(adopted=True), sources, self_contained=True, stamp=stamp
    )
