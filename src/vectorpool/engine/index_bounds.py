"""The table of bounds over an opened directory: which collections have an index that Chroma may not load.

A directory that was adopted, imported, forked or committed by an earlier version did not come through the checks of a
command. Its numbers stand in three places: the collection's schema and configuration (JSON), its metadata, and, before
Chroma 1.0, the metadata of its segments.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from vectorpool import bounds
from vectorpool.errors import InvalidRequest, LimitExceeded
from vectorpool.names import CHROMA_DATABASE_FILE, excerpt

# Characters of a schema that is read; one with as many keys as may be opened is shorter.
_MAX_SCHEMA: Final = 8 * 1024**2
_IN_JSON: Final = ("config_json_str", "schema_str")


def refusals(directory: Path) -> dict[str, InvalidRequest]:
    """Return the error of each collection whose numbers are outside the table of bounds, by its id.

    Call it while no client is open on the directory. A database that cannot be read has none: Chroma says what is wrong
    with it.
    """
    path = directory / CHROMA_DATABASE_FILE
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return _refusals(db)
    except sqlite3.DatabaseError:
        return {}


def _refusals(db: sqlite3.Connection) -> dict[str, InvalidRequest]:
    found: dict[str, InvalidRequest] = {}
    there = {row[1] for row in db.execute("PRAGMA table_info(collections)")}
    columns = [column for column in _IN_JSON if column in there]
    wanted = ", ".join(["id", "name", "dimension", *(f"substr({column}, 1, {_MAX_SCHEMA + 1})" for column in columns)])
    noted = _noted(db)
    for key, name, dimension, *texts in db.execute(f"SELECT {wanted} FROM collections"):
        try:
            if dimension is not None:
                bounds.DIMENSION.check(dimension)
            for bound, value in noted.get(key, ()):
                bound.check(value)
            for text in texts:
                _check_json(text)
        except (InvalidRequest, LimitExceeded) as error:
            found[key] = InvalidRequest(
                f"The collection {excerpt(str(name))} cannot be used: {error.detail.partition('; ')[0]}, which is "
                f"outside the bounds ({error.extra.get('least', 0)} to {error.extra['limit']}). Delete it, or make it "
                "again.",
                extra=error.extra,
            )
    return found


def _noted(db: sqlite3.Connection) -> dict[str, list[tuple[bounds.Bound, float]]]:
    """Return the numbers of the index in the metadata of collections and of their segments, by collection id."""
    found: dict[str, list[tuple[bounds.Bound, float]]] = {}
    for source in (
        "collection_metadata",
        "segment_metadata JOIN segments ON segments.id = segment_id",
    ):
        owner = "collection_id" if source == "collection_metadata" else "segments.collection"
        rows = db.execute(f"SELECT {owner}, key, int_value, float_value FROM {source} WHERE key LIKE 'hnsw:%'")
        for key, name, integer, real in rows:
            value = integer if integer is not None else real
            if name in bounds.INDEX_METADATA and value is not None:
                found.setdefault(key, []).append((bounds.INDEX_METADATA[name], value))
    return found


def _check_json(text: str | None) -> None:
    if text is None:
        return
    if len(text) > _MAX_SCHEMA:
        raise bounds.CONFIGURATION_BYTES.exceeded("Its schema", len(text))
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return
    if isinstance(found, dict) and isinstance(keys := found.get("keys"), dict):
        bounds.OPENED_KEYS.check(len(keys), "Its schema")
    for bound, value in bounds.index_numbers(found):
        bound.check(value)
