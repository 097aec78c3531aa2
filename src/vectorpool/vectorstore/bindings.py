"""Chroma's Rust bindings, loaded without the rest of Chroma, and what their exceptions mean.

``import chromadb`` takes 1.7 s and 66 MB; the bindings alone take 0.06 s. They import ``chromadb.errors`` when
they first raise, which would run the package's ``__init__`` in the middle of a request; ``import_lean`` puts a
bare package in its place, so that submodules load and nothing else does.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import chromadb_rust_bindings as rust

from vectorpool.errors import (
    BrokenReplica,
    CollectionExists,
    CollectionNotFound,
    DimensionMismatch,
    InternalError,
    InvalidFilter,
    InvalidRequest,
    RecordNotFound,
    VectorpoolError,
)
from vectorpool.names import CHROMA_DATABASE_FILE

# Each collection's HNSW files take five descriptors while cached; one user rarely queries more at a time.
HNSW_CACHE_COLLECTIONS = 16

# Chroma's internal errors that mean: this open client will not work again (see the design of the pool).
_WEDGED = (
    "sending message to compactor",
    "sending backfill request to compactor",
    "Failed to apply logs",
    "Failed to send request",
    "database disk image is malformed",
    # What is in the files, not in the request: an index that cannot be loaded, or that lacks a record's vector.
    "Error constructing hnsw segment reader",
    "Error creating hnsw segment reader",
    "Error getting embedding",
)


def import_lean() -> None:
    """Make ``chromadb`` an importable package without running its ``__init__``; for shard processes only."""
    if "chromadb" in sys.modules:
        return
    spec = importlib.util.find_spec("chromadb")
    assert spec is not None and spec.submodule_search_locations is not None
    package = types.ModuleType("chromadb")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["chromadb"] = package


def open_bindings(directory: Path) -> rust.Bindings:
    """Open Chroma on ``directory``, creating its files if there are none. Raises BrokenReplica."""
    config = rust.SqliteDBConfig(
        hash_type=rust.MigrationHash.MD5,
        migration_mode=rust.MigrationMode.Apply,
        url=str(directory / CHROMA_DATABASE_FILE),
    )
    try:
        return rust.Bindings(
            allow_reset=False,
            sqlite_db_config=config,
            persist_path=str(directory),
            hnsw_cache_size=HNSW_CACHE_COLLECTIONS,
        )
    except BaseException as error:
        if not is_chroma_error(error):
            raise
        raise BrokenReplica(f"Chroma cannot open the vectorstore: {error}.") from error


def is_chroma_error(error: BaseException) -> bool:
    """Tell whether ``error`` is the bindings' own; a Rust panic is a BaseException of theirs."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def translate(error: BaseException) -> VectorpoolError:
    """Return what an exception of the bindings means to a caller."""
    if isinstance(error, VectorpoolError):
        return error
    kind, text = type(error).__name__, str(error)
    if kind == "PanicException" or any(mark in text for mark in _WEDGED):
        return BrokenReplica(f"Chroma stopped working on this replica: {text[:300]}.")
    if kind == "InvalidArgumentError" and "dimension" in text:
        return DimensionMismatch(text)
    if kind == "InvalidArgumentError" and ("where" in text.lower() or "Regex" in text):
        return InvalidFilter(f"Chroma refuses the filter: {text}. Correct it.")
    if kind == "NotFoundError":
        return CollectionNotFound(f"{text} List the collections to see their names.")
    if "already exists" in text:
        return CollectionExists(f"{text}. Choose another name, or pass get_or_create.")
    if "Error finding id" in text:
        return RecordNotFound("The query is restricted to ids of which one is not in the collection. Leave it out.")
    if kind in ("InvalidArgumentError", "TypeError", "ValueError", "UnicodeEncodeError", "OverflowError"):
        return InvalidRequest(f"Chroma refuses the request: {text[:500]}.")
    return InternalError(f"Chroma failed: {text[:300]}.")
