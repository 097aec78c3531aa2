"""Every error of the project: one tree, grouped by what the caller can do about it.

An error has a stable ``code`` (the end of its problem's URI), a ``status``, and a sentence that says what happened and
what to do; ``extra`` is for machines. ``to_wire`` and ``from_wire`` carry it across shards without losing its class.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec


class ErrorWire(msgspec.Struct, frozen=True):
    """An error as it crosses from a shard to the front process."""

    code: str
    detail: str
    retry_after_s: float | None = None
    extra: dict[str, Any] = {}


class VectorpoolError(Exception):
    """Anything that this project reports on purpose."""

    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Something is wrong on our side"
    status: ClassVar[int] = 500
    retry_after_s: float | None = None

    _by_code: ClassVar[dict[str, type[VectorpoolError]]] = {}

    def __init__(self, detail: str, *, retry_after_s: float | None = None, extra: dict[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra or {}
        self.retry_after_s = self.retry_after_s if retry_after_s is None else retry_after_s

    def __init_subclass__(cls) -> None:
        if "code" in cls.__dict__:
            assert cls.code not in VectorpoolError._by_code, f"two errors of code {cls.code}"
            VectorpoolError._by_code[cls.code] = cls

    def to_wire(self) -> ErrorWire:
        """Return the error as a struct that msgspec can encode."""
        return ErrorWire(self.code, self.detail, self.retry_after_s, self.extra)

    @staticmethod
    def from_wire(wire: ErrorWire) -> VectorpoolError:
        """Return the error that ``to_wire`` took apart; an unknown code becomes an InternalError."""
        cls = VectorpoolError._by_code.get(wire.code, InternalError)
        return cls(wire.detail, retry_after_s=wire.retry_after_s, extra=wire.extra)


class InternalError(VectorpoolError):
    """A defect of ours. The log has the traceback."""

    code = "internal-error"


# --- Change the request ------------------------------------------------------------------------------
class InvalidRequest(VectorpoolError):
    """The request cannot be carried out as it stands; sending it again does not help."""

    code = "invalid-request"
    title = "The request is not valid"
    status = 400


class InvalidId(InvalidRequest):
    """A user, avatar, collection, record or document id that breaks the rules of its kind."""

    code = "invalid-id"
    title = "The id is not valid"


class InvalidFilter(InvalidRequest):
    """A ``where`` or ``where_document`` that Chroma does not understand."""

    code = "invalid-filter"
    title = "The filter is not valid"


class InvalidEmbedding(InvalidRequest):
    """An embedding that is empty, ragged, not a number or infinite."""

    code = "invalid-embedding"
    title = "The embedding is not valid"


class DimensionMismatch(InvalidRequest):
    """An embedding whose dimension is not the collection's."""

    code = "dimension-mismatch"
    title = "The embedding has another dimension than the collection"


class LimitExceeded(InvalidRequest):
    """More than one call may carry. ``extra`` names the limit."""

    code = "limit-exceeded"
    title = "The request is larger than the limit"
    status = 413


class MalformedJson(InvalidRequest):
    """A request body that is not JSON, or not of the documented shape."""

    code = "malformed-json"
    title = "The body is not the JSON that this request needs"


class MethodNotAllowed(InvalidRequest):
    """The path exists, but not for this HTTP method."""

    code = "method-not-allowed"
    title = "The path does not take this method"
    status = 405


class ChromaRefusal(InvalidRequest):
    """What Chroma refuses to a client of its own protocol: in Chroma's words, with its server's status."""

    code = "chroma-refusal"
    title = "Chroma refuses the request"

    def __init__(self, detail: str, *, status: int = 400, **members: Any) -> None:
        super().__init__(detail, **{"extra": {"status": status}, **members})


class UnsupportedFormat(InvalidRequest):
    """A document that no registered format can read."""

    code = "unsupported-format"
    title = "The document's format is not supported"
    status = 415


class Unauthenticated(VectorpoolError):
    """A token is asked for, and the request has none, or one that is not known."""

    code = "unauthenticated"
    title = "The request has no token that is known here"
    status = 401


class Forbidden(VectorpoolError):
    """The token may not touch this user, whether or not there is such a user, or may not operate the service."""

    code = "forbidden"
    title = "The token does not allow this"
    status = 403


# --- Name something that is there --------------------------------------------------------------------
class NotFound(VectorpoolError):
    """What the request names is not there."""

    code = "not-found"
    title = "Not found"
    status = 404


class UserNotFound(NotFound):
    """Nothing is stored for this user."""

    code = "user-not-found"
    title = "Nothing is stored for this user"


class AvatarNotFound(NotFound):
    """The user has no such avatar."""

    code = "avatar-not-found"
    title = "The user has no such avatar"


class CollectionNotFound(NotFound):
    """There is no collection of this name."""

    code = "collection-not-found"
    title = "There is no collection of this name"


class RecordNotFound(NotFound):
    """A record that was to be updated is not there."""

    code = "record-not-found"
    title = "The record is not there"


class DocumentNotFound(NotFound):
    """There is no document at this path."""

    code = "document-not-found"
    title = "There is no document at this path"


class CommitNotFound(NotFound):
    """The log holds no commit of this number."""

    code = "commit-not-found"
    title = "The log holds no commit of this number"


