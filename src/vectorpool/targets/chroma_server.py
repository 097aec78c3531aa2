"""Any server of Chroma's protocol as a target: Chroma's own, or another vectorpool.

A user is a tenant, or the tenant that ``?tenant=`` names. What an export must know is in the collection's metadata,
in keys that begin with ``vectorpool:``, which an import leaves out. The server has no transactions: a collection that
is being written says so there, and the next export goes on behind the last batch.

An upsert would merge metadata, so records that may be there are deleted before they are added. Floats that JSON does
not hold (NaN, infinity) are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote

import httpx
import numpy as np
import orjson

from vectorpool.errors import NotExportable, TargetRefused, TargetUnavailable, UserNotFound
from vectorpool.targets.records import BATCH, Collection, Copy, Held, Records, State
from vectorpool.targets.urls import Target
from vectorpool.targets.values import unholdable

_OWN: Final = "vectorpool:"
_ID: Final = _OWN + "id"
_USER_COMMIT: Final = _OWN + "user_commit"
_PAGE: Final = 500
# Records of one call: servers take at least this many.
_AT_ONCE: Final = 250
_MAX_COLLECTIONS: Final = 100_000
_TIMEOUT_S: Final = 120
# The database and collection that note the commit of a whole user.
_STATE_DATABASE: Final = "vectorpool-state"
_STATE: Final = "vectorpool-state"


def open_sink(target: Target) -> ChromaSink:
    """Open a server to write. Raises TargetRefused, TargetUnavailable."""
    return ChromaSink(target)


def open_source(target: Target, user_id: str) -> ChromaSource:
    """Open a server to read. Raises UserNotFound, TargetRefused, TargetUnavailable."""
    return ChromaSource(target, user_id)


class _Server:
    """Chroma's protocol, for one tenant."""

    def __init__(self, target: Target) -> None:
        self._target = target
        headers = {"Content-Type": "application/json"}
        if target.password:
            headers |= {"Authorization": f"Bearer {target.password}", "X-Chroma-Token": target.password}
        self._client = httpx.Client(base_url=target.base, headers=headers, timeout=_TIMEOUT_S)
        self._tenant = ""

    def close(self) -> None:
        self._client.close()

    def use(self, user_id: str) -> None:
        self._tenant = self._target.parameters.get("tenant") or user_id

    def ask(self, method: str, path: str, body: Any = None, *, missing: bool = False) -> Any:
        """Return an answer; None for 404 if ``missing`` may be. Paths are below ``/api/v2``."""
        content = None if body is None else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        try:
            answer = self._client.request(method, f"/api/v2{path}", content=content)
        except httpx.HTTPError as error:
            text = self._target.clean(str(error) or type(error).__name__)
            raise TargetUnavailable(f"{self._target.shown} does not answer: {text}.") from None
        if answer.status_code == 404 and missing:
            return None
        if answer.is_success:
            try:
                return orjson.loads(answer.content) if answer.content else None
            except orjson.JSONDecodeError:
                raise TargetRefused(
                    f"{self._target.shown} answers with something else than JSON: is it Chroma?"
                ) from None
        text = f"{answer.status_code}: {self._target.clean(answer.text)}"
        if answer.status_code >= 500 or answer.status_code == 429:
            raise TargetUnavailable(f"{self._target.shown} fails: {text}.")
        raise TargetRefused(f"{self._target.shown} refuses: {text}.")

    @property
    def tenant(self) -> str:
        """The path of the tenant."""
        return f"/tenants/{quote(self._tenant, safe='')}"

    def database(self, name: str) -> str:
        """Return the path of a database."""
        return f"{self.tenant}/databases/{quote(name, safe='')}"

    def databases(self) -> list[str]:
        """Return the names of the tenant's databases; none without the tenant."""
        return [found["name"] for found in self.pages(f"{self.tenant}/databases")]

    def collections(self, database: str) -> list[dict[str, Any]]:
        """Return the collections of a database, as the server tells them."""
        return self.pages(f"{self.database(database)}/collections")

    def pages(self, path: str) -> list[dict[str, Any]]:
        """Return a whole listing."""
        found: list[dict[str, Any]] = []
        while len(found) < _MAX_COLLECTIONS:
            page = self.ask("GET", f"{path}?limit={_PAGE}&offset={len(found)}", missing=True) or []
            found += page
            if len(page) < _PAGE:
                break
        return found

    def create(self, user_id: str, database: str) -> None:
        """Create the tenant and a database, if they are not there."""
        self.use(user_id)
        if self.ask("GET", self.tenant, missing=True) is None:
            self.ask("POST", "/tenants", {"name": self._tenant})
        if self.ask("GET", self.database(database), missing=True) is None:
            self.ask("POST", f"{self.tenant}/databases", {"name": database})


