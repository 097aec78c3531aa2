"""Ids, object keys and local paths: the only place that builds them.

``user_id`` and ``avatar_id`` come from other systems. They are kept verbatim in object keys, because those
systems read and write beside us, and are escaped in local paths. Whatever could leave the prefix is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from typing import Final

from vectorpool.errors import InvalidId
from vectorpool.ids import MAX_ID_BYTES as MAX_ID_BYTES
from vectorpool.ids import MAX_KEY_BYTES as MAX_KEY_BYTES
from vectorpool.ids import check_avatar_id as check_avatar_id
from vectorpool.ids import check_document_path as check_document_path
from vectorpool.ids import check_user_id as check_user_id
from vectorpool.ids import excerpt as excerpt
from vectorpool.ids import is_reserved as is_reserved
from vectorpool.ids import split_avatar_ids as split_avatar_ids
from vectorpool.ids import split_user_ids as split_user_ids

MAX_SEQ: Final = 999_999_999_999
MAX_BACKUP_NAME: Final = 64
DEFAULT_TENANT: Final = "default_tenant"
DEFAULT_DATABASE: Final = "default_database"
AVATAR_DATABASE_PREFIX: Final = "avatar-"

CHROMA_DATABASE_FILE: Final = "chroma.sqlite3"
SIDECAR_FILE: Final = "vectorpool.sqlite3"
KEPT_FOLDER: Final = "kept/"
DAY_MS: Final = 24 * 3600 * 1000

_USERS: Final = "users/"
# The root of what belongs to no user.
_OWN: Final = ".vectorpool/"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NOTIFICATION: Final = re.compile(r"[0-9a-f]{32}")
_COLLECTION: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")
_DELETIONS: Final = f"{_OWN}deletions/"
_AUDIT: Final = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)/(?P<time_ms>\d{13})-(?P<id>[0-9a-f]{32})-(?P<user>[0-9a-f]{16})-"
    r"(?P<action>[a-z][a-z-]{0,40})\.(?P<phase>begun|ended)"
)


# --- Object keys -------------------------------------------------------------------------------------


def users_prefix() -> str:
    """Return the prefix that holds every user."""
    return _USERS


def user_prefix(user_id: str) -> str:
    """Return ``users/{user_id}/``."""
    return f"{_USERS}{check_user_id(user_id)}/"


def vectorstore_prefix(user_id: str) -> str:
    """Return the prefix of the objects that are ours alone."""
    return f"{user_prefix(user_id)}vectorstore/"


def log_prefix(user_id: str) -> str:
    """Return the prefix of the user's commit log."""
    return f"{vectorstore_prefix(user_id)}log/"


def tags_prefix(user_id: str) -> str:
    """Return the prefix of the user's tags, the pointers behind named backups."""
    return f"{vectorstore_prefix(user_id)}tags/"


def verification_key(user_id: str) -> str:
    """Return the key of what the last verification of the user's log found."""
    return f"{vectorstore_prefix(user_id)}verified.json"


def health_key(user_id: str) -> str:
    """Return the key of what the last check of the user's health found."""
    return f"{vectorstore_prefix(user_id)}health.json"


def recovery_key(user_id: str, seq: int, part: int | None = None) -> str:
    """Return the key of the report of the recovery that made commit ``seq``, or of one part of its records."""
    name = "report" if part is None else f"records-{part:06d}"
    return f"{vectorstore_prefix(user_id)}recoveries/{_inverted(seq)}/{name}.json"


def sweep_key(user_id: str) -> str:
    """Return the key of what the last sweep of the user's documents found."""
    return f"{vectorstore_prefix(user_id)}swept.json"


# --- Deletions: of no user, so that what is told of one does not lie below what is deleted ------------


def deletion_marks_prefix() -> str:
    """Return the prefix of the marks of recent deletions, which instances look for."""
    return f"{_DELETIONS}recent/"


def owed_deletions_key(targets: str) -> str:
    """Return the key of what is still to be deleted at targets, which a digest of their names names."""
    return f"{_DELETIONS}owed/{targets}.json"


