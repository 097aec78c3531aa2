"""Every error of the project: one tree, in a module for each thing that the caller can do about it.

An error has a stable ``code`` (the end of its problem's URI), a ``status``, and a sentence that says what happened and
what to do; ``extra`` is for machines. ``to_wire`` and ``from_wire`` carry it across shards without losing its class.
"""

from __future__ import annotations

from vectorpool.errors.base import ErrorWire, InternalError, VectorpoolError
from vectorpool.errors.configuration import Misconfigured, StoreRefused
from vectorpool.errors.conflicts import (
    BackupExists,
    CollectionExists,
    CommitConflict,
    CommitNotReached,
    Conflict,
    EmbedderMismatch,
    RecordExists,
    VectorstoreExists,
)
from vectorpool.errors.damage import BrokenLog, BrokenReplica, CorruptObject, Damaged, NewerFormat
from vectorpool.errors.missing import (
    AvatarNotFound,
    BackupNotFound,
    CollectionNotFound,
    CommitNotFound,
    DocumentNotFound,
    NotFound,
    RecordNotFound,
    UserNotFound,
    VerificationNotFound,
)
from vectorpool.errors.requests import (
    ChromaRefusal,
    DimensionMismatch,
    Forbidden,
    InvalidEmbedding,
    InvalidFilter,
    InvalidId,
    InvalidRequest,
    LimitExceeded,
    MalformedJson,
    MethodNotAllowed,
    Unauthenticated,
    UnsupportedFormat,
)
from vectorpool.errors.retries import (
    DeadlineExceeded,
    Draining,
    EmbedderUnavailable,
    LocalDiskFailed,
    NewerEngine,
    OutcomeUnknown,
    PoolBusy,
    QueueFull,
    ShardUnavailable,
    StoreFull,
    StoreUnavailable,
    TryAgain,
)

__all__ = [
    "AvatarNotFound",
    "BackupExists",
    "BackupNotFound",
    "BrokenLog",
    "BrokenReplica",
    "ChromaRefusal",
    "CollectionExists",
    "CollectionNotFound",
    "CommitConflict",
    "CommitNotFound",
    "CommitNotReached",
    "Conflict",
    "CorruptObject",
    "Damaged",
    "DeadlineExceeded",
    "DimensionMismatch",
    "DocumentNotFound",
    "Draining",
    "EmbedderMismatch",
    "EmbedderUnavailable",
    "ErrorWire",
    "Forbidden",
    "InternalError",
    "InvalidEmbedding",
    "InvalidFilter",
    "InvalidId",
    "InvalidRequest",
    "LimitExceeded",
    "LocalDiskFailed",
    "MalformedJson",
    "MethodNotAllowed",
    "Misconfigured",
    "NewerEngine",
    "NewerFormat",
    "NotFound",
    "OutcomeUnknown",
    "PoolBusy",
    "QueueFull",
    "RecordExists",
    "RecordNotFound",
    "ShardUnavailable",
    "StoreFull",
    "StoreRefused",
    "StoreUnavailable",
    "TryAgain",
    "Unauthenticated",
    "UnsupportedFormat",
    "UserNotFound",
    "VectorpoolError",
    "VectorstoreExists",
    "VerificationNotFound",
]
