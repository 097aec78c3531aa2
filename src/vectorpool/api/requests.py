"""The bodies of requests as msgspec structs, which also document them, and their decoding.

An unknown member is refused, because it is a misspelled one. Records are first cut into raw pieces, so that their
number is known, and bounded, before any of them is decoded. Large bodies pass through ``api.bodies``.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from vectorpool import bounds
from vectorpool.commands import Hnsw, Include, PipelineChoice
from vectorpool.errors import MalformedJson
from vectorpool.identity.claims import MAX_NAME_CHARS, MAX_TOKEN_ID_CHARS
from vectorpool.identity.grants import DEFAULT_TTL_S, MAX_TTL_S
from vectorpool.names import MAX_SEQ
from vectorpool.settings import ChunkStrategy, Space
from vectorpool.spelling import meant

T = TypeVar("T")

MetadataBody = Annotated[
    dict[str, Any],
    Meta(
        description="Text, 64-bit integers, finite numbers and booleans by name; on records also lists of one of "
        "these. Names may not begin with chroma:, $ or #.",
        examples=[{"source": "handbook", "page": 3}],
    ),
]
WhereBody = Annotated[
    dict[str, Any],
    Meta(
        description="A filter on metadata: $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $contains, $not_contains, "
        "joined by $and and $or.",
        examples=[{"$and": [{"source": "handbook"}, {"page": {"$gte": 3}}]}],
    ),
]
WhereDocumentBody = Annotated[
    dict[str, Any],
    Meta(
        description="A filter on text: $contains, $not_contains, $regex, $not_regex, joined by $and and $or.",
        examples=[{"$contains": "warranty"}],
    ),
]
RecordId = Annotated[str, Meta(description="1 to 512 bytes of text.", examples=["note-1"])]
EmbeddingBody = Annotated[
    list[float],
    Meta(description="Finite numbers, as many as the collection's dimension.", examples=[[0.12, -0.4, 0.33]]),
]
NResults = Annotated[int, Meta(description="How many results each query gets, at most.", ge=1)]
Limit = Annotated[int, Meta(description="The most records to return; the server's max_results if left out.", ge=1)]
Offset = Annotated[int, Meta(description="How many records to pass over first.", ge=0, le=bounds.MAX_COUNT)]


class _Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    pass


class HnswBody(_Body, frozen=True):
    """The index of a new collection. A field that is left out has the server's default."""

    space: Annotated[Space | None, Meta(description="How distance is measured.")] = None
    ef_construction: (
        Annotated[int, Meta(ge=1, le=int(bounds.EF_CONSTRUCTION.most), description="Effort when building.")] | None
    ) = None
    ef_search: (
        Annotated[int, Meta(ge=1, le=int(bounds.EF_SEARCH.most), description="Effort when searching.")] | None
    ) = None
    max_neighbors: (
        Annotated[
            int,
            Meta(ge=int(bounds.MAX_NEIGHBORS.least), le=int(bounds.MAX_NEIGHBORS.most), description="Links a node."),
        ]
        | None
    ) = None
    sync_threshold: (
        Annotated[
            int,
            Meta(
                ge=2,
                le=int(bounds.SYNC_THRESHOLD.most),
                description="Additions queued before they enter the HNSW files.",
            ),
        ]
        | None
    ) = None

    def settings(self) -> Hnsw:
        """Return them as a command carries them."""
        return Hnsw(**msgspec.structs.asdict(self))


class CreateCollectionBody(_Body, frozen=True):
    """A new collection."""

    name: Annotated[str, Meta(description="3 to 512 of [a-zA-Z0-9._-].", examples=["notes"])]
    metadata: MetadataBody | None = None
    hnsw: HnswBody = HnswBody()
    get_or_create: Annotated[bool, Meta(description="Answer an existing collection as it is, instead of 409.")] = False


class ModifyCollectionBody(_Body, frozen=True):
    """The changes of a collection. A field that is left out stays."""

    name: Annotated[str | None, Meta(description="The new name.", examples=["notes-2026"])] = None
    metadata: Annotated[
        MetadataBody | None, Meta(description="The new metadata, which replaces the old as a whole.")
    ] = None
    embedder: Annotated[
        str | None,
        Meta(
            description="Which model made the embeddings, as `kind:model`; for a collection that was imported.",
            examples=["onnx:all-MiniLM-L6-v2-int8"],
        ),
    ] = None


class RecordBody(_Body, frozen=True):
    """A record: text that the server embeds, or an embedding that it takes as it is, or both."""

    id: RecordId
    document: Annotated[str | None, Meta(description="The text.", examples=["The warranty lasts two years."])] = None
    embedding: EmbeddingBody | None = None
    metadata: MetadataBody | None = None
    uri: Annotated[str | None, Meta(description="Where the record comes from.")] = None


