"""Qdrant as a target, by its own client.

A collection here is a collection ``{user}_{id}`` there, because Qdrant cannot rename. A point's id must be a number
or a UUID, so it is the version-5 UUID of the record's id, which stays in the payload with document, URI and metadata
(``values`` says how floats survive). Distances are Qdrant's own; it stores vectors of a cosine collection with length
1, so their length is in the payload and an import restores the vector to float32's rounding. The collection
``vectorpool`` has a point for each exported collection and user, which says where the export stands: there are no
transactions, and the next export goes on behind the last batch.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from vectorpool.errors import NotExportable, TargetRefused, TargetUnavailable, UserNotFound
from vectorpool.targets.records import Collection, Copy, Held, Records, State
from vectorpool.targets.urls import Target
from vectorpool.targets.values import decode, encode

_STATE: Final = "vectorpool"
_SPACE: Final = uuid.UUID("6f4a5f0e-5a63-5d0c-9a45-0f4a3a1d7c11")
_TIMEOUT_S: Final = 120
# Points of one request: the server takes 32 MB, which 16,000 dimensions as JSON keep below.
_AT_ONCE: Final = 100
_DISTANCES: Final = {
    "l2": models.Distance.EUCLID,
    "cosine": models.Distance.COSINE,
    "ip": models.Distance.DOT,
}


class _Entry(msgspec.Struct):
    """What the state's point of a collection holds."""

    user_id: str
    collection: Collection
    held: Held
    # A collection without a vector has no dimension, and none there.
    is_there: bool = False


def open_sink(target: Target) -> QdrantSink:
    """Open a server to write. Raises TargetRefused, TargetUnavailable."""
    return QdrantSink(target, connect(target))


def open_source(target: Target, user_id: str) -> QdrantSource:
    """Open a server to read. Raises UserNotFound, TargetRefused, TargetUnavailable."""
    return QdrantSource(target, connect(target), user_id)


def connect(target: Target) -> QdrantClient:
    """Return a client, which connects when it is first used."""
    return QdrantClient(url=target.base, api_key=target.password or None, timeout=_TIMEOUT_S, check_compatibility=False)


@contextmanager
def _told(target: Target) -> Iterator[None]:
    try:
        yield
    except UnexpectedResponse as error:
        text = f"{error.status_code}: {target.clean(error.content.decode('utf-8', 'replace'))}"
        if (error.status_code or 500) >= 500 or error.status_code == 429:
            raise TargetUnavailable(f"{target.shown} fails: {text}.") from None
        raise TargetRefused(f"{target.shown} refuses: {text}.") from None
    except (ResponseHandlingException, ApiException) as error:
        raise TargetUnavailable(f"{target.shown} does not answer: {target.clean(str(error))}.") from None


def _name(user_id: str, collection_id: str) -> str:
    return f"{user_id}_{collection_id}"


def _point(*parts: str) -> str:
    return str(uuid.uuid5(_SPACE, "\n".join(parts)))


