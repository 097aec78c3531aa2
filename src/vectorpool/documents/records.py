"""The records that a document's chunks become: their ids, their metadata, and the hashes of their texts."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from vectorpool.bounds import CHUNK_HASH_BYTES, RECORD_ID_BYTES
from vectorpool.documents.chunking import Chunk

# Bytes of a path in a record id, which has RECORD_ID_BYTES; the number of a chunk takes the rest.
_LONGEST_IN_ID: Final = RECORD_ID_BYTES - 12


def chunk_ids(path: str, count: int) -> list[str]:
    """Return the ids of a document's chunks: its path and a number. A long path is cut, and its digest tells which."""
    raw = path.encode()
    if len(raw) > _LONGEST_IN_ID:
        path = f"{raw[: _LONGEST_IN_ID - 33].decode(errors='ignore')}~{hashlib.sha256(raw).hexdigest()[:32]}"
    return [f"{path}#{number:04d}" for number in range(count)]


def chunk_metadata(path: str, number: int, chunk: Chunk) -> dict[str, Any]:
    """Return the metadata of a chunk's record: its document, its number in it, its place, its hash."""
    # An upsert keeps metadata keys that it does not name; None removes an old one.
    return {
        "path": path,
        "chunk": number,
        "start": chunk.start,
        "end": chunk.end,
        "heading": chunk.heading,
        "page": chunk.page,
        "sheet": chunk.sheet,
        "member": chunk.member,
        "hash": chunk_hash(chunk.text).hex(),
    }


def chunk_hash(text: str) -> bytes:
    """Return the hash by which a chunk is known again, whatever its place: the start of its text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:CHUNK_HASH_BYTES]
