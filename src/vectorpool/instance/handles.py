"""The handles: a pool, its users, their avatars and collections.

Made from ``async_handles.py`` by ``python -m tests.support.sync_handles --write``; change that module, not this one.
A handle is a name and nothing else: it is made without a call, and what it names need not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from vectorpool import answers
from vectorpool.api.views import PassagePage
from vectorpool.commands import Include
from vectorpool.documents.library import Document, DocumentPage
from vectorpool.documents.reports import IngestReport
from vectorpool.instance.operations import (
    Operation,
    UserInfo,
    ask,
    document_path,
    get_bytes,
    path_of,
    put_bytes,
    records_of,
)
from vectorpool.instance.runner import Runner
from vectorpool.settings import Settings, Space

if TYPE_CHECKING:
    # Imported when a client is asked for: it takes 1.7 s.
    from chromadb.api.client import Client

T = TypeVar("T")


class _Handle:
    """What every handle has: the instance, and the path of what it names."""

    def __init__(self, runner: Runner, path: str) -> None:
        self._runner = runner
        self._path = path

    def _do(self, operation: Operation[T]) -> T:
        reply = self._runner.submit(operation.call).result()
        return operation.result(reply)


class Pool:
    """An open instance. It drains when it is closed, and when the process ends.

    Its methods, and those of its handles, raise the errors of ``vectorpool.errors``; RuntimeError once it is closed.
    """

    def __init__(self, settings: Settings) -> None:
        self._runner = Runner(settings)

    def open(self) -> Self:
        """Start the shards and the model. Raises Misconfigured if the store or a setting is refused."""
        self._runner.start().result()
        return self

    def close(self) -> None:
        """Finish the calls under way, commit what was acknowledged, and end the shards."""
        self._runner.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def user(self, user_id: str) -> User:
        """Return the handle of a user."""
        return User(self._runner, path_of("users", user_id), user_id)


class Collection(_Handle):
    """A collection by its name."""

    def count(self) -> int:
        """Return how many records there are. Raises CollectionNotFound."""
        return self._do(ask("GET", f"{self._path}/count", answers.Count)).count

    def info(self) -> answers.Collection:
        """Return its metadata, index, dimension, embedder and count. Raises CollectionNotFound."""
        return self._do(ask("GET", self._path, answers.Collection))

    def modify(
        self, *, name: str | None = None, metadata: Mapping[str, Any] | None = None, embedder: str | None = None
    ) -> answers.Collection:
        """Give the collection a new name, new metadata, or the name of its embedder. This handle keeps its name."""
        body = {"name": name, "metadata": metadata, "embedder": embedder}
        return self._do(ask("PATCH", self._path, answers.Collection, body))

    def drop(self) -> None:
        """Delete the collection with its records. Raises CollectionNotFound."""
        self._do(ask("DELETE", self._path, answers.Deleted))

    def add(
        self,
        ids: Sequence[str],
        *,
        documents: Sequence[str | None] | None = None,
        embeddings: Iterable[Any] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        uris: Sequence[str | None] | None = None,
    ) -> int:
        """Add records in one commit and return how many. Raises RecordExists if an id is there already.

        ``embeddings`` is an array of shape (n, dimension), or lists of numbers; without one a document is embedded.
        """
        body = records_of(ids, documents, embeddings, metadatas, uris)
        return self._do(ask("POST", f"{self._path}/records", answers.Written, body)).written

    def upsert(
        self,
        ids: Sequence[str],
        *,
        documents: Sequence[str | None] | None = None,
        embeddings: Iterable[Any] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        uris: Sequence[str | None] | None = None,
    ) -> int:
        """Add records, or replace those that are there, in one commit; metadata is merged. Return how many."""
        body = records_of(ids, documents, embeddings, metadatas, uris)
        return self._do(ask("PUT", f"{self._path}/records", answers.Written, body)).written

    def update(
        self,
        ids: Sequence[str],
        *,
        documents: Sequence[str | None] | None = None,
        embeddings: Iterable[Any] | None = None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        uris: Sequence[str | None] | None = None,
    ) -> int:
        """Change parts of records in one commit. Raises RecordNotFound if an id is not there."""
        body = records_of(ids, documents, embeddings, metadatas, uris)
        return self._do(ask("PATCH", f"{self._path}/records", answers.Written, body)).written

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
    ) -> int:
        """Delete records by ids or filters, in one commit, and return how many there were."""
        body = {"ids": ids, "where": where, "where_document": where_document}
        return self._do(ask("DELETE", f"{self._path}/records", answers.Deleted, body)).deleted

    def get(
        self,
        ids: Sequence[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
        limit: int | None = None,
        offset: int | None = None,
        include: Sequence[Include] | None = None,
    ) -> list[answers.Record]:
        """Return records by ids or filters in insertion order; without them all, up to ``max_results``."""
        body = {
            "ids": ids,
            "where": where,
            "where_document": where_document,
            "limit": limit,
            "offset": offset,
            "include": include,
        }
        return self._do(ask("POST", f"{self._path}/records/get", answers.RecordPage, body)).records

    def query(
        self,
        texts: Sequence[str] | None = None,
        *,
        embeddings: Iterable[Any] | None = None,
        n_results: int | None = None,
        ids: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
        include: Sequence[Include] | None = None,
    ) -> list[list[answers.Match]]:
        """Return, for each text or each embedding, its nearest records, nearest first."""
        body = {
            "texts": [texts] if isinstance(texts, str) else texts,
            "embeddings": embeddings,
            "n_results": n_results,
            "ids": ids,
            "where": where,
            "where_document": where_document,
            "include": include,
        }
        return self._do(ask("POST", f"{self._path}/query", answers.QueryResult, body)).results


class _Namespace(_Handle):
    """What has collections: a user, and an avatar."""

    def __init__(self, runner: Runner, path: str, user_id: str, avatar_id: str | None = None) -> None:
        super().__init__(runner, path)
        self._user_id = user_id
        self._avatar_id = avatar_id

    def collection(self, name: str) -> Collection:
        """Return the handle of a collection."""
        return Collection(self._runner, f"{self._path}/collections{path_of(name)}")

    def create_collection(
        self,
        name: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        space: Space | None = None,
        get_or_create: bool = False,
    ) -> Collection:
        """Create a collection and return its handle. Raises CollectionExists unless ``get_or_create``."""
        body = {"name": name, "metadata": metadata, "get_or_create": get_or_create}
        if space is not None:
            body["hnsw"] = {"space": space}
        self._do(ask("POST", f"{self._path}/collections", answers.Collection, body))
        return self.collection(name)

    def collections(self, *, limit: int | None = None, offset: int | None = None) -> list[answers.Collection]:
        """Return the collections by name. Raises UserNotFound or AvatarNotFound."""
        target, query = f"{self._path}/collections", {"limit": limit, "offset": offset}
        return self._do(ask("GET", target, answers.CollectionPage, query=query)).collections

    def chroma(self, database: str | None = None) -> Client:
        """Return a client of Chroma's own package on this user, or on this avatar, as it is on a Chroma server.

        ``database`` is the avatar's, or the user's default one, if it is left out.
        """
        from vectorpool.instance.chroma import open_client  # noqa: PLC0415 - it imports Chroma's package

        return open_client(self._runner, self._user_id, self._avatar_id, database)


class Avatar(_Namespace):
    """An avatar of a user, with its documents and collections."""

    def query(
        self,
        text: str,
        *,
        n_results: int | None = None,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
    ) -> PassagePage:
        """Return the passages of the avatar's documents that answer a question best: one list in ``results``."""
        body = {"text": text, "n_results": n_results, "where": where, "where_document": where_document}
        return self._do(ask("POST", f"{self._path}/query", PassagePage, body))

    def put_document(self, path: str, data: bytes) -> Document:
        """Put the bytes of a document. They become records when they are ingested."""
        return self._do(put_bytes(f"{self._path}/documents{document_path(path)}", data, Document))

    def get_document(self, path: str) -> bytes:
        """Return the bytes of a document. Raises DocumentNotFound."""
        return self._do(get_bytes(f"{self._path}/documents{document_path(path)}"))

    def delete_document(self, path: str) -> int:
        """Delete a document with its records, and return how many there were. Raises DocumentNotFound."""
        target = f"{self._path}/documents{document_path(path)}"
        return self._do(ask("DELETE", target, answers.Deleted)).deleted

    def documents(self, *, after: str | None = None, limit: int | None = None) -> DocumentPage:
        """Return a page of documents by path, with what is known of them."""
        query = {"after": after, "limit": limit}
        return self._do(ask("GET", f"{self._path}/documents", DocumentPage, query=query))

    def ingest(self, paths: Sequence[str] | None = None, *, force: bool = False) -> IngestReport:
        """Bring the avatar's records up to its documents, and return what became of each.

        It is no job, and ends with the process: what was committed until then stays, and the next call does the rest.
        """
        assert self._avatar_id is not None
        return self._runner.ingest(self._user_id, self._avatar_id, paths, force=force).result()

    def info(self) -> answers.Avatar:
        """Return how many collections, records and documents there are. Raises AvatarNotFound."""
        return self._do(ask("GET", self._path, answers.Avatar))

    def delete(self, *, documents: bool = False) -> None:
        """Delete the avatar's collections; with ``documents`` its source documents too."""
        self._do(ask("DELETE", self._path, answers.Deleted, query={"documents": documents}))


