"""Parts of documents that are not complete: rows of the sidecar, where no read of records sees them.

A document of more chunks than one command carries arrives in parts, each in a commit of its own. The command that ends
it makes records of all parts and deletes them, in one commit. What an interrupted ingest left is found by its token:
the next ingest of the same bytes goes on with it, and a whole ingest of the avatar deletes the rest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from vectorpool.commands import Metadata, Vectors

# Documents of one avatar whose parts are listed; a later ingest finds the others.
_MOST_LISTED: Final = 1000


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Some chunks of a document, as records."""

    ids: list[str]
    hashes: bytes
    vectors: Vectors
    documents: list[str]
    metadatas: list[Metadata]


_decoder: Final = msgspec.msgpack.Decoder(Part)


class DocumentParts:
    """The parts in one open sidecar. ``opened`` returns its connection, or None if there is no file to read."""

    def __init__(self, opened: Callable[..., sqlite3.Connection | None]) -> None:
        self._opened = opened

    def put(self, key: tuple[str, str, str], number: int, collection_id: str, part: Part) -> None:
        """Keep a part of (avatar, path, token), in place of another of its number."""
        db = self._opened(create=True)
        assert db is not None
        db.execute(
            "INSERT OR REPLACE INTO document_part VALUES (?, ?, ?, ?, ?, ?)",
            (*key, number, collection_id, msgspec.msgpack.encode(part)),
        )

    def numbers(self, avatar_id: str, path: str, token: str, collection_id: str | None = None) -> list[int]:
        """Return the numbers of the parts that are kept, ascending; ``collection_id`` leaves out those of others."""
        rows = self._select(
            "SELECT number FROM document_part WHERE avatar_id = ? AND path = ? AND token = ? "
            "AND collection_id = coalesce(?, collection_id) ORDER BY number",
            (avatar_id, path, token, collection_id),
        )
        return [row[0] for row in rows]

    def read(self, avatar_id: str, path: str, token: str) -> Iterator[Part]:
        """Yield the parts in order, one in memory at a time."""
        for number in self.numbers(avatar_id, path, token):
            (row,) = self._select(
                "SELECT body FROM document_part WHERE avatar_id = ? AND path = ? AND token = ? AND number = ?",
                (avatar_id, path, token, number),
            )
            yield _decoder.decode(row[0])

    def tokens(self, avatar_id: str) -> list[tuple[str, str]]:
        """Return the paths and tokens of an avatar's parts, a bounded number."""
        rows = self._select(
            "SELECT DISTINCT path, token FROM document_part WHERE avatar_id = ? ORDER BY path, token LIMIT ?",
            (avatar_id, _MOST_LISTED),
        )
        return [(row[0], row[1]) for row in rows]

    def discard(self, avatar_id: str, path: str, token: str | None = None) -> int:
        """Delete a document's parts, of one token or of all; return how many there were."""
        db = self._opened(create=False)
        if db is None:
            return 0
        done = db.execute(
            "DELETE FROM document_part WHERE avatar_id = ? AND path = ? AND token = coalesce(?, token)",
            (avatar_id, path, token),
        )
        return done.rowcount

    def _select(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        db = self._opened(create=False)
        return [] if db is None else db.execute(statement, values).fetchall()
