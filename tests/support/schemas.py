"""Directories with another schema than this engine's: an older, a later or an unknown one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from vectorpool.commitlog.format import Summary
from vectorpool.commitlog.image import capture
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import Position
from vectorpool.names import CHROMA_DATABASE_FILE
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings
from vectorpool.vectorstore.compatibility import ENGINE


def _change(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / CHROMA_DATABASE_FILE)) as db, db:
        for statement in statements:
            db.execute(statement)


def make_older(directory: Path) -> None:
    """Undo the newest migration of Chroma's metadata tables, so that they are those of the version before it."""
    _change(
        directory,
        "DROP TABLE embedding_metadata_array",
        "DELETE FROM migrations WHERE dir = 'metadb' AND version = 6",
    )


def make_newer(directory: Path) -> None:
    """Apply a migration that no engine has yet."""
    _change(
        directory,
        "ALTER TABLE collections ADD COLUMN invented TEXT",
        "INSERT INTO migrations VALUES ('sysdb', 11, '00011-invented.sqlite.sql', 'ALTER', 'abc')",
    )


def make_unknown(directory: Path) -> None:
    """Add a harmless table that no test covers."""
    _change(directory, "CREATE TABLE harmless (x INTEGER)")


async def commit_changed(
    bucket: Bucket, user_id: str, settings: Settings, scratch: Path, change: Callable[[Path], None]
) -> Position:
    """Commit the newest state after ``change``, with the stamp of the changed directory."""
    log = CommitLog(bucket, user_id, settings=settings)
    hydrated = await log.hydrate(scratch)
    assert hydrated is not None
    change(scratch)
    captured = capture(scratch, hydrated.image)
    stamp = ENGINE.stamp_of(scratch)
    return await log.append(log.prepare(hydrated.position, hydrated.image, captured, Summary(), stamp=stamp))


async def everything(bucket: Bucket) -> dict[str, bytes]:
    """Return every object of a bucket."""
    listed = await bucket.list_objects("", limit=100_000)
    return {info.key: (await bucket.get(info.key)).data for info in listed}
