"""LanceDB as a target, by its own client: a folder with a database for each user, as LanceDB opens one.

A collection is a table that is named for its id, with the columns ``id``, ``vector``, ``document``, ``uri`` and
``metadata`` (JSON; ``values`` says how floats survive); vectors are stored as they are. The table ``vectorpool`` says
which collections there are and where their export stands: there are no transactions over tables, and the next export
goes on behind the last batch. Tables have versions, so what an export deletes or replaces can be read in older ones,
which are removed by the exports of later days. A deleted user's tables are dropped with all versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import lancedb
import msgspec
import numpy as np
import pyarrow as pa

from vectorpool.errors import TargetRefused, TargetUnavailable, UserNotFound
from vectorpool.targets.notes import Done, Entry, read_entry, write_entry
from vectorpool.targets.records import BATCH, Collection, Copy, Held, Records, State
from vectorpool.targets.urls import Target
from vectorpool.targets.values import from_json, to_json

_STATE: Final = "vectorpool"
_KEPT_FOR: Final = timedelta(days=1)
# The keys of the state's rows: the user's, and those of collections.
_USER: Final = "user"
_ENTRY: Final = "collection "
_STATE_SCHEMA: Final = pa.schema([("key", pa.string()), ("value", pa.string())])


def open_sink(target: Target) -> LanceSink:
    """Open a folder to write."""
    return LanceSink(target)


def open_source(target: Target, user_id: str) -> LanceSource:
    """Open a user's database to read. Raises UserNotFound, TargetRefused, TargetUnavailable."""
    return LanceSource(target, user_id)


@contextmanager
def _told(target: Target) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise TargetRefused(f"{target.shown} refuses: {target.clean(str(error))}.") from None
    except RuntimeError as error:
        # Of the library: a commit that others won over and over, a file that cannot be read now.
        raise TargetUnavailable(f"{target.shown} fails: {target.clean(str(error))}.") from None


class _Database:
    """The database of one user."""

    def __init__(self, target: Target, user_id: str) -> None:
        self.target = target
        self._path = Path(unquote(target.parts.netloc + target.parts.path)) / quote(user_id, safe="")
        with _told(target):
            # The library's types do not name all of its options.
            self.db: Any = lancedb.connect(str(self._path)) if self._path.is_dir() else None

    def make(self) -> None:
        """Make the database and its table of the state, unless they are there."""
        with _told(self.target):
            if self.db is None:
                self._path.mkdir(parents=True, exist_ok=True)
                self.db = lancedb.connect(str(self._path))
            self.db.create_table(_STATE, schema=_STATE_SCHEMA, exist_ok=True)

    def table(self, name: str) -> Any:
        """Return a table that is there, in its newest version."""
        assert self.db is not None
        with _told(self.target):
            return self.db.open_table(name)

    def read(self) -> tuple[Done, dict[str, Entry]]:
        """Return what the state says: nothing for a user who is not there."""
        done, entries = Done(), dict[str, Entry]()
        if self.db is None:
            return done, entries
        if not (self._path / f"{_STATE}.lance").is_dir():
            return done, entries
        with _told(self.target):
            rows = self.db.open_table(_STATE).to_arrow().to_pylist()
        try:
            for row in rows:
                if row["key"] == _USER:
                    done = msgspec.json.decode(row["value"], type=Done)
                else:
                    entry = read_entry(row["value"])
                    entries[entry.collection.id] = entry
        except (KeyError, msgspec.MsgspecError):
            raise TargetRefused(
                f"{self.target.shown} has a table {_STATE} that vectorpool did not make. Name another folder."
            ) from None
        return done, entries

    def note(self, key: str, value: str | None) -> None:
        """Write a row of the state, or remove it."""
        table = self.table(_STATE)
        with _told(self.target):
            if value is None:
                table.delete(f"key = {_literal(key)}")
                return
            row = pa.table({"key": [key], "value": [value]}, schema=_STATE_SCHEMA)
            _upsert(table, "key", row)


