"""A small embedder and a shard in memory, for tests of ingestion that need no vectorstore."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from vectorpool.answers import (
    Answer,
    Deleted,
    DocumentWritten,
    Ingested,
    IngestedPage,
    Match,
    QueryResult,
    Record,
    RecordPage,
    Written,
)
from vectorpool.commands import (
    Command,
    DiscardParts,
    FindChunks,
    ForgetDocument,
    GetPipeline,
    GetRecords,
    IngestDocument,
    KnownChunks,
    KnownDocument,
    ListIngested,
    PartsOf,
    PipelineChoice,
    QueryRecords,
    SettleDocuments,
    StageChunks,
    Vectors,
    WireCommand,
)
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.embedding.tokens import Tokens, load_word_pieces
from vectorpool.errors import (
    AvatarNotFound,
    CollectionNotFound,
    DocumentNotFound,
    OutcomeUnknown,
    PartsMissing,
    VectorpoolError,
)


def _pair(parts: PartsOf) -> tuple[str, str]:
    return parts.path, parts.token


class HashingEmbedder:
    """A real, small embedding: each word adds a unit of its own; texts that share words are near."""

    name = "test:hashing-64"
    dimension = 64
    max_tokens = 256

    def __init__(self) -> None:
        self.tokenizer = Tokens(load_word_pieces())
        self.embedded: list[str] = []
        self.failures: list[VectorpoolError] = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def embed(self, texts: Sequence[str], user_id: str = "") -> np.ndarray:
        """Return unit vectors; raise the next of ``failures`` instead, if there is one."""
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        self.embedded += texts
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in [*text.lower().split(), ""]:
                vectors[row, hashlib.sha256(word.strip(".,!?#").encode()).digest()[0] % self.dimension] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class MemoryShard:
    """A Router: ingested documents and exact search in dictionaries; one commit a write."""

    def __init__(self) -> None:
        self.commit = 0
        self.ingested: dict[tuple[str, str, str], IngestDocument] = {}
        # Documents whose rows a restore is said to have brought.
        self.restored: set[tuple[str, str, str]] = set()
        self.pipelines: dict[tuple[str, str], PipelineChoice] = {}
        # Parts by (user, avatar, path, token) and number.
        self.parts: dict[tuple[str, str, str, str], dict[int, StageChunks]] = {}
        self.writes: list[str] = []
        self.failures: list[VectorpoolError] = []
        self.answers_lost = 0
        self.waiting_for: asyncio.Event | None = None
        self.waiting = 0

    def _answer(self, body: Any) -> Answer:
        return Answer(msgspec.json.encode(body), self.commit)

    def _of(self, user_id: str, avatar_id: str) -> dict[str, IngestDocument]:
        return {p: c for (u, a, p), c in sorted(self.ingested.items()) if (u, a) == (user_id, avatar_id)}

    async def execute(self, user_id: str, command: Command, context: RequestContext = BACKGROUND) -> Answer:
        """Encode and decode a command, as between processes, and carry it out."""
        command = msgspec.msgpack.decode(msgspec.msgpack.encode(command), type=WireCommand)
        if isinstance(command, ListIngested):
            return self._list(user_id, command)
        if isinstance(command, GetPipeline):
            return self._answer(self.pipelines.get((user_id, command.avatar_id), PipelineChoice()))
        if isinstance(command, QueryRecords):
            return self._query(user_id, command)
        if isinstance(command, SettleDocuments):
            return self._settle(user_id, command)
        if isinstance(command, FindChunks):
            return self._find(user_id, command)
        if isinstance(command, GetRecords):
            return self._get(user_id, command)
        if isinstance(command, DiscardParts):
            gone = [self.parts.pop((user_id, command.avatar_id, *each), None) for each in map(_pair, command.parts)]
            return self._answer(Deleted(sum(len(each) for each in gone if each)))
        assert isinstance(command, IngestDocument | ForgetDocument | StageChunks)
        if self.waiting_for is not None:
            self.waiting += 1
            await self.waiting_for.wait()
        if self.failures:
            raise self.failures.pop(0)
        if isinstance(command, StageChunks):
            of = (user_id, command.avatar_id, command.path, command.token)
            self.parts.setdefault(of, {})[command.number] = command
            self.commit += 1
            self.writes.append(f"stage {command.path} {command.number}")
            return self._answer(DocumentWritten(len(command.ids), f"id of {command.collection}"))
        key = (user_id, command.avatar_id, command.path)
        if isinstance(command, IngestDocument) and command.parts:
            command = self._joined(user_id, command)
        if isinstance(command, ForgetDocument) and command.unless_restored and key in self.restored:
            return self._answer(Deleted(0))
        self.restored.discard(key)
        old = self.ingested.pop(key, None)
        if old is None and isinstance(command, ForgetDocument):
            raise DocumentNotFound(f"The document {command.path!r} was not ingested.")
        self.commit += 1
        replaced = len(old.ids) if old else 0
        if isinstance(command, ForgetDocument):
            self.writes.append(f"forget {command.path}")
            if self.answers_lost:
                self.answers_lost -= 1
                raise OutcomeUnknown("The answer was lost.")
            return self._answer(Deleted(replaced))
        self.ingested[key] = command
        self.writes.append(f"ingest {command.path}")
        return self._answer(DocumentWritten(len(command.ids), f"id of {command.collection}"))

    def _joined(self, user_id: str, command: IngestDocument) -> IngestDocument:
        parts = self.parts.pop((user_id, command.avatar_id, command.path, command.token), {})
        if sorted(parts) != list(range(command.parts)):
            raise PartsMissing("Parts are missing.")
        ordered = [parts[number] for number in sorted(parts)]
        first = ordered[0].vectors
        return msgspec.structs.replace(
            command,
            ids=[i for part in ordered for i in part.ids],
            hashes=b"".join(part.hashes for part in ordered),
            vectors=Vectors(first.dimension, b"".join(part.vectors.data for part in ordered), first.embedder),
            documents=[text for part in ordered for text in part.documents],
            metadatas=[metadata for part in ordered for metadata in part.metadatas],
        )

    def _find(self, user_id: str, command: FindChunks) -> Answer:
        found = [
            KnownDocument(self._entry(user_id, command.avatar_id, c), c.ids, c.hashes)
            for path, c in self._of(user_id, command.avatar_id).items()
            if path == command.path or c.digest == command.digest
        ]
        parts = self.parts.get((user_id, command.avatar_id, command.path, command.token), {})
        return self._answer(KnownChunks(found, sorted(parts)))

    def _get(self, user_id: str, command: GetRecords) -> Answer:
        assert command.avatar_id is not None
        records = []
        for c in self._of(user_id, command.avatar_id).values():
            rows = np.frombuffer(c.vectors.data, "<f4").reshape(-1, c.vectors.dimension)
            records += [
                Record(i, document=c.documents[at], embedding=rows[at].tolist())
                for at, i in enumerate(c.ids)
                if i in (command.ids or ())
            ]
        return self._answer(RecordPage(records))

    def _settle(self, user_id: str, command: SettleDocuments) -> Answer:
        settled = 0
        for document in command.settled:
            key = (user_id, command.avatar_id, document.path)
            row = self.ingested.get(key)
            if row is not None and row.digest == document.digest:
                self.ingested[key] = msgspec.structs.replace(row, etag=document.etag)
                self.restored.discard(key)
                settled += 1
        self.commit += bool(settled)
        return self._answer(Written(settled))

    def _list(self, user_id: str, command: ListIngested) -> Answer:
        found = self._of(user_id, command.avatar_id)
        if not found:
            raise AvatarNotFound(f"There is no avatar {command.avatar_id!r}.")
        entries = [
            self._entry(user_id, command.avatar_id, c)
            for path, c in found.items()
            if (command.paths is None or path in command.paths) and path > (command.after or "")
        ]
        collections = {c.collection: f"id of {c.collection}" for c in found.values()}
        left = [(path, token) for (u, a, path, token) in self.parts if (u, a) == (user_id, command.avatar_id)]
        return self._answer(IngestedPage(entries[: command.limit], collections, left))

    def _entry(self, user_id: str, avatar_id: str, c: IngestDocument) -> Ingested:
        return Ingested(
            c.path,
            c.collection,
            c.etag,
            c.size,
            c.recipe,
            len(c.ids),
            c.vectors.embedder,
            c.digest,
            (user_id, avatar_id, c.path) in self.restored,
            c.content_type,
        )

    def _query(self, user_id: str, command: QueryRecords) -> Answer:
        assert command.avatar_id is not None
        matches = []
        asked = np.frombuffer(command.vectors.data, "<f4")
        for c in self._of(user_id, command.avatar_id).values():
            if c.collection != command.collection or not c.ids:
                continue
            distances = 1 - np.frombuffer(c.vectors.data, "<f4").reshape(-1, c.vectors.dimension) @ asked
            for i, distance in enumerate(distances):
                matches.append(Match(c.ids[i], float(distance), c.documents[i], c.metadatas[i]))
        if not matches:
            raise CollectionNotFound(f"There is no collection {command.collection!r}.")
        matches.sort(key=lambda match: match.distance or 0.0)
        return self._answer(QueryResult([matches[: command.n_results]]))
