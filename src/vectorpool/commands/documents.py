"""Commands for documents of more chunks than one command carries, and for what is known of a document's chunks.

The parts of such a document are kept beside its vectorstore's collections, where no read sees them, until the
``IngestDocument`` that names them makes records of all of them in one commit.

The answer that only workers read is here too.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from vectorpool.answers import Ingested
from vectorpool.commands.base import Metadata, PipelineChoice, Read, RecordWrite, Vectors


class FindChunks(Read, frozen=True, kw_only=True, tag="find-chunks"):
    """What is known of the chunks of a document, and of another one with the same bytes. Answers KnownChunks.

    ``digest`` is the SHA-256 of the bytes, and ``token`` names the parts that are asked for.
    """

    avatar_id: str
    path: str
    digest: str
    token: str = ""


class StageChunks(RecordWrite, frozen=True, kw_only=True, tag="stage-chunks"):
    """Keeps one part of a document, unseen, until ``IngestDocument`` takes it. Answers answers.DocumentWritten.

    ``token`` names the bytes and the recipe, so that an interrupted ingest goes on where it ended; ``number`` counts
    from 0; a part that is there is replaced. ``hashes`` has ``CHUNK_HASH_BYTES`` for each chunk. The collection is
    created if it is not there. ``seen`` and ``collection_id`` are those of ``IngestDocument``.
    """

    avatar_id: str
    collection: str
    path: str
    token: str
    number: int
    ids: list[str]
    hashes: bytes
    vectors: Vectors
    documents: list[str]
    metadatas: list[Metadata]
    seen: int | None = None
    collection_id: str | None = None


class PartsOf(msgspec.Struct, frozen=True, array_like=True):
    """All parts of a document that one token names."""

    path: str
    token: str


class DiscardParts(RecordWrite, frozen=True, kw_only=True, tag="discard-parts"):
    """Deletes parts that an interrupted ingest left. Answers answers.Deleted: how many there were."""

    frees: ClassVar[bool] = True

    avatar_id: str
    parts: list[PartsOf]


class KnownDocument(msgspec.Struct, frozen=True):
    """The records of an ingested document: their ids, and the hash of each one's text, one after the other.

    ``hashes`` is empty if they are not known.
    """

    document: Ingested
    ids: list[str]
    hashes: bytes


class KnownChunks(msgspec.Struct, omit_defaults=True):
    """What is known of a document's chunks; ``parts`` are the numbers of those that are kept for it.

    ``choice`` is how the avatar's documents are cut.
    """

    documents: list[KnownDocument] = []
    parts: list[int] = []
    choice: PipelineChoice = PipelineChoice()
