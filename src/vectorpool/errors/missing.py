"""Errors that say that something the request names is not there."""

from __future__ import annotations

from vectorpool.errors.base import VectorpoolError


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


class JobNotFound(NotFound):
    """The user has no job of this id here: it is over for long, or another instance's with a file of its own."""

    code = "job-not-found"
    title = "There is no such job"


class DocumentMissing(DocumentNotFound):
    """A restore or fork brought the records of this document, and its bytes are not kept."""

    code = "document-missing"
    title = "The bytes of the document are missing"


class CommitNotFound(NotFound):
    """The log holds no commit of this number."""

    code = "commit-not-found"
    title = "The log holds no commit of this number"


class VerificationNotFound(NotFound):
    """The user's log was never verified."""

    code = "verification-not-found"
    title = "The log was never verified"


class DeletionNotFound(NotFound):
    """No deletion of the user's vectorstore has a receipt."""

    code = "deletion-not-found"
    title = "No deletion of the user has a receipt"


class HealthNotChecked(NotFound):
    """The user's health was never checked."""

    code = "health-not-checked"
    title = "The health of the user was never checked"


class RecoveryNotFound(NotFound):
    """The user has no report of a recovery that made this commit."""

    code = "recovery-not-found"
    title = "No recovery made this commit"


class NotificationNotFound(NotFound):
    """There is no notification of this id."""

    code = "notification-not-found"
    title = "There is no such notification"


class ShardNotFound(NotFound):
    """The instance has no shard of this number."""

    code = "shard-not-found"
    title = "The instance has no shard of this number"


class BackupNotFound(NotFound):
    """The user has no backup of this name."""

    code = "backup-not-found"
    title = "The user has no backup of this name"
