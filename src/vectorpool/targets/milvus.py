"""Milvus as a target, by its own client: a server, or a folder that Milvus Lite opens.

A collection here is a collection ``vectorpool_{user}__{id}`` there, where the user's id is written in letters and
digits. A row's primary key is a hash of the record's id, because keys are part of queries; beside it are ``id``,
``document``, ``uri``, ``metadata`` (JSON; ``values`` says how floats survive) and ``vector`` as it is. Servers before
2.5 have no empty fields, so ``has_document`` and the like tell nothing from an empty text. Milvus bounds a text and a
JSON value by 65,535 bytes: a record with a longer one has ``is_long``, texts cut there, no metadata, and all of it as
JSON in ``rest``, an array of texts. The collection ``vectorpool_{user}`` says which collections there are
and where their export stands: there are no transactions, and the next export goes on behind the last batch. A deleted
user's collections are dropped, this one too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from vectorpool.errors import NotExportable, TargetRefused, TargetUnavailable, UserNotFound
from vectorpool.targets.milvus_connection import Connection, Field, folder, is_folder
from vectorpool.targets.milvus_rows import READ, RECORD_FIELDS, STATE_FIELDS, Record, key_of, pieces, row_of
from vectorpool.targets.notes import Done, Entry, read_entry, write_entry
from vectorpool.targets.records import Collection, Copy, Held, Records, State
from vectorpool.targets.urls import Target
from vectorpool.targets.values import decode

_MOST_DIMENSION: Final = 32_768
# A longer name of a user is a hash: the names of Milvus have 255 characters.
_MOST_NAME: Final = 180
# A request and an answer: a server takes and gives 64 MB.
_REQUEST_BYTES: Final = 8 << 20
_ROWS_AT_ONCE: Final = 250
_IDS_AT_ONCE: Final = 500
_METRICS: Final = {"l2": "L2", "cosine": "COSINE", "ip": "IP"}
# The keys of the state's rows: the user's, and those of collections.
_USER: Final = "user"


def open_sink(target: Target) -> MilvusSink:
    """Open a server or a folder to write. Raises TargetRefused, TargetUnavailable."""
    return MilvusSink(Connection(target))


def open_source(target: Target, user_id: str) -> MilvusSource:
    """Open a server or a folder to read. Raises UserNotFound, TargetRefused, TargetUnavailable."""
    if is_folder(target) and not (folder(target) / "collections").is_dir():
        # Milvus Lite would make it.
        raise UserNotFound(f"{target.shown} has no finished export of user {user_id}.")
    return MilvusSource(Connection(target), user_id)


def state_name(user_id: str) -> str:
    """Return the name of the collection that has a user's state; those of records begin with it."""
    plain = "".join(each if each.isascii() and each.isalnum() else _escaped(each) for each in user_id)
    return f"vectorpool_{plain if len(plain) <= _MOST_NAME else '_' + key_of(user_id)}"


def _escaped(character: str) -> str:
    return "".join(f"_{byte:02X}" for byte in character.encode())


class _State:
    """The collection that says what was exported of a user."""

    def __init__(self, connection: Connection, user_id: str) -> None:
        self._connection = connection
        self.name = state_name(user_id)

    def name_of(self, collection_id: str) -> str:
        """Return the name of a collection of records."""
        # A UUID, of which only the hyphens may not be in a name.
        return f"{self.name}__{collection_id.replace('-', '')}"

    def create(self) -> None:
        """Create the collection, unless it is there."""
        if self._connection.is_there(self.name):
            return
        self._connection.create(self.name, STATE_FIELDS, "L2")

    def read(self) -> tuple[Done, dict[str, Entry]]:
        """Return what the state says: nothing for a user who is not there."""
        done, entries = Done(), dict[str, Entry]()
        if not self._connection.is_there(self.name):
            self._connection.check_database()
            return done, entries
        foreign = TargetRefused(
            f"{self._connection.target.shown} has a collection {self.name} that vectorpool did not make. "
            "Name another database."
        )
        fields = {field["name"] for field in self._connection.call("describe_collection", self.name)["fields"]}
        if fields != {"key", "value", "vector"}:
            raise foreign
        keys = self._connection.keys(self.name)
        try:
            for start in range(0, len(keys), _ROWS_AT_ONCE):
                for row in self._connection.rows(self.name, keys[start : start + _ROWS_AT_ONCE], ["value"]):
                    text = "".join(row["value"])
                    if row["key"] == _USER:
                        done = msgspec.json.decode(text, type=Done)
                        continue
                    entry = read_entry(text)
                    entries[entry.collection.id] = entry
        except msgspec.MsgspecError:
            raise foreign from None
        return done, entries

    def put(self, entry: Entry) -> None:
        """Note a collection."""
        kept = entry.collection
        self._write(key_of(kept.id), pieces(write_entry(entry), f"The metadata of {kept.shown}"))

    def put_user(self, done: Done) -> None:
        """Note the commit of the user."""
        self._write(_USER, [msgspec.json.encode(done).decode()])

    def _write(self, key: str, value: list[str]) -> None:
        self._connection.call("upsert", self.name, [{"key": key, "value": value, "vector": [0.0, 0.0]}])

    def remove(self, collection_id: str) -> None:
        """Remove what is noted of a collection."""
        self._connection.call("delete", self.name, ids=[key_of(collection_id)])