class WriteRecordsBody(_Body, frozen=True):
    """Records to add, upsert or update, in one commit."""

    records: Annotated[list[RecordBody], Meta(min_length=1, description="At most max_records of them.")]


class RawWriteRecordsBody(_Body, frozen=True):
    """A WriteRecordsBody whose records are still JSON."""

    records: list[msgspec.Raw]


class DeleteRecordsBody(_Body, frozen=True):
    """The records to delete: by ids, by filters, or by both (those that satisfy all). One of them is needed."""

    ids: list[RecordId] | None = None
    where: WhereBody | None = None
    where_document: WhereDocumentBody | None = None


class GetRecordsBody(_Body, frozen=True):
    """The records to return, and their parts. Without ids and filters: all records, in insertion order."""

    ids: list[RecordId] | None = None
    where: WhereBody | None = None
    where_document: WhereDocumentBody | None = None
    limit: Limit | None = None
    offset: Offset = 0
    include: tuple[Include, ...] = ("documents", "metadatas")


class QueryBody(_Body, frozen=True):
    """The queries: either texts, which the server embeds, or embeddings."""

    texts: Annotated[list[str] | None, Meta(description="Questions in words.", examples=[["How long is it?"]])] = None
    embeddings: list[EmbeddingBody] | None = None
    n_results: NResults = 10
    ids: Annotated[list[RecordId] | None, Meta(description="Only among these records.")] = None
    where: WhereBody | None = None
    where_document: WhereDocumentBody | None = None
    include: tuple[Include, ...] = ("documents", "metadatas", "distances")


CommitNumber = Annotated[int, Meta(ge=1, le=MAX_SEQ, description="The number of a commit.", examples=[17])]


class RestoreBody(_Body, frozen=True):
    """The commit to restore: by number, by time or by the name of a backup, exactly one of the three."""

    commit: CommitNumber | None = None
    time: Annotated[
        str | None,
        Meta(description="The newest commit that is not younger.", examples=["2026-11-21T09:00:00Z"]),
    ] = None
    backup: Annotated[str | None, Meta(description="The commit of this backup.", examples=["before-migration"])] = None


class CreateBackupBody(_Body, frozen=True):
    """The commit to name, by default the newest."""

    commit: CommitNumber | None = None


class ForkBody(_Body, frozen=True):
    """The user that gets the state, and its commit, by default the newest."""

    user_id: Annotated[str, Meta(description="The other user, who has no vectorstore yet.", examples=["43"])]
    commit: CommitNumber | None = None


class MintTokenBody(_Body, frozen=True):
    """What the new token is to allow. It is not stored: this answer is the only place where it is shown."""

    users: Annotated[
        list[str] | Literal["*"], Meta(description='Ids of users, or "*", every user.', examples=[["42"]])
    ] = []
    avatars: Annotated[
        list[str] | None, Meta(description="Narrows the token to these avatars of its users.", examples=[["7"]])
    ] = None
    access: Annotated[Literal["read", "write"], Meta(description="Whether the token may also write.")] = "read"
    admin: Annotated[bool, Meta(description="Opens /admin, and gives no access to users' data.")] = False
    limits: Annotated[dict[str, float] | None, Meta(description="Limits by name, which narrow those of the users.")] = (
        None
    )
    ttl_s: Annotated[int, Meta(description="Seconds until the token expires.", ge=1, le=MAX_TTL_S)] = DEFAULT_TTL_S
    name: Annotated[str, Meta(description="Whom the token is for: its sub.", max_length=MAX_NAME_CHARS)] = "token"


ExpiryMs = Annotated[
    int, Meta(description="When it expires, ms since 1970; without it the id stays revoked.", ge=0, le=10**15)
]


class KeepOpenBody(_Body, frozen=True):
    """How long to keep a vectorstore open, in seconds: up to seven days."""

    for_s: Annotated[float, Meta(gt=0, le=604_800, description="Seconds from now.", examples=[3600])] = 3600.0


class RevokeTokenBody(_Body, frozen=True):
    """The token to revoke, by its id (jti)."""

    token_id: Annotated[
        str, Meta(description="The token's jti.", min_length=1, max_length=MAX_TOKEN_ID_CHARS, examples=["0a1b2c3d"])
    ]
    expires_at_ms: ExpiryMs | None = None


