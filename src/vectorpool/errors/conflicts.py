"""Errors that call for another look at the state: what the request assumes no longer holds."""

from __future__ import annotations

from vectorpool.errors.base import VectorpoolError


class Conflict(VectorpoolError):
    """What the request assumes no longer holds.

    To do: read the present state, and decide again.
    """

    code = "conflict"
    title = "The request conflicts with what is stored"
    status = 409


class CollectionExists(Conflict):
    """A collection of this name is there already.

    To do: use the collection that is there (``get_or_create``), or take another name.
    """

    code = "collection-exists"
    title = "A collection of this name is there already"


class RecordExists(Conflict):
    """A record that was to be added is there already.

    To do: send an upsert (PUT), or other ids.
    """

    code = "record-exists"
    title = "A record of this id is there already"


class EmbedderMismatch(Conflict):
    """The collection was embedded by another model than the one that would be used now.

    To do: ask with the model that made the collection, send embeddings instead of texts, or ingest anew with the
    other model.
    """

    code = "embedder-mismatch"
    title = "The collection was embedded by another model"


class CommitNotReached(Conflict):
    """The log does not hold the least commit that the request accepts.

    To do: look where the number came from: it may be another user's, or of a bucket that was put back.
    """

    code = "commit-not-reached"
    title = "The vectorstore has not reached this commit"
    status = 412


class VectorstoreExists(Conflict):
    """A vectorstore is there already, and the operation needs an empty place.

    To do: take a user without a vectorstore, or delete this one first.
    """

    code = "vectorstore-exists"
    title = "A vectorstore is there already"


class BackupExists(Conflict):
    """A backup of this name is there already; it is never moved to another commit.

    To do: take another name, or delete the backup first.
    """

    code = "backup-exists"
    title = "A backup of this name is there already"


class NotDamaged(Conflict):
    """The newest commit can be read, so there is nothing to recover.

    To do: to go back to an earlier state, use ``restore``.
    """

    code = "not-damaged"
    title = "The vectorstore is not damaged"


class NothingToRecoverFrom(Conflict):
    """Neither the log, nor a backup, nor an open replica, nor a document holds anything of the vectorstore.

    To do: delete the user and write the records again, or import a copy that was exported.
    """

    code = "nothing-to-recover-from"
    title = "Nothing is left to recover from"


class PreconditionFailed(Conflict):
    """The document is not the one that If-Match names, or is one that If-None-Match excludes.

    To do: read the document with its ETag, decide again, and send the new ETag.
    """

    code = "precondition-failed"
    title = "The document is not in the state that the request names"
    status = 412


class PathTaken(Conflict):
    """On a directory as store, a document's path is a folder of other documents, or lies below a document.

    To do: take another path, or delete the documents that are in the way. A bucket as store holds both.
    """

    code = "path-taken"
    title = "The path is a folder, or lies below a document"


class DocumentConflict(Conflict):
    """Others kept changing a document that was to be replaced or deleted; it was not changed.

    To do: send it again when the other writers are done, or with ``If-Match``.
    """

    code = "document-conflict"
    title = "Others keep changing the document"


class PartsMissing(Conflict):
    """Parts of a large document are not kept any more; it must be sent again from its first part.

    To do: ask for an ingest of the document again.
    """

    code = "parts-missing"
    title = "Parts of the document are not there any more"


class CommitConflict(Conflict):
    """Other instances kept winning; the write was not committed and left no trace.

    To do: send it again. If this happens often, send a user's requests to one instance.
    """

    code = "commit-conflict"
    title = "Another instance committed first"


class JobUnfinished(Conflict):
    """The job is not finished, so there is nothing to take again.

    To do: wait for the job, or cancel it first.
    """

    code = "job-unfinished"
    title = "The job is not finished"