class ChromaSink:
    """Collections on a server, by the ids that they have here."""

    is_always_whole = False
    may_be_kept = False

    def __init__(self, target: Target) -> None:
        self._server = _Server(target)
        self._user_id = ""
        self._commit, self._hash = 0, ""
        # (database, the server's id, name) by our id.
        self._there: dict[str, tuple[str, str, str]] = {}
        self._databases: set[str] = set()
        self._collections: dict[str, Collection] = {}

    def close(self) -> None:
        """Close the connection."""
        self._server.close()

    def state(self, user_id: str) -> State | None:
        """Return what is there of a user."""
        self._user_id = user_id
        self._server.use(user_id)
        self._there.clear()
        held: dict[str, Held] = {}
        commit, commit_hash = 0, ""
        self._databases = set(self._server.databases())
        for database in sorted(self._databases):
            for found in self._server.collections(database):
                metadata = found.get("metadata") or {}
                if database == _STATE_DATABASE and found["name"] == _STATE:
                    commit, commit_hash = metadata.get(_USER_COMMIT, 0), metadata.get(_OWN + "user_hash", "")
                elif _ID in metadata:
                    self._there[metadata[_ID]] = (database, found["id"], found["name"])
                    held[metadata[_ID]] = _held(metadata)
        return State(commit, commit_hash, held) if commit or held else None

    def begin(self, user_id: str, commit: int, commit_hash: str) -> None:
        """Note the commit that is brought."""
        self._commit, self._hash = commit, commit_hash

    def put_collection(self, collection: Collection, held: Held) -> None:
        """Create or rename a collection. Raises TargetRefused if another one has its name."""
        if key := unholdable(collection.metadata):
            raise NotExportable(
                f"{collection.shown}: the metadata key {key!r} is NaN or infinite, which JSON does not hold."
            )
        if collection.database not in self._databases:
            self._server.create(self._user_id, collection.database)
            self._databases.add(collection.database)
        self._collections[collection.id] = collection
        before = self._there.get(collection.id)
        if before is None:
            self._there[collection.id] = (collection.database, self._created(collection, held), collection.name)
        else:
            self._free(collection)
            self._update(collection, held, renamed=before[2] != collection.name)
            self._there[collection.id] = (before[0], before[1], collection.name)

    def _created(self, collection: Collection, held: Held) -> str:
        self._free(collection)
        path = f"{self._server.database(collection.database)}/collections"
        index = {key: value for key, value in collection.configuration.get("hnsw", {}).items() if key != "num_threads"}
        body = {"name": collection.name, "metadata": _metadata(collection, held), "configuration": {"hnsw": index}}
        return str(self._server.ask("POST", path, body)["id"])

    def _free(self, collection: Collection) -> None:
        """Give another collection of ours that has this one's new name a name of its own: its turn comes."""
        for other, (database, there, name) in list(self._there.items()):
            if other != collection.id and (database, name) == (collection.database, collection.name):
                path = f"{self._server.database(database)}/collections/{there}"
                self._server.ask("PUT", path, {"new_name": f"moved-{other}"})
                self._there[other] = (database, there, f"moved-{other}")

    def _update(self, collection: Collection, held: Held, *, renamed: bool) -> None:
        body: dict[str, Any] = {"new_metadata": _metadata(collection, held)}
        if renamed:
            body["new_name"] = collection.name
        self._server.ask("PUT", self._path(collection), body)

    def _path(self, collection: Collection) -> str:
        database, there, _ = self._there[collection.id]
        return f"{self._server.database(database)}/collections/{there}"

    def put(self, collection: Collection, records: Records, *, is_new: bool) -> None:
        """Add records, after their earlier states were deleted."""
        for start in range(0, len(records.ids), _AT_ONCE):
            part = records.part(slice(start, start + _AT_ONCE))
            for record_id, metadata in zip(part.ids, part.metadatas, strict=True):
                if key := unholdable(metadata):
                    raise NotExportable(
                        f"The metadata key {key!r} of record {record_id!r} of {collection.shown} is NaN or infinite, "
                        "which JSON does not hold. Change it, or name another kind of target."
                    )
            if not is_new:
                self.delete(collection, part.ids)
            body = {
                "ids": list(part.ids),
                "embeddings": np.ascontiguousarray(part.vectors, np.float32),
                "documents": list(part.documents),
                "metadatas": list(part.metadatas),
                "uris": list(part.uris),
            }
            self._server.ask("POST", f"{self._path(collection)}/upsert", body)

    def count(self, collection: Collection) -> int:
        """Return how many records a collection has."""
        return int(self._server.ask("GET", f"{self._path(collection)}/count"))

    def ids(self, collection: Collection) -> set[str]:
        """Return the ids of a collection's records."""
        found: set[str] = set()
        for start in range(0, self.count(collection), BATCH):
            body = {"limit": BATCH, "offset": start, "include": []}
            found.update(self._server.ask("POST", f"{self._path(collection)}/get", body)["ids"])
        return found

    def delete(self, collection: Collection, ids: Sequence[str]) -> None:
        """Delete records."""
        self._server.ask("POST", f"{self._path(collection)}/delete", {"ids": list(ids)})

    def drop_collection(self, collection_id: str) -> None:
        """Delete a collection by the name that it has on the server."""
        database, _, name = self._there.pop(collection_id)
        self._server.ask("DELETE", f"{self._server.database(database)}/collections/{quote(name)}", missing=True)

    def note(self, collection: Collection, held: Held) -> None:
        """Note where the export of a collection stands, in its metadata."""
        self._update(collection, held, renamed=False)

    def finish(self) -> None:
        """Note the commit of the user."""
        self._note_user(self._commit, self._hash)

    def _note_user(self, commit: int, commit_hash: str) -> None:
        self._server.create(self._user_id, _STATE_DATABASE)
        noted = {_USER_COMMIT: commit, _OWN + "user_hash": commit_hash}
        path = f"{self._server.database(_STATE_DATABASE)}/collections"
        made = self._server.ask("POST", path, {"name": _STATE, "get_or_create": True, "metadata": noted})
        self._server.ask("PUT", f"{path}/{made['id']}", {"new_metadata": noted})

    def forget(self, user_id: str, commit: int) -> int:
        """Delete the collections that were exported."""
        count = 0
        for collection_id, (database, there, _) in list(self._there.items()):
            count += int(self._server.ask("GET", f"{self._server.database(database)}/collections/{there}/count"))
            self.drop_collection(collection_id)
        self._note_user(commit, "")
        return count


