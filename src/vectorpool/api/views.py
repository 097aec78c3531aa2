"""The answers of the native API that are not answers of shards: users, passages, health."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from vectorpool.answers import TaskView
from vectorpool.commands import PipelineChoice
from vectorpool.kept_documents import KeptSize
from vectorpool.operating import ShardView
from vectorpool.settings import ChunkStrategy


class UserView(msgspec.Struct):
    """What is stored for a user, the last commit, and where the vectorstore is on this instance."""

    user_id: str
    commit: int
    # JSON as the shard wrote it: answers.Vectorstore and answers.Residency.
    stored: Annotated[msgspec.Raw, Meta(description="What is stored: see Vectorstore.")]
    residency: Annotated[msgspec.Raw, Meta(description="Where it is: see Residency.")]
    # Bytes of documents that were replaced or deleted, kept for restores and forks.
    kept: KeptSize = KeptSize()


class Passage(msgspec.Struct, omit_defaults=True):
    """A passage of a document: characters ``start`` up to ``end`` of its text; a smaller distance is nearer."""

    id: str
    path: str
    text: str
    chunk: int
    start: int
    end: int
    distance: float
    heading: str | None
    metadata: dict[str, Any]
    page: int | None = None
    sheet: str | None = None
    member: str | None = None


class PassagePage(msgspec.Struct, omit_defaults=True):
    """For each question, in order, its passages, nearest first.

    ``assumed_embedder`` is there if no embedder is recorded for the records: they are taken to be this one's.
    """

    results: list[list[Passage]]
    assumed_embedder: str | None = None


class PipelineView(msgspec.Struct):
    """How an avatar's documents are cut: what holds, within what the embedder reads, and what was chosen."""

    strategy: ChunkStrategy
    chunk_tokens: int
    chunk_overlap_tokens: int
    embedder: str
    chosen: PipelineChoice


class EmbeddedChunk(msgspec.Struct):
    """A chunk of a text: its characters ``start`` up to ``end``."""

    text: str
    start: int
    end: int
    heading: str | None


class Embeddings(msgspec.Struct, omit_defaults=True):
    """Embeddings of texts, in their order, or of the chunks of a text."""

    embedder: str
    dimension: int
    embeddings: list[list[float]]
    chunks: list[EmbeddedChunk] | None = None


class UploadUrl(msgspec.Struct):
    """Where a document's bytes go: one request of this method, without a token, until ``expires_at_ms``."""

    method: Literal["PUT"]
    url: str
    expires_at_ms: int


class StreamReceipt(msgspec.Struct):
    """What a stream wrote: records, and in how many commits."""

    written: int
    commits: int


class Health(msgspec.Struct):
    """Whether the process lives."""

    status: Literal["live"]


ReadyStatus: TypeAlias = Literal["ready", "starting", "draining", "store-refused", "task-down"]


class Readiness(msgspec.Struct):
    """Whether the instance takes work, in one word.

    ``starting``: a shard does not serve yet, or again. ``draining``: the instance shuts down. ``store-refused``: the
    object store refuses its credentials, or is not there. ``task-down``: a background task that requests depend on
    failed many times in a row.
    """

    status: ReadyStatus


class OperatorsReadiness(msgspec.Struct):
    """The same for operators, with reasons: one sentence each, also of what does not keep the instance from work.

    ``tasks`` are those that fail at the moment. ``store`` is what the last question to the object store gave:
    ``answers``, ``refuses``, ``silent``, or ``unknown`` before the first one.
    """

    status: ReadyStatus
    reasons: list[str]
    store: Literal["answers", "refuses", "silent", "unknown"]
    shards: list[ShardView]
    tasks: list[TaskView]


class DocumentPassages(msgspec.Struct, frozen=True):
    """A page of a document's passages, by their numbers. ``chunks`` is how many it has in all.

    ``in_step``: the records are those of the bytes that are at the path now, by the ``recipe`` of today.
    """

    path: str
    in_step: bool
    recipe: str
    chunks: int
    passages: list[Passage]


class EventsTaken(msgspec.Struct):
    """What events of the store led to: avatars and documents whose syncs are noted, and events of other objects."""

    avatars: int
    documents: int
    ignored: int