def receipts_prefix() -> str:
    """Return the prefix of the receipts of deletions."""
    return f"{_DELETIONS}receipts/"


def receipt_key(user_id: str) -> str:
    """Return the key of the receipt of a user's last deletion."""
    return receipts_prefix() + check_user_id(user_id)


def check_backup_name(name: str) -> str:
    """Return ``name`` if a backup can be called so: 1 to 64 of [a-zA-Z0-9._-]; raise InvalidId otherwise."""
    ok = 1 <= len(name) <= MAX_BACKUP_NAME and all(c.isascii() and (c.isalnum() or c in "._-") for c in name)
    if not ok or name in (".", ".."):
        raise InvalidId(
            f"The backup name {excerpt(name)} is not valid. Use 1 to {MAX_BACKUP_NAME} characters of [a-zA-Z0-9._-]."
        )
    return name


def tag_key(user_id: str, name: str) -> str:
    """Return the key of the tag of a named backup."""
    return tags_prefix(user_id) + check_backup_name(name)


def floors_prefix(user_id: str) -> str:
    """Return the prefix of the log's floors, which sorts behind every number of the log."""
    return f"{log_prefix(user_id)}floor/"


def floor_key(user_id: str, seq: int) -> str:
    """Return the key of the floor at ``seq``: untagged commits below it may be deleted at any time."""
    return f"{floors_prefix(user_id)}{_inverted(seq)}-floor"


def parse_floor_key(key: str) -> int | None:
    """Return the number of a floor's key, or None for a foreign one."""
    head, _, tail = key.rpartition("/")[2].partition("-")
    if tail == "floor" and len(head) == 12 and head.isascii() and head.isdigit():
        return MAX_SEQ - int(head)
    return None


def avatars_prefix(user_id: str) -> str:
    """Return the prefix of the user's avatars; only ``*/vectorstore_data/`` below it may be written."""
    return f"{user_prefix(user_id)}avatars/"


def documents_prefix(user_id: str, avatar_id: str) -> str:
    """Return the prefix of an avatar's source documents."""
    return f"{avatars_prefix(user_id)}{check_avatar_id(avatar_id)}/vectorstore_data/"


def document_key(user_id: str, avatar_id: str, path: str) -> str:
    """Return the key of one source document; raise InvalidId also for a path that the ids leave no room for."""
    key = documents_prefix(user_id, avatar_id) + check_document_path(path)
    if (over := len(key.encode()) - MAX_KEY_BYTES) > 0:
        raise InvalidId(
            f"The document path {excerpt(path)} is {over} bytes too long: with the ids of user and avatar it may have "
            f"{MAX_KEY_BYTES}. Use a shorter one."
        )
    return key


def parse_document_key(key: str) -> tuple[str, str, str] | None:
    """Return (user, avatar, path) of a source document's key, None for any other key."""
    match key.split("/", 5):
        case ["users", user_id, "avatars", avatar_id, "vectorstore_data", path]:
            with contextlib.suppress(InvalidId):
                return check_user_id(user_id), check_avatar_id(avatar_id), check_document_path(path)
    return None


# --- Objects that belong to no user -------------------------------------------------------------------


def limits_prefix() -> str:
    """Return the prefix of the limits that are stored for users."""
    return f"{_OWN}limits/"


def limits_key(user_id: str) -> str:
    """Return the key of the limits that are stored for a user."""
    return limits_prefix() + check_user_id(user_id)


def parse_limits_key(key: str) -> str | None:
    """Return the user of such a key, or None for a foreign key."""
    try:
        return check_user_id(key.removeprefix(limits_prefix()))
    except InvalidId:
        return None


def revocations_prefix() -> str:
    """Return the prefix of the ids of revoked tokens, which sort by the time at which the tokens expire."""
    return f"{_OWN}revocations/"