class MilvusSink:
    """Collections in Milvus, one for each here."""

    is_always_whole = False
    may_be_kept = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._state: _State | None = None
        self._entries: dict[str, Entry] = {}
        self._done = Done()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @property
    def _of_user(self) -> _State:
        assert self._state is not None, "state comes first"
        return self._state

    def _name(self, collection: Collection) -> str:
        return self._of_user.name_of(collection.id)

    def state(self, user_id: str) -> State | None:
        """Return what is there of a user."""
        self._state = _State(self._connection, user_id)
        done, self._entries = self._state.read()
        if not done.commit and not self._entries:
            return None
        return State(done.commit, done.commit_hash, {key: entry.held for key, entry in self._entries.items()})

    def begin(self, user_id: str, commit: int, commit_hash: str) -> None:
        """Make the collection of the user's state."""
        self._done = Done(commit, commit_hash)
        self._of_user.create()

    def put_collection(self, collection: Collection, held: Held) -> None:
        """Create a collection as soon as it has a dimension, and note its name and metadata."""
        before = self._entries.get(collection.id)
        entry = Entry(collection, held, before is not None and before.is_there)
        if collection.dimension is not None and not entry.is_there:
            self._create(collection, collection.dimension)
            entry.is_there = True
        self._entries[collection.id] = entry
        self._of_user.put(entry)

    def _create(self, collection: Collection, dimension: int) -> None:
        if dimension > _MOST_DIMENSION:
            raise NotExportable(
                f"{collection.shown} has vectors of {dimension} numbers, and Milvus at most {_MOST_DIMENSION}. "
                "Name a target of another kind."
            )
        name = self._name(collection)
        if self._connection.is_there(name):
            return
        try:
            vector = Field("vector", "FLOAT_VECTOR", {"dim": dimension})
            self._connection.create(name, (*RECORD_FIELDS, vector), _METRICS[collection.space])
        except (TargetRefused, TargetUnavailable) as error:
            # Servers before 2.4 have one code for what they refuse and for what fails.
            raise type(error)(f"{error.detail} This was {collection.shown}.") from None

    def put(self, collection: Collection, records: Records, *, is_new: bool) -> None:
        """Add rows or replace them whole."""
        name = self._name(collection)
        rows: list[dict[str, Any]] = []
        size = 0
        columns = zip(records.ids, records.vectors, records.documents, records.uris, records.metadatas, strict=True)
        for record_id, vector, document, uri, metadata in columns:
            row, row_size = row_of(collection, Record(record_id, document, uri, metadata))
            row["vector"] = np.ascontiguousarray(vector, np.float32)
            row_size += 4 * len(vector)
            if rows and size + row_size > _REQUEST_BYTES:
                # Also where the collection is new: an insertion would double what an export that was killed wrote.
                self._connection.call("upsert", name, rows)
                rows, size = [], 0
            rows.append(row)
            size += row_size
        if rows:
            self._connection.call("upsert", name, rows)

    def count(self, collection: Collection) -> int:
        """Return how many rows a collection has."""
        return self._connection.count(self._name(collection)) if self._entries[collection.id].is_there else 0

    def ids(self, collection: Collection) -> set[str]:
        """Return the records' ids."""
        if not self._entries[collection.id].is_there:
            return set()
        name, found = self._name(collection), set[str]()
        keys = self._connection.keys(name)
        for start in range(0, len(keys), _IDS_AT_ONCE):
            for row in self._connection.rows(name, keys[start : start + _IDS_AT_ONCE], ["id", "is_long"]):
                found.add(_long(self._connection, name, row["key"]).id if row["is_long"] else row["id"])
        return found

    def delete(self, collection: Collection, ids: Sequence[str]) -> None:
        """Delete rows by the records' ids."""
        self._connection.call("delete", self._name(collection), ids=[key_of(each) for each in ids])

    def drop_collection(self, collection_id: str) -> None:
        """Drop a collection, and then what is noted of it."""
        self._connection.drop(self._of_user.name_of(collection_id))
        self._of_user.remove(collection_id)
        self._entries.pop(collection_id, None)

    def note(self, collection: Collection, held: Held) -> None:
        """Note where the export of a collection stands."""
        self._entries[collection.id].held = held
        self._of_user.put(self._entries[collection.id])

    def finish(self) -> None:
        """Note the commit of the user."""
        self._of_user.put_user(self._done)

    def forget(self, user_id: str, commit: int) -> int:
        """Drop the collections that were exported, and note the deletion's commit."""
        count = 0
        for collection_id, entry in list(self._entries.items()):
            count += self.count(entry.collection)
            self.drop_collection(collection_id)
        # What was removed from it, the names and metadata of collections, stays in its files for a while.
        self._connection.drop(self._of_user.name)
        self._of_user.create()
        self._of_user.put_user(Done(commit))
        return count