class VerificationNotFound(NotFound):
    """The user's log was never verified."""

    code = "verification-not-found"
    title = "The log was never verified"


class BackupNotFound(NotFound):
    """The user has no backup of this name."""

    code = "backup-not-found"
    title = "The user has no backup of this name"


# --- Look again, then decide -------------------------------------------------------------------------
class Conflict(VectorpoolError):
    """What the request assumes no longer holds."""

    code = "conflict"
    title = "The request conflicts with what is stored"
    status = 409


class CollectionExists(Conflict):
    """A collection of this name is there already."""

    code = "collection-exists"
    title = "A collection of this name is there already"


class RecordExists(Conflict):
    """A record that was to be added is there already."""

    code = "record-exists"
    title = "A record of this id is there already"


class EmbedderMismatch(Conflict):
    """The collection was embedded by another model than the one that would be used now."""

    code = "embedder-mismatch"
    title = "The collection was embedded by another model"


class CommitNotReached(Conflict):
    """The log does not hold the least commit that the request accepts."""

    code = "commit-not-reached"
    title = "The vectorstore has not reached this commit"
    status = 412


class VectorstoreExists(Conflict):
    """A vectorstore is there already, and the operation needs an empty place."""

    code = "vectorstore-exists"
    title = "A vectorstore is there already"


class BackupExists(Conflict):
    """A backup of this name is there already; it is never moved to another commit."""

    code = "backup-exists"
    title = "A backup of this name is there already"


class CommitConflict(Conflict):
    """Other instances kept winning; the write was not committed and left no trace."""

    code = "commit-conflict"
    title = "Another instance committed first"


# --- Wait, then send the same again ------------------------------------------------------------------
class TryAgain(VectorpoolError):
    """Nothing is wrong with the request; sent again later it may pass."""

    code = "try-again"
    title = "Try again later"
    status = 503
    retry_after_s = 1.0


class PoolBusy(TryAgain):
    """Every slot is in use and the waiting room is full, or the wait was too long."""

    code = "pool-busy"
    title = "Every slot is in use"


class QueueFull(TryAgain):
    """A bounded queue is full."""

    code = "queue-full"
    title = "Too many requests are waiting"
    status = 429


class Draining(TryAgain):
    """The instance is shutting down and takes no new work."""

    code = "draining"
    title = "The instance is shutting down"


class ShardUnavailable(TryAgain):
    """The shard's process died; it is being started again."""

    code = "shard-unavailable"
    title = "The shard is being started again"


class StoreUnavailable(TryAgain):
    """The object store did not answer, after bounded retries, or refuses. Nothing was written, and nothing will be."""

    code = "store-unavailable"
    title = "The object store does not answer"
    retry_after_s = 2.0


class StoreFull(StoreUnavailable):
    """The object store has no room for the write, and nothing of it was written."""

    code = "store-full"
    title = "The object store is full"
    retry_after_s = 5.0


class LocalDiskFailed(TryAgain):
    """The instance's local disk is full or failing; another instance can serve the user meanwhile."""

    code = "local-disk-failed"
    title = "The instance's local disk is full or failing"
    retry_after_s = 5.0


class NewerEngine(TryAgain):
    """A later version wrote the vectorstore, with a schema that this instance does not know; nothing was touched."""

    code = "newer-engine"
    title = "A later version wrote the vectorstore"


class EmbedderUnavailable(TryAgain):
    """The embedding endpoint did not answer, after bounded retries."""

    code = "embedder-unavailable"
    title = "The embedding provider does not answer"
    retry_after_s = 2.0


class DeadlineExceeded(TryAgain):
    """The request's time is over (``request_timeout_s``). It changed nothing."""

    code = "deadline-exceeded"
    title = "The request took longer than its time limit"


class OutcomeUnknown(TryAgain):
    """The write may or may not be durable. Look first, or send one that may be repeated (upsert, delete by ids)."""

    code = "outcome-unknown"
    title = "It is not known whether the write was committed"
    retry_after_s = 5.0


# --- Call an operator --------------------------------------------------------------------------------
class Damaged(VectorpoolError):
    """Stored bytes are not what they should be. ``vectorpool scrub`` says more."""

    code = "damaged"
    title = "Stored data is damaged"


class CorruptObject(Damaged):
    """An object of the log is truncated, altered or foreign."""

    code = "corrupt-object"
    title = "An object of the commit log is corrupt"


class NewerFormat(Damaged):
    """An object of the log was written by a later version, in a format that this one cannot read."""

    code = "newer-format"
    title = "The commit log is of a newer format"


class BrokenLog(Damaged):
    """The log's objects are intact, but do not lead to a state: a gap, or no base."""

    code = "broken-log"
    title = "The commit log has a gap"


class BrokenReplica(Damaged):
    """Chroma cannot open or answer from a freshly built replica."""

    code = "broken-replica"
    title = "The vectorstore cannot be opened"


# --- Fix the configuration and start again -----------------------------------------------------------
class Misconfigured(VectorpoolError):
    """The service cannot start like this. One sentence says what to change."""

    code = "misconfigured"
    title = "The configuration does not work"


class StoreRefused(Misconfigured):
    """The object store cannot be used: unreachable, denied, missing, or without create-if-absent."""

    code = "store-refused"
    title = "The object store cannot be used"
