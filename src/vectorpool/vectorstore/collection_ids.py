"""Stable ids of collections: a command that is applied again gives its collection the same id as before.

Chroma generates the id of a new collection, and clients of its protocol address the collection by it from then on.
Under write-back they may have received an id before its commit. If that commit loses its number, the command is
applied again to another replica, and Chroma generates another id. So the id is rewritten in the closed files.

If the winner made a collection of the same name, the records that clients acknowledged under the lost id belong to
that one: the lost id becomes an *alias* of the winner's, in the sidecar, so that every instance has it from that
commit on. The alias is deleted with the collection.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TypeVar

import msgspec

from vectorpool.commands import ChromaCreateCollection, CreateCollection, IngestDocument, StageChunks, Write
from vectorpool.engine.collection_ids import rewrite_id
from vectorpool.errors import BrokenReplica
from vectorpool.names import SIDECAR_FILE, database_name
from vectorpool.vectorstore.sidecar import Sidecar, rewrite_collection_id

C = TypeVar("C", bound=msgspec.Struct)


def made_by(command: Write) -> tuple[str, str] | None:
    """Return (database, name) of the collection that a command creates if it is missing; None for other commands."""
    match command:
        case CreateCollection():
            return database_name(command.avatar_id), command.name
        case IngestDocument() | StageChunks():
            return database_name(command.avatar_id), command.collection
        case ChromaCreateCollection():
            return command.database, command.name
        case _:
            return None


def resolve_alias(command: C, sidecar: Sidecar) -> C:
    """Return a command with its collection's id in place of an alias."""
    told = getattr(command, "collection_id", None)
    if told is None or (collection_id := sidecar.id_of(told)) == told:
        return command
    return msgspec.structs.replace(command, collection_id=collection_id)


def give_id(directory: Path, old: str, new: str) -> None:
    """Give the collection ``old`` the id ``new``, in a closed directory. Blocking.

    Raises BrokenReplica if that fails; the directory may not be used afterwards.
    """
    try:
        rewrite_id(directory, old, new)
        rewrite_collection_id(directory / SIDECAR_FILE, old, new)
    except (OSError, sqlite3.Error) as error:
        raise BrokenReplica(f"A collection could not be given the id that its clients know: {error}.") from error