class PipelineBody(_Body, frozen=True):
    """How documents are cut. A field that is left out has the server's default."""

    strategy: Annotated[ChunkStrategy | None, Meta(description="Where text is cut; auto is by the kind of text.")] = (
        None
    )
    chunk_tokens: Annotated[int, Meta(ge=16, le=8192, description="Most tokens of a chunk.")] | None = None
    chunk_overlap_tokens: (
        Annotated[int, Meta(ge=0, le=4096, description="Most tokens repeated from the chunk before.")] | None
    ) = None

    def choice(self) -> PipelineChoice:
        """Return it as a command carries it."""
        return PipelineChoice(self.strategy, self.chunk_tokens, self.chunk_overlap_tokens)


class EmbedBody(_Body, frozen=True):
    """What to embed: texts, each as it is, or one text that is cut into chunks first. Nothing is stored."""

    texts: Annotated[list[str] | None, Meta(description="Texts.", examples=[["The warranty lasts two years."]])] = None
    text: Annotated[str | None, Meta(description="One text, of which each chunk is embedded.")] = None
    pipeline: Annotated[PipelineBody | None, Meta(description="How text is cut; without it as documents are.")] = None


class UploadUrlBody(_Body, frozen=True):
    """Where a document will be put, and for how long the URL is good."""

    path: Annotated[str, Meta(description="The document's path.", examples=["handbook/film-transcript.txt"])]
    expires_s: Annotated[
        int, Meta(ge=int(bounds.UPLOAD_URL_S.least), le=int(bounds.UPLOAD_URL_S.most), description="Seconds.")
    ] = 900


class StreamedRecordBody(_Body, frozen=True):
    """A line of a stream: a record with a text that the server embeds, or an embedding, or both."""

    id: RecordId
    text: Annotated[str | None, Meta(description="The text.", examples=["The warranty lasts two years."])] = None
    embedding: EmbeddingBody | None = None
    metadata: MetadataBody | None = None


class IngestBody(_Body, frozen=True):
    """The documents to ingest. Without ``paths``: all that changed; the chunks of deleted documents are deleted."""

    paths: Annotated[list[str] | None, Meta(description="Only these.", examples=[["handbook/warranty.md"]])] = None
    force: Annotated[bool, Meta(description="Also those that did not change.")] = False
    pipeline: Annotated[
        PipelineBody | None,
        Meta(description="How to cut this time; the next ingest without it cuts as the avatar does."),
    ] = None


class PassageQueryBody(_Body, frozen=True):
    """A question about an avatar's documents; ``text`` for one, ``texts`` for several."""

    text: Annotated[str | None, Meta(description="A question in words.", examples=["How long is the warranty?"])] = None
    texts: Annotated[list[str] | None, Meta(description="Several questions.")] = None
    n_results: NResults = 5
    where: WhereBody | None = None
    where_document: WhereDocumentBody | None = None


_UNKNOWN: Final = re.compile(r"unknown field `([^`]+)`")
_DECODERS: Final[dict[Any, msgspec.json.Decoder[Any]]] = {}


def decode(body: bytes | memoryview | msgspec.Raw, shape: type[T], *, place: str = "") -> T:
    """Return a JSON body as ``shape``; raise MalformedJson that says where it is not.

    ``place`` is prefixed to the place in messages, such as ``records[3]``.
    """
    decoder = _DECODERS.get(shape)
    if decoder is None:
        # At most one decoder for each struct of this module.
        decoder = _DECODERS.setdefault(shape, msgspec.json.Decoder(shape))
    try:
        decoded: T = decoder.decode(body)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at ")
        where = where.strip("`").removeprefix("$").removeprefix(".")
        where = ".".join(part for part in (place, where) if part).replace(".[", "[")
        hint = ""
        if unknown := _UNKNOWN.search(reason):
            known = _fields_of(shape)
            hint = meant(unknown[1], known) or f" Known are {', '.join(known)}."
        raise MalformedJson(f"{where or 'The body'}: {_short(reason)}.{hint} /schema shows the shape.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not body:
            raise MalformedJson("The body is empty. Send JSON; /schema shows the shape.") from None
        raise MalformedJson(f"The body is not valid JSON: {_short(str(error))}. Send JSON in UTF-8.") from None
    return decoded


def _fields_of(shape: Any) -> list[str]:
    """Return the names of a struct's fields, and of those of the structs in it, its own first."""
    found: dict[str, None] = {}
    left = [msgspec.inspect.type_info(shape)]
    while left:
        match left.pop(0):
            case msgspec.inspect.StructType(fields=fields):
                found.update(dict.fromkeys(field.encode_name for field in fields))
                left += [field.type for field in fields]
            case msgspec.inspect.UnionType(types=types):
                left += types
            case msgspec.inspect.ListType(item_type=item):
                left.append(item)
    return list(found)


def _short(reason: str) -> str:
    return reason[:200].rstrip(".")
