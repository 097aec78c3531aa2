"""All bytes that a bucket holds: the content of each object, with the bodies of log objects unpacked."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from vectorpool.commitlog.body import unpack_frame
from vectorpool.commitlog.format import decode_header, is_grave_content
from vectorpool.names import CHROMA_DATABASE_FILE
from vectorpool.objects.bucket import Bucket


async def every_object(bucket: Bucket) -> dict[str, bytes]:
    """Return every object by key, as it is; a log object with its unpacked frames behind it."""
    found: dict[str, bytes] = {}
    for info in await bucket.list_objects("", limit=100_000):
        data = (await bucket.get(info.key)).data
        found[info.key] = data + _unpacked(info.key, data)
    return found


def _unpacked(key: str, data: bytes) -> bytes:
    if "/log/" not in key or is_grave_content(data) or "/floor/" in key:
        return b""
    decoded = decode_header(key, data, len(data))
    at, parts = decoded.body_offset, []
    for frame in decoded.header.frames:
        parts.append(bytes(unpack_frame(key, frame, data[at : at + frame.stored])))
        at += frame.stored
    assert at == len(data), key
    return b"".join(parts)


def damage_of(directory: Path) -> list[str]:
    """Return what SQLite finds wrong with the database of a closed directory, its full-text index included."""
    with closing(sqlite3.connect(directory / CHROMA_DATABASE_FILE)) as db:
        found = [row[0] for row in db.execute("PRAGMA quick_check") if row[0] != "ok"]
        try:
            # Before its version 3.44 the check of a database leaves the full-text index out.
            db.execute(
                "INSERT INTO embedding_fulltext_search (embedding_fulltext_search, rank) VALUES ('integrity-check', 1)"
            )
        except sqlite3.DatabaseError as error:
            found.append(str(error))
    return found


def keys_with(objects: dict[str, bytes], text: str) -> list[str]:
    """Return the keys of the objects that hold a text."""
    return sorted(key for key, data in objects.items() if text.encode() in data)
