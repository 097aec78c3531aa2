"""Adopt: a plain Chroma directory becomes the first commit. The directory itself is not changed.

A directory whose database has a journal or a write-ahead log is copied first, and SQLite recovers the copy. Others made
the directory, so it is held to the rule of ``platform.trees``, and the engine must admit its databases.
"""

from __future__ import annotations

import asyncio
import os
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
from vectorpool.objects.unusable import unusable_because
from vectorpool.platform.trees import open_database, open_directory, open_file, regular_files
from vectorpool.sources import Sources

_PAGE: Final = 1000
_JOURNALS: Final = ("-wal", "-journal")


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
        if path.startswith(("log/", "tags/", names.KEPT_FOLDER)) or path.endswith("/"):
            continue
        if wrong := check_path(path) or unusable_because(info.key):
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
    """Let SQLite recover what a crash left in the journals of the databases in ``directory``, a private copy.

    A database in WAL mode leaves that mode: without its other files it could not be opened for reading. Raises
    InvalidRequest.
    """
    for name in (names.CHROMA_DATABASE_FILE, names.SIDECAR_FILE):
        database = directory / name
        sides = [database.with_name(name + suffix) for suffix in _JOURNALS]
        if not database.is_file():
            continue
        if not any(side.is_file() and side.stat().st_size for side in sides) and not _is_in_wal_mode(database):
            continue
        try:
            with open_database(database, write=True) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                connection.execute("PRAGMA journal_mode=DELETE").fetchall()
        except InvalidRequest as error:
            raise InvalidRequest(
                f"{name} was left in the middle of a write, and SQLite cannot finish it. Open it once with the Chroma "
                f"that wrote it. {error.detail}"
            ) from error


def survey(directory: Path) -> dict[str, int]:
    """Return the files of a directory to adopt, with their sizes in bytes; nothing of it is opened.

    Raises InvalidRequest if it is no directory of Chroma's, or holds links, and LimitExceeded. Blocking.
    """
    is_there = directory.is_dir()
    sizes = regular_files(directory, max_files=MAX_FILES, max_bytes=MAX_STATE_BYTES) if is_there else {}
    if names.CHROMA_DATABASE_FILE not in sizes:
        raise InvalidRequest(
            f"There is no {names.CHROMA_DATABASE_FILE} in {directory}. Name the directory that a "
            "chromadb.PersistentClient was given as its path."
        )
    return sizes


def is_clean(directory: Path, sizes: dict[str, int]) -> bool:
    """Whether no journal of a directory that was surveyed holds anything, and no database is in WAL mode. Blocking."""
    if any(size and path.endswith(_JOURNALS) for path, size in sizes.items()):
        return False
    databases = [name for name in (names.CHROMA_DATABASE_FILE, names.SIDECAR_FILE) if name in sizes]
    return not any(_is_in_wal_mode(directory / name) for name in databases)


def _is_in_wal_mode(database: Path) -> bool:
    with open_directory(database.parent) as parent, os.fdopen(open_file(parent, database.name), "rb") as file:
        header = file.read(20)
    return header[18:20] == b"\x02\x02"


def adopt_directory(
    user_id: str, parent: Position, state_before: bytes, directory: Path, sources: Sources, engine: Engine
) -> PendingCommit:
    """Return the self-contained commit of everything in ``directory``. Synchronous: run it in a thread.

    Raises InvalidRequest if it is no Chroma directory or cannot be captured, NewerEngine if a later engine wrote it.
    """
    survey(directory)
    engine.admit(directory)
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
