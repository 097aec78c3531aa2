"""What a target without transactions notes of a user: how far an export is, and which collections there are."""

from __future__ import annotations

import msgspec

from vectorpool.targets.records import Collection, Held
from vectorpool.targets.values import decode, encode


class Done(msgspec.Struct):
    """The commit of the last finished export; without a hash, that of the user's deletion."""

    commit: int = 0
    commit_hash: str = ""


class Entry(msgspec.Struct):
    """What is noted of a collection. One without a dimension is not there."""

    collection: Collection
    held: Held
    is_there: bool = False


def read_entry(text: str) -> Entry:
    """Return what ``write_entry`` wrote. Raises MsgspecError for anything else."""
    entry = msgspec.json.decode(text, type=Entry)
    if (metadata := entry.collection.metadata) is not None:
        entry.collection = msgspec.structs.replace(entry.collection, metadata=decode(metadata))
    return entry


def write_entry(entry: Entry) -> str:
    """Return an entry as JSON, its metadata so that every float survives."""
    metadata = entry.collection.metadata
    kept = msgspec.structs.replace(entry.collection, metadata=None if metadata is None else encode(metadata))
    return msgspec.json.encode(msgspec.structs.replace(entry, collection=kept)).decode()
