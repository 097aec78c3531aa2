"""Ids of collections that stay: a command that is applied again gives its collection the id it had before.

Chroma makes up the id of a new collection, and clients of its protocol address the collection by it from then on.
Under write-back they may have been told an id before its commit; if that loses its number, the command is applied
again to another replica, and Chroma makes up another id. The bindings take none, so the files are edited.

If the winner made a collection of the same name, the records that clients acknowledged under the lost id belong to
that one: the lost id becomes an *alias* of the winner's, in the sidecar, so that every instance knows it from that
commit on. It goes when the collection is deleted.

The id stands in the catalogue, in the topics of the queue and in the sidecar; HNSW files are named after segments,
whose ids nobody is told. The files are edited closed only: Python has a SQLite of its own, and two copies of SQLite
in one process neither see each other's locks nor leave them alone.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from vectorpool.commands import ChromaCreateCollection, CreateCollection, IngestDocument, Write
from vectorpool.errors import BrokenReplica
from vectorpool.names import CHROMA_DATABASE_FILE, DEFAULT_TENANT, SIDECAR_FILE, database_name
from vectorpool.vectorstore.bindings import is_chroma_error, translate
from vectorpool.vectorstore.chroma import Chroma
from vectorpool.vectorstore.sidecar import Sidecar

C = TypeVar("C", bound=msgspec.Struct)

# Chroma's threads let go of the files a few milliseconds after it was closed.
_CLOSE_WITHIN_S: Final = 10.0
_PAUSE_S: Final = 0.001

_IN_CATALOGUE: Final = (("collections", "id"), ("collection_metadata", "collection_id"), ("segments", "collection"))
_IN_SIDECAR: Final = (
    ("collection", "id"),
    ("document", "collection_id"),
    ("salvage_loss", "collection_id"),
    ("collection_alias", "collection_id"),
)


def place_of(command: Write) -> tuple[str, str] | None:
    """Return (database, name) of the collection that a command makes if it is not there; None if it makes none."""
    match command:
        case CreateCollection():
            return database_name(command.avatar_id), command.name
        case IngestDocument():
            return database_name(command.avatar_id), command.collection
        case ChromaCreateCollection():
            return command.database, command.name
        case _:
            return None


def meant(command: C, sidecar: Sidecar) -> C:
    """Return a command with the id of its collection in the place of an alias."""
    told = getattr(command, "collection_id", None)
    if told is None or (collection_id := sidecar.id_of(told)) == told:
        return command
    return msgspec.structs.replace(command, collection_id=collection_id)


def find_id(chroma: Chroma, database: str, name: str) -> str | None:
    """Return the id of a collection, or None if there is none, or none can be, of the name. Raises BrokenReplica."""
    try:
        return str(chroma.rust.get_collection(name, DEFAULT_TENANT, database).id)
    except BaseException as error:
        if not is_chroma_error(error):
            raise
        cause = translate(error)
        if isinstance(cause, BrokenReplica):
            raise cause from error
        return None


def rewrite_id(directory: Path, old: str, new: str) -> None:
    """Give the collection ``old`` the id ``new``, in a directory that was closed. Blocking.

    Raises BrokenReplica if that cannot be done; the directory is of no use then.
    """
    try:
        _wait_until_closed(directory)
        with closing(_open(directory / CHROMA_DATABASE_FILE)) as db, db:
            _rewrite(db, _IN_CATALOGUE, old, new)
            db.execute(
                "UPDATE embeddings_queue SET topic = replace(topic, ?, ?) WHERE topic LIKE '%/' || ?", (old, new, old)
            )
        if (directory / SIDECAR_FILE).exists():
            with closing(_open(directory / SIDECAR_FILE)) as db, db:
                _rewrite(db, _IN_SIDECAR, old, new)
    except (OSError, sqlite3.Error) as error:
        raise BrokenReplica(f"A collection could not be given the id that its clients know: {error}.") from error


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    # Nothing here must survive a crash: what counts is the commit that follows.
    db.execute("PRAGMA synchronous=OFF")
    return db


def _rewrite(db: sqlite3.Connection, columns: tuple[tuple[str, str], ...], old: str, new: str) -> None:
    for table, column in columns:
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))


def _wait_until_closed(directory: Path) -> None:
    """Return once nothing in this process has a file of the directory open; raise TimeoutError."""
    files = {(stat.st_dev, stat.st_ino) for stat in (path.stat() for path in directory.rglob("*") if path.is_file())}
    waited_s = 0.0
    while files & _open_files():
        if waited_s >= _CLOSE_WITHIN_S:
            raise TimeoutError(f"Chroma still has files open {_CLOSE_WITHIN_S:.0f} s after it was closed")
        time.sleep(_PAUSE_S)
        waited_s += _PAUSE_S


def _open_files() -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for descriptor in Path("/dev/fd").iterdir():
        try:
            stat = os.fstat(int(descriptor.name))
        except OSError:
            # It was closed since it was listed.
            continue
        found.add((stat.st_dev, stat.st_ino))
    return found
