"""The commands behind Chroma's own protocol: its semantics, where they differ from the native API's.

A ``database`` is named as Chroma names it, and a collection's records are reached by the collection's id, in whichever
database it is. With ``confined`` it must be in ``database``, because the caller's token allows no other. Filters and
configurations are JSON text, passed on as they came: Chroma judges them. What these commands answer is JSON of Chroma's
shapes, and what they refuse is a ``ChromaRefusal``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from vectorpool.commands.base import ChromaRead, Include, Metadata, RecordWrite, Vectors, Write

# --- Reads -------------------------------------------------------------------------------------------


class ChromaGetTenant(ChromaRead, frozen=True, kw_only=True, tag="chroma-get-tenant"):
    """Whether anything is stored for the tenant. Answers the tenant."""


class ChromaGetDatabase(ChromaRead, frozen=True, kw_only=True, tag="chroma-get-database"):
    """One database. Answers it."""

    database: str


class ChromaListDatabases(ChromaRead, frozen=True, kw_only=True, tag="chroma-list-databases"):
    """The databases in the order of their creation. Answers an array of them."""

    limit: int | None = None
    offset: int = 0


class ChromaListCollections(ChromaRead, frozen=True, kw_only=True, tag="chroma-list-collections"):
    """The collections of a database. Answers an array of them."""

    database: str
    limit: int | None = None
    offset: int = 0


class ChromaCountCollections(ChromaRead, frozen=True, kw_only=True, tag="chroma-count-collections"):
    """Number of collections of a database. Answers a number."""

    database: str


class ChromaGetCollection(ChromaRead, frozen=True, kw_only=True, tag="chroma-get-collection"):
    """One collection, by its name or by its id. Answers it."""

    database: str
    name: str | None = None
    collection_id: str | None = None


class ChromaCountRecords(ChromaRead, frozen=True, kw_only=True, tag="chroma-count-records"):
    """Number of records of a collection. Answers a number."""

    database: str
    collection_id: str
    confined: bool = False


class ChromaGetRecords(ChromaRead, frozen=True, kw_only=True, tag="chroma-get-records"):
    """Records by ids or filters, in insertion order. Answers columns."""

    database: str
    collection_id: str
    confined: bool = False
    ids: list[str] | None = None
    where: str | None = None
    where_document: str | None = None
    limit: int | None = None
    offset: int = 0
    include: tuple[Include, ...] = ("documents", "metadatas")


class ChromaQueryRecords(ChromaRead, frozen=True, kw_only=True, tag="chroma-query-records"):
    """The records nearest to each embedding. Answers columns of columns."""

    database: str
    collection_id: str
    confined: bool = False
    vectors: Vectors
    n_results: int = 10
    ids: list[str] | None = None
    where: str | None = None
    where_document: str | None = None
    include: tuple[Include, ...] = ("documents", "metadatas", "distances")


# --- Writes ------------------------------------------------------------------------------------------


class ChromaCreateTenant(Write, frozen=True, kw_only=True, tag="chroma-create-tenant"):
    """A vectorstore with nothing in it; ``bare`` leaves even the default database out. Answers ``{}``."""

    bare: bool = False


class ChromaCreateDatabase(Write, frozen=True, kw_only=True, tag="chroma-create-database"):
    """A new database. Answers ``{}``; with ``exist_ok``, the database, which may be there already."""

    database: str
    exist_ok: bool = False


class ChromaDeleteDatabase(Write, frozen=True, kw_only=True, tag="chroma-delete-database"):
    """Deletes a database with its collections. Answers ``{}``."""

    frees: ClassVar[bool] = True

    database: str


class ChromaCreateCollection(Write, frozen=True, kw_only=True, tag="chroma-create-collection"):
    """A new collection, or with ``get_or_create`` the one of that name. Answers it.

    ``make_database`` creates the database if it is not there.
    """

    database: str
    name: str
    metadata: Metadata | None = None
    configuration: str | None = None
    schema: str | None = None
    get_or_create: bool = False
    make_database: bool = False


class ChromaUpdateCollection(Write, frozen=True, kw_only=True, tag="chroma-update-collection"):
    """A new name, metadata (which replaces the old) or configuration. Answers ``{}``."""

    database: str
    collection_id: str
    confined: bool = False
    new_name: str | None = None
    new_metadata: Metadata | None = None
    new_configuration: str | None = None


class ChromaDeleteCollection(Write, frozen=True, kw_only=True, tag="chroma-delete-collection"):
    """Deletes a collection, by its name, with its records. Answers ``{}``."""

    frees: ClassVar[bool] = True

    database: str
    name: str


class ChromaWriteRecords(RecordWrite, frozen=True, kw_only=True):
    """The base of the three commands that write records."""

    database: str
    collection_id: str
    confined: bool = False
    ids: list[str]
    vectors: Vectors | None = None
    documents: list[str | None] | None = None
    metadatas: list[dict[str, Any] | None] | None = None
    uris: list[str | None] | None = None


class ChromaAddRecords(ChromaWriteRecords, frozen=True, kw_only=True, tag="chroma-add-records"):
    """Adds records; ids that are there are passed over, and of an id that comes twice the first counts."""


class ChromaUpsertRecords(ChromaWriteRecords, frozen=True, kw_only=True, tag="chroma-upsert-records"):
    """Adds records or changes them; metadata is merged, and of an id that comes twice the last counts."""


class ChromaUpdateRecords(ChromaWriteRecords, frozen=True, kw_only=True, tag="chroma-update-records"):
    """Changes parts of records; ids that are not there are passed over.

    ``embeddings`` is the number that was sent. Some may be null; ``vectors.rows`` has the positions of the others.
    """

    embeddings: int = 0


class ChromaDeleteRecords(RecordWrite, frozen=True, kw_only=True, tag="chroma-delete-records"):
    """Deletes records by ids or filters. Answers a number: for ids, the number of ids sent."""

    frees: ClassVar[bool] = True

    database: str
    collection_id: str
    confined: bool = False
    ids: list[str] | None = None
    where: str | None = None
    where_document: str | None = None
    limit: int | None = None