class User(_Namespace):
    """A user: avatars, collections of the user's own, and the history of all."""

    def avatar(self, avatar_id: str) -> Avatar:
        """Return the handle of an avatar."""
        return Avatar(self._runner, f"{self._path}/avatars{path_of(avatar_id)}", self._user_id, avatar_id)

    def avatars(self) -> list[answers.Avatar]:
        """Return the avatars by id. Raises UserNotFound."""
        return self._do(ask("GET", f"{self._path}/avatars", answers.AvatarPage)).avatars

    def info(self) -> UserInfo:
        """Return what is stored, the last commit, and where the vectorstore is. Raises UserNotFound."""
        return self._do(ask("GET", self._path, UserInfo))

    def delete(self, *, documents: bool = False) -> None:
        """Delete the vectorstore; with ``documents`` the avatars' source documents too."""
        self._do(ask("DELETE", self._path, answers.Deleted, query={"documents": documents}))

    def commits(self, *, limit: int | None = None) -> list[answers.Commit]:
        """Return the newest commits that the log still holds, newest first."""
        return self._do(ask("GET", f"{self._path}/commits", answers.CommitPage, query={"limit": limit})).commits

    def back_up(self, name: str, *, commit: int | None = None) -> answers.Backup:
        """Name a commit, by default the newest, and keep it."""
        target = f"{self._path}/backups{path_of(name)}"
        return self._do(ask("PUT", target, answers.Backup, {"commit": commit}))

    def backups(self) -> list[answers.Backup]:
        """Return the backups by name."""
        return self._do(ask("GET", f"{self._path}/backups", answers.BackupPage)).backups

    def restore(
        self, *, commit: int | None = None, time: str | None = None, backup: str | None = None
    ) -> answers.Restored:
        """Make an earlier state the newest, as a new commit: by number, ISO 8601 time or backup, exactly one."""
        body = {"commit": commit, "time": time, "backup": backup}
        return self._do(ask("POST", f"{self._path}/restore", answers.Restored, body))

    def fork(self, user_id: str, *, commit: int | None = None) -> answers.Forked:
        """Copy the state of a commit, by default the newest, to a user who has no vectorstore."""
        body = {"user_id": user_id, "commit": commit}
        return self._do(ask("POST", f"{self._path}/fork", answers.Forked, body))