class _State:
    """The collection that says what was exported."""

    def __init__(self, target: Target, client: QdrantClient) -> None:
        self._target = target
        self._client = client

    def is_there(self) -> bool:
        with _told(self._target):
            return self._client.collection_exists(_STATE)

    def create(self) -> None:
        with _told(self._target):
            if not self._client.collection_exists(_STATE):
                self._client.create_collection(_STATE, vectors_config={})

    def user(self, user_id: str) -> tuple[int, str]:
        """Return the commit of a user's last finished export, and its hash; (0, "") for none."""
        with _told(self._target):
            found = self._client.retrieve(_STATE, [_point(user_id)], with_payload=True)
        payload = (found[0].payload or {}) if found else {}
        return int(payload.get("commit") or 0), str(payload.get("commit_hash") or "")

    def put_user(self, user_id: str, commit: int, commit_hash: str) -> None:
        self._put(_point(user_id), {"kind": "user", "user": user_id, "commit": commit, "commit_hash": commit_hash})

    def put(self, entry: _Entry) -> None:
        payload = {
            "kind": "collection",
            "user": entry.user_id,
            # As text: a server indexes no part of it, and keeps 64-bit integers and floats as they are.
            "entry": msgspec.json.encode(
                msgspec.structs.replace(
                    entry,
                    collection=msgspec.structs.replace(
                        entry.collection,
                        metadata=None if entry.collection.metadata is None else encode(entry.collection.metadata),
                    ),
                )
            ).decode(),
        }
        self._put(_point(entry.user_id, entry.collection.id), payload)

    def _put(self, point: str, payload: dict[str, Any]) -> None:
        with _told(self._target):
            self._client.upsert(_STATE, [models.PointStruct(id=point, vector={}, payload=payload)], wait=True)

    def remove(self, user_id: str, collection_id: str) -> None:
        with _told(self._target):
            self._client.delete(_STATE, models.PointIdsList(points=[_point(user_id, collection_id)]), wait=True)

    def entries(self, user_id: str) -> dict[str, _Entry]:
        """Return the collections of a user by id."""
        of_user = models.Filter(
            must=[
                models.FieldCondition(key="user", match=models.MatchValue(value=user_id)),
                models.FieldCondition(key="kind", match=models.MatchValue(value="collection")),
            ]
        )
        found: dict[str, _Entry] = {}
        after: Any = None
        while True:
            with _told(self._target):
                points, after = self._client.scroll(
                    _STATE, scroll_filter=of_user, limit=_AT_ONCE, offset=after, with_payload=True
                )
            for point in points:
                entry = msgspec.json.decode((point.payload or {})["entry"], type=_Entry)
                if entry.collection.metadata is not None:
                    plain = decode(entry.collection.metadata)
                    entry.collection = msgspec.structs.replace(entry.collection, metadata=plain)
                found[entry.collection.id] = entry
            if after is None:
                return found


class QdrantSink:
    """Collections in Qdrant, one for each here."""

    is_always_whole = False
    may_be_kept = False

    def __init__(self, target: Target, client: QdrantClient) -> None:
        self._target = target
        self._client = client
        self._state = _State(target, client)
        self._user_id = ""
        self._commit, self._hash = 0, ""
        self._entries: dict[str, _Entry] = {}

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def state(self, user_id: str) -> State | None:
        """Return what is there of a user."""
        self._state.create()
        self._user_id = user_id
        self._entries = self._state.entries(user_id)
        commit, commit_hash = self._state.user(user_id)
        if not commit and not self._entries:
            return None
        return State(commit, commit_hash, {key: entry.held for key, entry in self._entries.items()})

    def begin(self, user_id: str, commit: int, commit_hash: str) -> None:
        """Note the commit that is brought."""
        self._commit, self._hash = commit, commit_hash

    def put_collection(self, collection: Collection, held: Held) -> None:
        """Create a collection as soon as it has a dimension, and note its name and metadata."""
        before = self._entries.get(collection.id)
        entry = _Entry(self._user_id, collection, held, before is not None and before.is_there)
        if collection.dimension is not None and not entry.is_there:
            name = _name(self._user_id, collection.id)
            vectors = models.VectorParams(size=collection.dimension, distance=_DISTANCES[collection.space])
            with _told(self._target):
                if not self._client.collection_exists(name):
                    self._client.create_collection(name, vectors_config=vectors)
            entry.is_there = True
        self._entries[collection.id] = entry
        self._state.put(entry)

    def put(self, collection: Collection, records: Records, *, is_new: bool) -> None:
        """Add points or replace them whole."""
        lengths = np.linalg.norm(records.vectors.astype(np.float64), axis=1)
        is_cosine = collection.space == "cosine"
        columns = zip(
            records.ids, records.vectors, lengths, records.documents, records.uris, records.metadatas, strict=True
        )
        points = []
        for record_id, vector, length, document, uri, metadata in columns:
            payload: dict[str, Any] = {"id": record_id}
            if document is not None:
                payload["document"] = document
            if uri is not None:
                payload["uri"] = uri
            if metadata is not None:
                payload["metadata"] = encode(metadata)
            if is_cosine:
                payload["length"] = float(length)
            points.append(models.PointStruct(id=_point(record_id), vector=vector.tolist(), payload=payload))
        name = _name(self._user_id, collection.id)
        for start in range(0, len(points), _AT_ONCE):
            with _told(self._target):
                self._client.upsert(name, points[start : start + _AT_ONCE], wait=True)

    def count(self, collection: Collection) -> int:
        """Return how many points a collection has."""
        if not self._entries[collection.id].is_there:
            return 0
        with _told(self._target):
            return int(self._client.count(_name(self._user_id, collection.id), exact=True).count)

    def ids(self, collection: Collection) -> set[str]:
        """Return the records' ids, from the payloads."""
        if not self._entries[collection.id].is_there:
            return set()
        pages = _pages(self._target, self._client, _name(self._user_id, collection.id), with_vectors=False)
        return {point.payload["id"] for page in pages for point in page}

    def delete(self, collection: Collection, ids: Sequence[str]) -> None:
        """Delete points by the records' ids."""
        points: Any = models.PointIdsList(points=[_point(each) for each in ids])
        with _told(self._target):
            self._client.delete(_name(self._user_id, collection.id), points, wait=True)

    def drop_collection(self, collection_id: str) -> None:
        """Delete a collection, and then what is noted of it."""
        with _told(self._target):
            self._client.delete_collection(_name(self._user_id, collection_id))
        self._state.remove(self._user_id, collection_id)
        self._entries.pop(collection_id, None)

    def note(self, collection: Collection, held: Held) -> None:
        """Note where the export of a collection stands."""
        self._entries[collection.id].held = held
        self._state.put(self._entries[collection.id])

    def finish(self) -> None:
        """Note the commit of the user."""
        self._state.put_user(self._user_id, self._commit, self._hash)

    def forget(self, user_id: str, commit: int) -> int:
        """Delete the collections that were exported, and note the deletion's commit."""
        count = 0
        for collection_id, entry in list(self._entries.items()):
            count += self.count(entry.collection)
            self.drop_collection(collection_id)
        self._state.put_user(user_id, commit, "")
        return count