class MilvusSource:
    """What was exported of a user."""

    def __init__(self, connection: Connection, user_id: str) -> None:
        self._connection = connection
        self._state = _State(connection, user_id)
        try:
            done, self._entries = self._state.read()
            if not done.commit or not done.commit_hash:
                raise UserNotFound(f"{connection.target.shown} has no finished export of user {user_id}.")
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def collections(self) -> list[Collection]:
        """Return the collections."""
        return [entry.collection for entry in self._entries.values()]

    def copy(self) -> Copy | None:
        """Return the commit that is whole, as the state says it now."""
        done, entries = self._state.read()
        held = [entry.held for entry in entries.values()]
        is_whole = all(each.commit_hash == done.commit_hash and not each.next_commit for each in held)
        return Copy(done.commit, done.commit_hash) if done.commit_hash and is_whole else None

    def batches(self, collection: Collection, cursor: int = 0) -> Iterator[Records]:
        """Yield the records in the order of their keys."""
        if not self._entries[collection.id].is_there:
            return
        name = self._state.name_of(collection.id)
        keys = self._connection.keys(name)[cursor:]
        for start in range(0, len(keys), _ROWS_AT_ONCE):
            rows = self._connection.rows(name, keys[start : start + _ROWS_AT_ONCE], [*READ, "vector"])
            plain = [self._read(collection, name, row) for row in rows]
            yield Records(
                [each.id for each in plain],
                np.asarray([row["vector"] for row in rows], np.float32),
                [each.document for each in plain],
                [None if each.metadata is None else decode(each.metadata) for each in plain],
                [each.uri for each in plain],
            )

    def _read(self, collection: Collection, name: str, row: dict[str, Any]) -> Record:
        if row["is_long"]:
            try:
                return _long(self._connection, name, row["key"])
            except msgspec.MsgspecError:
                raise NotExportable(
                    f"The record {row['id'][:80]!r} of {collection.shown} cannot be read: it was not written by "
                    "vectorpool."
                ) from None
        return Record(
            row["id"],
            row["document"] if row["has_document"] else None,
            row["uri"] if row["has_uri"] else None,
            row["metadata"] if row["has_metadata"] else None,
        )


def _long(connection: Connection, name: str, key: str) -> Record:
    (row,) = connection.rows(name, [key], ["rest"])
    return msgspec.json.decode("".join(row["rest"]), type=Record)
