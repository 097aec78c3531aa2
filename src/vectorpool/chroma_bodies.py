"""The request bodies of Chroma's own protocol, decoded into commands. A shard does this, for a large body in a thread.

A body is cut into raw parts, and each part is counted before it is decoded (``chroma_parts``, ``chroma_embeddings``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from vectorpool import bounds, chroma_bounds, commands
from vectorpool.bounds import Most
from vectorpool.chroma_embeddings import joined, numbers_of, vectors_of
from vectorpool.chroma_older import is_no_filter, todays_configuration
from vectorpool.chroma_parts import (
    collection_metadata_of,
    decode_json,
    filter_text,
    ids_of,
    include_of,
    index_text,
    is_null,
    list_of,
    metadatas_of,
    records_bound,
    wrong_shape,
)
from vectorpool.errors import ChromaRefusal
from vectorpool.outline import Body, Member, check_values, cut_members
from vectorpool.settings import Settings

Operation = Literal["create-collection", "update-collection", "add", "upsert", "update", "delete", "get", "query"]
# The operations that only read. They may be sent again.
READS: Final = frozenset({"get", "query"})

_Uint32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_UUID: Final = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


# A larger body is cut into its members first.
_WHOLE_BYTES: Final = 256 * 1024
# Of its members, those whose items are decoded in chunks. The others have a bound of bytes: the largest is a filter.
_LISTS: Final = frozenset({"ids", "embeddings", "documents", "metadatas", "uris", "query_embeddings"})
_PLAIN: Final = bounds.FILTER_BYTES
# Values of one item. What an item may really hold is checked before it is decoded; its numbers are counted then.
_ITEM_VALUES: Final = Most("values", 1_000_000)

# A part of a body that is left to Chroma. (In a union with None, Raw would not be kept as it came.)
_NULL: Final = msgspec.Raw(b"null")
# A part that may not be null, and is left out.
_MISSING: Final = msgspec.Raw(b"")


class Target(msgspec.Struct, frozen=True):
    """The target of a body: the database, the collection's id, and whether a missing database is created.

    ``confined``: the collection must be in the database.
    """

    operation: Operation
    database: str
    collection_id: str = ""
    make_database: bool = False
    # Whether a client before 1.0 sent it; see ``api.chroma.older_clients``.
    is_older: bool = False
    confined: bool = False


class _CreateCollection(msgspec.Struct):
    name: str
    metadata: msgspec.Raw = _NULL
    configuration: msgspec.Raw = _NULL
    schema: msgspec.Raw = _NULL
    get_or_create: bool = False


class _UpdateCollection(msgspec.Struct):
    new_name: str | None = None
    new_metadata: msgspec.Raw = _NULL
    new_configuration: msgspec.Raw = _NULL


class _Records(msgspec.Struct, kw_only=True):
    ids: msgspec.Raw
    embeddings: msgspec.Raw = _NULL
    documents: msgspec.Raw = _NULL
    metadatas: msgspec.Raw = _NULL
    uris: msgspec.Raw = _NULL


class _NewRecords(_Records, kw_only=True):
    embeddings: msgspec.Raw


class _Delete(msgspec.Struct):
    ids: msgspec.Raw = _NULL
    where: msgspec.Raw = _NULL
    where_document: msgspec.Raw = _NULL
    limit: _Uint32 | None = None


class _Get(msgspec.Struct):
    ids: msgspec.Raw = _NULL
    where: msgspec.Raw = _NULL
    where_document: msgspec.Raw = _NULL
    limit: _Uint32 | None = None
    offset: _Uint32 | None = None
    include: msgspec.Raw = _MISSING


class _Query(msgspec.Struct):
    query_embeddings: msgspec.Raw
    n_results: _Uint32 | None = None
    ids: msgspec.Raw = _NULL
    where: msgspec.Raw = _NULL
    where_document: msgspec.Raw = _NULL
    include: msgspec.Raw = _MISSING


# A body as it came, or the members of a large one.
_Body: TypeAlias = Body | dict[str, Member]


def _asked(body: _Body, kind: Any) -> Any:
    """Return a body as one of the shapes above. Of a large one, the lists are Members."""
    if not isinstance(body, dict):
        return decode_json(body, kind)
    parts, texts = dict[str, Any](), list[bytes]()
    for name in kind.__struct_fields__:
        if (member := body.get(name)) is None:
            continue
        if name in _LISTS:
            parts[name] = member
            texts.append(b'"%s":0' % name.encode())
        else:
            _PLAIN.check(len(memoryview(member.raw)), name)
            texts.append(b'"%s":%s' % (name.encode(), bytes(member.raw)))
    return msgspec.structs.replace(decode_json(b"{" + b",".join(texts) + b"}", kind), **parts)


# --- Decoding ----------------------------------------------------------------------------------------


def decoding(target: Target, body: Body, settings: Settings) -> Generator[None, None, commands.Command]:
    """Return what ``decode_body`` does, in steps: a large body is cut into members, their lists are decoded in chunks.

    Raises MalformedJson too.
    """
    if len(body) <= _WHOLE_BYTES:
        return decode_body(target, body, settings)
    items = Most("items", max(bounds.PROTOCOL_IDS.most, settings.max_records, settings.max_queries))
    members = yield from cut_members(body, items, _ITEM_VALUES)
    for name, member in members.items():
        if name not in _LISTS:
            yield from check_values(member.view, bounds.FILTER_ALL_VALUES, bounds.FILTER_ALL_VALUES)
    return _decode(target, members, settings)


def decode_body(target: Target, body: Body, settings: Settings) -> commands.Command:
    """Return the command of a body, which is within the table of bounds.

    Raises ChromaRefusal: 400 for no JSON, 422 for another shape; LimitExceeded, InvalidId, InvalidFilter and
    InvalidRequest for what is outside the table.
    """
    return _decode(target, body, settings)


def _decode(target: Target, body: _Body, settings: Settings) -> commands.Command:
    command = _MAKE[target.operation](target, body, settings)
    if target.operation != "create-collection":
        check_collection_id(target.collection_id)
        if target.confined:
            command = msgspec.structs.replace(command, confined=True)
    return command


def check_collection_id(collection_id: str) -> str:
    """Return the id if it is a UUID, in hexadecimal digits with or without hyphens; raise ChromaRefusal otherwise."""
    if not _UUID.fullmatch(collection_id):
        raise ChromaRefusal("Collection ID is not a valid UUIDv4", status=400)
    return collection_id


def _filter(target: Target, raw: msgspec.Raw, field: str) -> str | None:
    """Return a filter as it came, or None where a client before 1.0 means none."""
    return None if target.is_older and is_no_filter(raw) else filter_text(raw, field)


def _create_collection(target: Target, body: _Body, settings: Settings) -> commands.Command:
    asked: _CreateCollection = _asked(body, _CreateCollection)
    return commands.ChromaCreateCollection(
        database=target.database,
        name=asked.name,
        metadata=collection_metadata_of(asked.metadata, "metadata"),
        configuration=index_text(todays_configuration(asked.configuration), "configuration"),
        schema=index_text(asked.schema, "schema"),
        get_or_create=asked.get_or_create,
        make_database=target.make_database,
    )


def _update_collection(target: Target, body: _Body, settings: Settings) -> commands.Command:
    asked: _UpdateCollection = _asked(body, _UpdateCollection)
    return commands.ChromaUpdateCollection(
        database=target.database,
        collection_id=target.collection_id,
        new_name=asked.new_name,
        new_metadata=collection_metadata_of(asked.new_metadata, "new_metadata", nulls=True),
        new_configuration=index_text(asked.new_configuration, "new_configuration"),
    )


_Write = commands.ChromaAddRecords | commands.ChromaUpsertRecords | commands.ChromaUpdateRecords
_Make = Callable[[Target, _Body, Settings], commands.Command]


def _write(kind: type[_Write], body_kind: Any) -> _Make:
    nulls = kind is not commands.ChromaAddRecords

    def make(target: Target, body: _Body, settings: Settings) -> commands.Command:
        asked: _Records = _asked(body, body_kind)
        most = records_bound(settings, "records")
        texts = list[str | None]
        ids = ids_of(asked.ids, records_bound(settings, "ids"))
        if ids is None:
            raise wrong_shape("ids: expected a sequence of strings, got null")
        metadatas = metadatas_of(asked.metadatas, most, nulls=nulls)
        columns: dict[str, Any] = {}
        if kind is commands.ChromaUpdateRecords and not is_null(asked.embeddings):
            vectors, columns["embeddings"] = vectors_of(asked.embeddings, settings, nulls=True)
        else:
            vectors, _ = vectors_of(asked.embeddings, settings, nulls=kind is commands.ChromaUpdateRecords)
        return kind(
            **columns,
            vectors=vectors,
            database=target.database,
            collection_id=target.collection_id,
            ids=ids,
            documents=list_of(asked.documents, texts, "documents", most),
            metadatas=metadatas,
            uris=list_of(asked.uris, texts, "uris", most),
        )

    return make


def _delete(target: Target, body: _Body, settings: Settings) -> commands.Command:
    asked: _Delete = _asked(body, _Delete)
    return commands.ChromaDeleteRecords(
        database=target.database,
        collection_id=target.collection_id,
        ids=ids_of(asked.ids),
        where=_filter(target, asked.where, "where"),
        where_document=_filter(target, asked.where_document, "where_document"),
        limit=asked.limit,
    )


def _get(target: Target, body: _Body, settings: Settings) -> commands.Command:
    asked: _Get = _asked(body, _Get)
    return commands.ChromaGetRecords(
        database=target.database,
        collection_id=target.collection_id,
        ids=ids_of(asked.ids),
        where=_filter(target, asked.where, "where"),
        where_document=_filter(target, asked.where_document, "where_document"),
        limit=asked.limit,
        offset=asked.offset or 0,
        include=include_of(asked.include, ("documents", "metadatas")),
    )


def _query(target: Target, body: _Body, settings: Settings) -> commands.Command:
    asked: _Query = _asked(body, _Query)
    most = chroma_bounds.of_setting(settings, "queries", "max_queries")
    queries = list_of(asked.query_embeddings, list[msgspec.Raw], "query_embeddings", most)
    if queries is None:
        raise wrong_shape("query_embeddings: expected a sequence, got null")
    rows = [numbers_of(raw, f"query_embeddings[{at}]", settings) for at, raw in enumerate(queries)]
    return commands.ChromaQueryRecords(
        database=target.database,
        collection_id=target.collection_id,
        vectors=joined(rows),
        n_results=10 if asked.n_results is None else asked.n_results,
        ids=ids_of(asked.ids),
        where=_filter(target, asked.where, "where"),
        where_document=_filter(target, asked.where_document, "where_document"),
        include=include_of(asked.include, ("documents", "metadatas", "distances")),
    )


_MAKE: Final[dict[str, _Make]] = {
    "create-collection": _create_collection,
    "update-collection": _update_collection,
    "add": _write(commands.ChromaAddRecords, _NewRecords),
    "upsert": _write(commands.ChromaUpsertRecords, _NewRecords),
    "update": _write(commands.ChromaUpdateRecords, _Records),
    "delete": _delete,
    "get": _get,
    "query": _query,
}
