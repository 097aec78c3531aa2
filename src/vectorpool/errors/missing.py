"""Errors that say that something the request names is not there."""

from __future__ import annotations

from vectorpool.errors.base import VectorpoolError


class NotFound(VectorpoolError):
    """What the request names is not there.

    To do: look at the path; /schema lists every route.
    """

    code = "not-found"
    title = "Not found"
    status = 404


class UserNotFound(NotFound):
    """Nothing is stored for this user.

    To do: look at the user id. A write makes the user; a read does not.
    """

    code = "user-not-found"
    title = "Nothing is stored for this user"


class AvatarNotFound(NotFound):
    """The user has no such avatar.

    To do: look at the avatar id. The first document or collection makes the avatar.
    """

    code = "avatar-not-found"
    title = "The user has no such avatar"


class CollectionNotFound(NotFound):
    """There is no collection of this name.

    To do: look at the name and at the avatar; list the collections, or create it.
    """

    code = "collection-not-found"
    title = "There is no collection of this name"


class RecordNotFound(NotFound):
    """A record that was to be updated is not there.

    To do: look at the ids, or send an upsert (PUT), which adds what is not there.
    """

    code = "record-not-found"
    title = "The record is not there"


class DocumentNotFound(NotFound):
    """There is no document at this path.

    To do: look at the path; list the documents.
    """

    code = "document-not-found"
    title = "There is no document at this path"


class JobNotFound(NotFound):
    """The user has no job of this id here: it is over for long, or another instance's with a file of its own.

    To do: list the user's jobs. Ask for an ingest again: it costs nothing for documents that are in step.
    """

    code = "job-not-found"
    title = "There is no such job"


class DocumentMissing(DocumentNotFound):
    """A restore or fork brought the records of this document, and its bytes are not kept.

    To do: put the document again, or delete it by its path, which removes its records.
    """

    code = "document-missing"
    title = "The bytes of the document are missing"


class CommitNotFound(NotFound):
    """The log holds no commit of this number.

    To do: list the commits. Older ones than ``retention_s`` are kept only if a backup names them.
    """

    code = "commit-not-found"
    title = "The log holds no commit of this number"


class VerificationNotFound(NotFound):
    """The user's log was never verified.

    To do: verify it now: POST to the same path, or ``vectorpool scrub USER``.
    """

    code = "verification-not-found"
    title = "The log was never verified"


class DeletionNotFound(NotFound):
    """No deletion of the user's vectorstore has a receipt.

    To do: delete the user first; look at the id if you believe that this was done.
    """

    code = "deletion-not-found"
    title = "No deletion of the user has a receipt"


class HealthNotChecked(NotFound):
    """The user's health was never checked.

    To do: ask for a check (POST of the same path), or wait for the next round of checks.
    """

    code = "health-not-checked"
    title = "The health of the user was never checked"


class RecoveryNotFound(NotFound):
    """The user has no report of a recovery that made this commit.

    To do: list the commits of the user, and name one that a recovery made.
    """

    code = "recovery-not-found"
    title = "No recovery made this commit"


class NotificationNotFound(NotFound):
    """There is no notification of this id.

    To do: list the notifications, which are kept for a bounded time.
    """

    code = "notification-not-found"
    title = "There is no such notification"


class ShardNotFound(NotFound):
    """The instance has no shard of this number.

    To do: list the shards: GET /admin/shards.
    """

    code = "shard-not-found"
    title = "The instance has no shard of this number"


class BackupNotFound(NotFound):
    """The user has no backup of this name.

    To do: list the backups of the user.
    """

    code = "backup-not-found"
    title = "The user has no backup of this name"