class LanceSink:
    """Tables in LanceDB, one for each collection."""

    is_always_whole = False
    may_be_kept = False

    def __init__(self, target: Target) -> None:
        self._target = target
        self._database: _Database | None = None
        self._entries: dict[str, Entry] = {}
        self._changed: set[str] = set()
        self._done = Done()

    def close(self) -> None:
        """Forget the database; its files are closed with it."""
        self._database = None

    @property
    def _of_user(self) -> _Database:
        assert self._database is not None, "state comes first"
        return self._database

    def state(self, user_id: str) -> State | None:
        """Return what is there of a user."""
        self._database, self._changed = _Database(self._target, user_id), set()
        done, self._entries = self._database.read()
        if not done.commit and not self._entries:
            return None
        return State(done.commit, done.commit_hash, {key: entry.held for key, entry in self._entries.items()})

    def begin(self, user_id: str, commit: int, commit_hash: str) -> None:
        """Make the user's database."""
        self._done = Done(commit, commit_hash)
        self._of_user.make()

    def put_collection(self, collection: Collection, held: Held) -> None:
        """Create the table as soon as there is a dimension, and note the name and metadata."""
        before = self._entries.get(collection.id)
        entry = Entry(collection, held, before is not None and before.is_there)
        if collection.dimension is not None and not entry.is_there:
            db = self._of_user.db
            assert db is not None
            with _told(self._target):
                db.create_table(collection.id, schema=_schema(collection.dimension), exist_ok=True)
            entry.is_there = True
        self._entries[collection.id] = entry
        self._note(entry)

    def _note(self, entry: Entry) -> None:
        self._of_user.note(_ENTRY + entry.collection.id, write_entry(entry))

    def put(self, collection: Collection, records: Records, *, is_new: bool) -> None:
        """Add rows or replace them whole."""
        assert collection.dimension is not None
        table = self._of_user.table(collection.id)
        flat = pa.array(np.ascontiguousarray(records.vectors, np.float32).reshape(-1), pa.float32())
        rows = pa.Table.from_arrays(
            [
                pa.array(list(records.ids), pa.string()),
                pa.FixedSizeListArray.from_arrays(flat, collection.dimension),
                pa.array(list(records.documents), pa.string()),
                pa.array(list(records.uris), pa.string()),
                pa.array([to_json(each) for each in records.metadatas], pa.string()),
            ],
            schema=_schema(collection.dimension),
        )
        self._changed.add(collection.id)
        with _told(self._target):
            # Also where the collection is new: a batch of an export that was killed may be there.
            _upsert(table, "id", rows)

    def count(self, collection: Collection) -> int:
        """Return how many rows a table has."""
        if not self._entries[collection.id].is_there:
            return 0
        table = self._of_user.table(collection.id)
        with _told(self._target):
            return int(table.count_rows())

    def ids(self, collection: Collection) -> set[str]:
        """Return the ids of a table's rows."""
        if not self._entries[collection.id].is_there:
            return set()
        table = self._of_user.table(collection.id)
        with _told(self._target):
            return set(table.search().select(["id"]).to_arrow().column("id").to_pylist())

    def delete(self, collection: Collection, ids: Sequence[str]) -> None:
        """Delete rows."""
        table = self._of_user.table(collection.id)
        self._changed.add(collection.id)
        with _told(self._target):
            table.delete(f"id IN ({', '.join(map(_literal, ids))})")

    def drop_collection(self, collection_id: str) -> None:
        """Drop a table with all its versions, and then what is noted of it."""
        db = self._of_user.db
        assert db is not None
        with _told(self._target):
            db.drop_table(collection_id, ignore_missing=True)
        self._of_user.note(_ENTRY + collection_id, None)
        self._entries.pop(collection_id, None)
        self._changed.discard(collection_id)

    def note(self, collection: Collection, held: Held) -> None:
        """Note where the export of a collection stands."""
        self._entries[collection.id].held = held
        self._note(self._entries[collection.id])

    def finish(self) -> None:
        """Note the commit of the user, and remove old versions of what changed."""
        self._of_user.note(_USER, msgspec.json.encode(self._done).decode())
        for name in (*self._changed, _STATE):
            table = self._of_user.table(name)
            with _told(self._target):
                table.optimize(cleanup_older_than=_KEPT_FOR)

    def forget(self, user_id: str, commit: int) -> int:
        """Drop the tables that were exported, and note the deletion's commit."""
        count = 0
        self._of_user.make()
        for collection_id, entry in list(self._entries.items()):
            count += self.count(entry.collection)
            self.drop_collection(collection_id)
        db = self._of_user.db
        assert db is not None
        # Its versions had the names and metadata of collections.
        with _told(self._target):
            db.drop_table(_STATE, ignore_missing=True)
        self._of_user.make()
        self._of_user.note(_USER, msgspec.json.encode(Done(commit)).decode())
        return count


class LanceSource:
    """What was exported of a user."""

    def __init__(self, target: Target, user_id: str) -> None:
        self._database = _Database(target, user_id)
        done, self._entries = self._database.read()
        if not done.commit or not done.commit_hash:
            raise UserNotFound(f"{target.shown} has no finished export of user {user_id}.")

    def close(self) -> None:
        """Forget the entries; the files are closed with the tables."""
        self._entries = {}

    def collections(self) -> list[Collection]:
        """Return the collections."""
        return [entry.collection for entry in self._entries.values()]

    def copy(self) -> Copy | None:
        """Return the commit that is whole, as the state says it now."""
        done, entries = self._database.read()
        held = [entry.held for entry in entries.values()]
        is_whole = all(each.commit_hash == done.commit_hash and not each.next_commit for each in held)
        return Copy(done.commit, done.commit_hash) if done.commit_hash and is_whole else None

    def batches(self, collection: Collection, cursor: int = 0) -> Iterator[Records]:
        """Yield the rows in the order in which the version of now has them."""
        if not self._entries[collection.id].is_there:
            return
        table, target = self._database.table(collection.id), self._database.target
        with _told(target):
            for batch in table.search().select(["id", "vector", "document", "uri", "metadata"]).to_batches(BATCH):
                if cursor >= batch.num_rows:
                    cursor -= batch.num_rows
                    continue
                part, cursor = batch.slice(cursor), 0
                # A slice of the list's values, whatever its offset.
                vectors = part.column("vector").flatten().to_numpy(zero_copy_only=False)
                yield Records(
                    part.column("id").to_pylist(),
                    vectors.reshape(part.num_rows, -1),
                    part.column("document").to_pylist(),
                    [from_json(each) for each in part.column("metadata").to_pylist()],
                    part.column("uri").to_pylist(),
                )


def _schema(dimension: int) -> pa.Schema:
    texts = [(name, pa.string()) for name in ("document", "uri", "metadata")]
    return pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32(), dimension)), *texts])


def _upsert(table: Any, key: str, rows: pa.Table) -> None:
    table.merge_insert(key).when_matched_update_all().when_not_matched_insert_all().execute(rows)


def _literal(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"
