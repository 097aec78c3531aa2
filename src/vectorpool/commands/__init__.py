"""Every operation on a vectorstore as a msgspec struct: commands are data.

One struct an operation serves the shard protocol, the re-apply after a lost commit, and the audit line.
Embeddings travel as raw little-endian float32.
"""

from __future__ import annotations

from typing import TypeAlias

from vectorpool.commands.base import Hnsw, Include, Metadata, ReadOptions, Vectors
from vectorpool.commands.chroma import (
    ChromaAddRecords,
    ChromaCountCollections,
    ChromaCountRecords,
    ChromaCreateCollection,
    ChromaCreateDatabase,
    ChromaCreateTenant,
    ChromaDeleteCollection,
    ChromaDeleteDatabase,
    ChromaDeleteRecords,
    ChromaGetCollection,
    ChromaGetDatabase,
    ChromaGetRecords,
    ChromaGetTenant,
    ChromaListCollections,
    ChromaListDatabases,
    ChromaQueryRecords,
    ChromaUpdateCollection,
    ChromaUpdateRecords,
    ChromaUpsertRecords,
    ChromaWriteRecords,
)
from vectorpool.commands.native import (
    AddRecords,
    CountRecords,
    CreateBackup,
    CreateCollection,
    DeleteAvatar,
    DeleteBackup,
    DeleteCollection,
    DeleteRecords,
    DeleteVectorstore,
    DescribeVectorstore,
    Evict,
    Flush,
    ForgetDocument,
    Fork,
    GetAvatar,
    GetBackup,
    GetCollection,
    GetRecords,
    Hydrate,
    IngestDocument,
    Inspect,
    LastVerification,
    ListAvatars,
    ListBackups,
    ListCollections,
    ListCommits,
    ListIngested,
    ListLost,
    ModifyCollection,
    QueryRecords,
    Restore,
    UpdateRecords,
    UpsertRecords,
    Verify,
)

__all__ = [
    "AddRecords",
    "Change",
    "ChromaAddRecords",
    "ChromaCountCollections",
    "ChromaCountRecords",
    "ChromaCreateCollection",
    "ChromaCreateDatabase",
    "ChromaCreateTenant",
    "ChromaDeleteCollection",
    "ChromaDeleteDatabase",
    "ChromaDeleteRecords",
    "ChromaGetCollection",
    "ChromaGetDatabase",
    "ChromaGetRecords",
    "ChromaGetTenant",
    "ChromaListCollections",
    "ChromaListDatabases",
    "ChromaQueryRecords",
    "ChromaRead",
    "ChromaUpdateCollection",
    "ChromaUpdateRecords",
    "ChromaUpsertRecords",
    "ChromaWrite",
    "ChromaWriteRecords",
    "Command",
    "CountRecords",
    "CreateBackup",
    "CreateCollection",
    "DeleteAvatar",
    "DeleteBackup",
    "DeleteCollection",
    "DeleteRecords",
    "DeleteVectorstore",
    "DescribeVectorstore",
    "Evict",
    "Flush",
    "ForgetDocument",
    "Fork",
    "GetAvatar",
    "GetBackup",
    "GetCollection",
    "GetRecords",
    "Hnsw",
    "Hydrate",
    "Include",
    "IngestDocument",
    "Inspect",
    "LastVerification",
    "ListAvatars",
    "ListBackups",
    "ListCollections",
    "ListCommits",
    "ListIngested",
    "ListLost",
    "LogOperation",
    "Metadata",
    "ModifyCollection",
    "Operation",
    "QueryRecords",
    "Read",
    "ReadOptions",
    "RecordWrite",
    "Restore",
    "UpdateRecords",
    "UpsertRecords",
    "Vectors",
    "Verify",
    "Write",
]

ChromaRead: TypeAlias = (
    ChromaGetTenant
    | ChromaGetDatabase
    | ChromaListDatabases
    | ChromaListCollections
    | ChromaCountCollections
    | ChromaGetCollection
    | ChromaCountRecords
    | ChromaGetRecords
    | ChromaQueryRecords
)
ChromaWrite: TypeAlias = (
    ChromaCreateTenant
    | ChromaCreateDatabase
    | ChromaDeleteDatabase
    | ChromaCreateCollection
    | ChromaUpdateCollection
    | ChromaDeleteCollection
    | ChromaAddRecords
    | ChromaUpsertRecords
    | ChromaUpdateRecords
    | ChromaDeleteRecords
)
Read: TypeAlias = (
    DescribeVectorstore
    | ListAvatars
    | GetAvatar
    | ListCollections
    | GetCollection
    | CountRecords
    | GetRecords
    | QueryRecords
    | ListIngested
    | ListLost
    | ChromaRead
)
Write: TypeAlias = (
    CreateCollection
    | ModifyCollection
    | DeleteCollection
    | AddRecords
    | UpsertRecords
    | UpdateRecords
    | DeleteRecords
    | DeleteAvatar
    | IngestDocument
    | ForgetDocument
    | ChromaWrite
)
# Writes that leave every collection what it is, but for the dimension that a first record gives it.
RecordWrite: TypeAlias = (
    AddRecords
    | UpsertRecords
    | UpdateRecords
    | DeleteRecords
    | IngestDocument
    | ForgetDocument
    | ChromaAddRecords
    | ChromaUpsertRecords
    | ChromaUpdateRecords
    | ChromaDeleteRecords
)
LogOperation: TypeAlias = (
    ListCommits | CreateBackup | GetBackup | ListBackups | DeleteBackup | Fork | Verify | LastVerification
)
Operation: TypeAlias = Hydrate | Flush | Evict | Inspect | Restore | DeleteVectorstore | LogOperation
# Commands that change what is stored: stopped half-way, their outcome is unknown.
Change: TypeAlias = Write | Restore | DeleteVectorstore | CreateBackup | DeleteBackup | Fork
Command: TypeAlias = Read | Write | Operation