def revocation_key(token_id: str, expires_s: int) -> str:
    """Return the key that revokes a token's id until a time, in seconds since 1970. It holds the id's SHA-256 alone."""
    digest = hashlib.sha256(token_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{revocations_prefix()}{_twelve_digits(expires_s)}-{digest}"


def revocations_after(expires_s: int) -> str:
    """Return the text behind which the keys of tokens sort that expire at a time or later."""
    return f"{revocations_prefix()}{_twelve_digits(expires_s)}"


def parse_revocation_key(key: str) -> tuple[int, bytes] | None:
    """Return (time of expiry, SHA-256 of the token's id), or None for a foreign key."""
    head, _, tail = key.rpartition("/")[2].partition("-")
    if len(head) != 12 or not head.isascii() or not head.isdigit() or not _SHA256.fullmatch(tail):
        return None
    return int(head), bytes.fromhex(tail)


def _twelve_digits(seconds: int) -> str:
    return f"{min(max(seconds, 0), MAX_SEQ):012d}"


def notifications_prefix() -> str:
    """Return the prefix of the notifications for operators."""
    return f"{_OWN}notifications/"


def notification_id(kind: str, user_id: str | None, subject: str) -> str:
    """Return the id of a notification: the same event of the same user and subject has the same, so it is told once."""
    told = "\n".join((kind, user_id or "", subject))
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def notification_key(notification: str) -> str:
    """Return the key of a notification by its id; raise InvalidId for what is none."""
    if not _NOTIFICATION.fullmatch(notification):
        raise InvalidId(f"{excerpt(notification)} is no id of a notification. Take one of GET /admin/notifications.")
    return notifications_prefix() + notification


def parse_notification_key(key: str) -> str | None:
    """Return the id of such a key, or None for a foreign key."""
    name = key.removeprefix(notifications_prefix())
    return name if _NOTIFICATION.fullmatch(name) else None


def audit_prefix(day: str = "") -> str:
    """Return the prefix of the audit's entries, or of those of a day such as ``2026-11-21``."""
    return f"{_OWN}audit/{day}/" if day else f"{_OWN}audit/"


def audit_key(day: str, time_ms: int, entry_id: str, user_id: str | None, action: str, phase: str) -> str:
    """Return the key of an entry of the audit: by day and time, then what a reader chooses entries by."""
    return f"{audit_prefix(day)}{time_ms:013d}-{entry_id}-{audit_digest(user_id)}-{action}.{phase}"


def audit_digest(user_id: str | None) -> str:
    """Return by what the name of an entry tells its user: a part of the id's SHA-256, or zeros for none."""
    return "0" * 16 if user_id is None else hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def parse_audit_key(key: str) -> re.Match[str] | None:
    """Return the parts ``day``, ``time_ms``, ``id``, ``user``, ``action`` and ``phase``, or None for a foreign key."""
    return _AUDIT.fullmatch(key.removeprefix(audit_prefix()))


# --- Kept documents: names end with the day on which they were kept, so that no name is used again later ---


def kept_prefix(user_id: str, avatar_id: str | None = None) -> str:
    """Return the prefix of the kept bytes of an avatar's documents, or of all of a user's."""
    prefix = f"{vectorstore_prefix(user_id)}{KEPT_FOLDER}"
    return prefix if avatar_id is None else f"{prefix}{check_avatar_id(avatar_id)}/"


def kept_content_prefix(user_id: str, avatar_id: str, digest: str) -> str:
    """Return the prefix of content by its SHA-256 (64 hexadecimal digits): one object a day on which it was kept."""
    return f"{kept_prefix(user_id, avatar_id)}content/{digest}/"


def kept_copy_prefix(user_id: str, avatar_id: str, number: str) -> str:
    """Return the prefix of a copy whose SHA-256 is not known yet; ``number`` is a UUID."""
    return f"{kept_prefix(user_id, avatar_id)}copies/{number}/"


def kept_mark_prefix(user_id: str, avatar_id: str, path: str, etag: str) -> str:
    """Return the prefix of the marks that say that the service wrote the object of this ETag to a document's path."""
    written = hashlib.sha256(f"{check_document_path(path)}\n{etag}".encode()).hexdigest()
    return f"{kept_prefix(user_id, avatar_id)}written/{written}/"


def day_name(time_ms: int) -> str:
    """Return the last segment of a kept object's key: the day of a time, counted from 1970, in six digits."""
    return f"{time_ms // DAY_MS:06d}"


def parse_kept_key(key: str) -> tuple[str, int] | None:
    """Return (kind, time in ms when its day ended) of a kept object's key, or None for a foreign one.

    kind is ``content``, ``copies`` or ``written``.
    """
    segments = key.split("/")
    if len(segments) < 7 or segments[-3] not in ("content", "copies", "written"):
        return None
    day = segments[-1]
    if len(day) != 6 or not day.isascii() or not day.isdigit():
        return None
    return segments[-3], (int(day) + 1) * DAY_MS


# --- Log objects: numbers name downwards, so that a listing shows the newest first -------------------


def _inverted(seq: int) -> str:
    if not 0 <= seq <= MAX_SEQ:
        raise ValueError(f"seq {seq} is out of range")
    return f"{MAX_SEQ - seq:012d}"


def commit_name(seq: int) -> str:
    """Return the name of commit ``seq`` below the log prefix. One name a number: the store picks one winner."""
    return _inverted(seq)


def base_name(seq: int) -> str:
    """Return the name of the base that holds the whole image as of commit ``seq``."""
    return f"{_inverted(seq)}-base"


def merged_name(seq: int, after: int) -> str:
    """Return the name of the merged delta of the commits ``after + 1 .. seq``."""
    return f"{_inverted(seq)}-after-{_inverted(after)}"


def parse_log_name(name: str) -> tuple[str, int, int] | None:
    """Return (kind, seq, after) of a log object's name, or None for a foreign name.

    kind is ``commit`` (after = seq - 1), ``base`` (after = 0) or ``merged``.
    """
    head, dash, tail = name.partition("-")
    if len(head) != 12 or not head.isascii() or not head.isdigit():
        return None
    seq = MAX_SEQ - int(head)
    if not dash:
        return ("commit", seq, seq - 1) if seq >= 1 else None
    if tail == "base":
        return ("base", seq, 0) if seq >= 1 else None
    word, _, number = tail.partition("-")
    if word == "after" and len(number) == 12 and number.isascii() and number.isdigit():
        after = MAX_SEQ - int(number)
        if 0 <= after < seq - 1:
            return "merged", seq, after
    return None


# --- Slots -------------------------------------------------------------------------------------------


def slot_key(user_id: str, at: int | None) -> str:
    """Return the key of a slot: a user's live vectorstore, or that of a past commit (no id holds a line break)."""
    return user_id if at is None else f"{user_id}\n{at}"


def parse_slot_key(key: str) -> tuple[str, int | None]:
    """Return (user id, past commit or None) of a slot's key."""
    user_id, _, at = key.partition("\n")
    return user_id, int(at) if at else None


# --- Chroma's names ----------------------------------------------------------------------------------


def database_name(avatar_id: str | None) -> str:
    """Return the Chroma database of an avatar, or of the user's own collections for None."""
    return DEFAULT_DATABASE if avatar_id is None else AVATAR_DATABASE_PREFIX + check_avatar_id(avatar_id)


def avatar_of_database(database: str) -> str | None:
    """Return the avatar id of a Chroma database, or None if it is not an avatar's."""
    if not database.startswith(AVATAR_DATABASE_PREFIX):
        return None
    return database[len(AVATAR_DATABASE_PREFIX) :]


def check_collection_name(name: str) -> str:
    """Return ``name`` if Chroma would take it as a collection's; raise InvalidId otherwise."""
    if not _COLLECTION.fullmatch(name):
        rule = "3 to 512 characters of [a-zA-Z0-9._-], the first and last a letter or digit"
        raise InvalidId(f"The collection name {excerpt(name)} is not valid. Use {rule}.")
    return name
