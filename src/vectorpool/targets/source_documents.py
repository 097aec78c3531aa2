"""The documents that became records: the rows of the sidecar, for targets that hold them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import msgspec

from vectorpool.names import SIDECAR_FILE
from vectorpool.platform.trees import open_database

# The time that reading all rows may take.
_READ_S: Final = 600.0


class SourceDocument(msgspec.Struct, frozen=True):
    """A document of an avatar as it was ingested. ``records`` are the ids of its records; ``sha256``: "" if unknown."""

    avatar_id: str
    path: str
    collection_id: str
    etag: str
    size: int
    sha256: str
    content_type: str
    records: list[str]


@runtime_checkable
class DocumentSink(Protocol):
    """A sink that holds documents beside the records."""

    def put_documents(self, documents: Iterator[SourceDocument]) -> None:
        """Make the documents of the export's user those that are given, by avatar and path."""


def documents_of(directory: Path) -> Iterator[SourceDocument]:
    """Yield the documents of a directory at rest; none without a sidecar. Raises InvalidRequest for a damaged one."""
    sidecar = directory / SIDECAR_FILE
    if not sidecar.exists():
        return
    with open_database(sidecar, limit_s=_READ_S) as db:
        if db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'document'").fetchone() is None:
            return
        rows = db.execute("SELECT * FROM document ORDER BY avatar_id, path")
        names = [column[0] for column in rows.description]
        for values in rows:
            row = dict(zip(names, values, strict=True))
            yield SourceDocument(
                avatar_id=row["avatar_id"],
                path=row["path"],
                collection_id=row["collection_id"],
                etag=row["etag"],
                size=row["size"],
                # A sidecar of an earlier release has not all columns.
                sha256=row.get("digest") or "",
                content_type=row.get("content_type") or "",
                records=msgspec.msgpack.decode(row["chunk_ids"], type=list[str]),
            )