class QdrantSource:
    """What was exported of a user."""

    def __init__(self, target: Target, client: QdrantClient, user_id: str) -> None:
        self._target = target
        self._client = client
        self._user_id = user_id
        try:
            state = _State(target, client)
            commit, self._entries = 0, dict[str, _Entry]()
            if state.is_there():
                (commit, commit_hash), self._entries = state.user(user_id), state.entries(user_id)
                commit = commit if commit_hash else 0
            if not commit:
                raise UserNotFound(f"{target.shown} has no finished export of user {user_id}.")
        except BaseException:
            client.close()
            raise

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def collections(self) -> list[Collection]:
        """Return the collections."""
        return [entry.collection for entry in self._entries.values()]

    def copy(self) -> Copy | None:
        """Return the commit that is whole, as the state says it now."""
        state = _State(self._target, self._client)
        commit, commit_hash = state.user(self._user_id)
        entries = state.entries(self._user_id).values()
        is_whole = all(entry.held.commit_hash == commit_hash and not entry.held.next_commit for entry in entries)
        return Copy(commit, commit_hash) if commit_hash and is_whole else None

    def batches(self, collection: Collection, cursor: int = 0) -> Iterator[Records]:
        """Yield the records in the order of their points."""
        if not self._entries[collection.id].is_there:
            return
        for points in _pages(self._target, self._client, _name(self._user_id, collection.id), with_vectors=True):
            if cursor >= len(points):
                cursor -= len(points)
                continue
            points, cursor = points[cursor:], 0
            try:
                vectors = np.asarray([point.vector for point in points], np.float32)
                payloads = [point.payload for point in points]
                if collection.space == "cosine":
                    stored = np.linalg.norm(vectors.astype(np.float64), axis=1)
                    wanted = np.asarray([payload["length"] for payload in payloads])
                    scale = np.divide(wanted, stored, out=np.zeros_like(stored), where=stored > 0)
                    vectors = (vectors * scale[:, None]).astype(np.float32)
                metadatas = [
                    None if (each := payload.get("metadata")) is None else decode(each) for payload in payloads
                ]
                yield Records(
                    [payload["id"] for payload in payloads],
                    vectors,
                    [payload.get("document") for payload in payloads],
                    metadatas,
                    [payload.get("uri") for payload in payloads],
                )
            except (KeyError, TypeError, ValueError):
                raise NotExportable(f"{collection.shown} has points that vectorpool did not write.") from None


def _pages(target: Target, client: QdrantClient, name: str, *, with_vectors: bool) -> Iterator[list[Any]]:
    after: Any = None
    while True:
        with _told(target):
            points, after = client.scroll(
                name, limit=_AT_ONCE * 10, offset=after, with_payload=True, with_vectors=with_vectors
            )
        if points:
            yield points
        if after is None:
            return