class ChromaSource:
    """The collections of a tenant."""

    def __init__(self, target: Target, user_id: str) -> None:
        self._server = _Server(target)
        try:
            self._server.use(user_id)
            self._paths: dict[str, str] = {}
            self._found = list(self._look())
            if not self._found:
                raise UserNotFound(f"{target.shown} has no collection of the tenant of user {user_id}.")
        except BaseException:
            self._server.close()
            raise

    def _look(self) -> Iterator[Collection]:
        for database in self._server.databases():
            if database == _STATE_DATABASE:
                continue
            for found in self._server.collections(database):
                self._paths[found["id"]] = f"{self._server.database(database)}/collections/{found['id']}"
                metadata = {
                    key: each for key, each in (found.get("metadata") or {}).items() if not key.startswith(_OWN)
                }
                hnsw = (found.get("configuration_json") or {}).get("hnsw") or {}
                yield Collection(
                    found["id"], database, found["name"], metadata or None, found.get("dimension"), {"hnsw": hnsw}
                )

    def close(self) -> None:
        """Close the connection."""
        self._server.close()

    def collections(self) -> list[Collection]:
        """Return the collections of the tenant."""
        return self._found

    def copy(self) -> Copy | None:
        """Return the commit that is whole; None for collections of others too."""
        commit, commit_hash = 0, ""
        helds = list[Held]()
        for database in self._server.databases():
            for found in self._server.collections(database):
                metadata = found.get("metadata") or {}
                if database == _STATE_DATABASE and found["name"] == _STATE:
                    commit, commit_hash = metadata.get(_USER_COMMIT, 0), metadata.get(_OWN + "user_hash", "")
                elif database != _STATE_DATABASE:
                    helds.append(_held(metadata))
        is_whole = all(held.commit_hash == commit_hash and not held.next_commit for held in helds)
        return Copy(commit, commit_hash) if commit_hash and is_whole else None

    def batches(self, collection: Collection, cursor: int = 0) -> Iterator[Records]:
        """Yield the records in the server's order."""
        path = self._paths[collection.id]
        while True:
            body = {
                "limit": _AT_ONCE,
                "offset": cursor,
                "include": ["embeddings", "documents", "metadatas", "uris"],
            }
            found = self._server.ask("POST", f"{path}/get", body)
            ids = found["ids"]
            if not ids:
                return
            try:
                vectors = np.asarray(found["embeddings"], np.float32)
            except (TypeError, ValueError):
                raise NotExportable(
                    f"{collection.shown} has records without a vector, or of several dimensions."
                ) from None
            nothing = [None] * len(ids)
            yield Records(
                ids, vectors, found["documents"] or nothing, found["metadatas"] or nothing, found["uris"] or nothing
            )
            cursor += len(ids)


def _metadata(collection: Collection, held: Held) -> dict[str, Any]:
    own = {
        "id": collection.id,
        "commit": held.commit,
        "hash": held.commit_hash,
        "mark": held.mark,
        "next_commit": held.next_commit,
        "cursor": held.cursor,
    }
    return {**(collection.metadata or {}), **{_OWN + key: value for key, value in own.items()}}


def _held(metadata: dict[str, Any]) -> Held:
    def of(name: str) -> int:
        return int(metadata.get(_OWN + name) or 0)

    return Held(of("commit"), str(metadata.get(_OWN + "hash") or ""), of("mark"), of("next_commit"), of("cursor"))
