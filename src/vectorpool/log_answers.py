"""Answers about a log: commits, backups, what a verification found, what a deletion deleted."""

from __future__ import annotations

import msgspec


class Commit(msgspec.Struct):
    """One commit of the history: when, how large its object and the whole state after it are, what it did.

    ``restored_from`` names the commit whose state it brought back; ``backups`` are the names that keep it;
    ``damage`` says what is wrong with its object, if anything is. ``migrated`` says that it holds what opening a state
    of an older version changed, and no write; ``erased``, that it removes what was deleted before from the files;
    ``indexed``, that it adds an index that was built in the background.
    """

    commit: int
    time_ms: int
    bytes: int
    state_bytes: int
    added: int
    deleted: int
    collections: list[str]
    restored_from: int | None
    tombstone: bool
    backups: list[str]
    damage: str | None
    migrated: bool = False
    erased: bool = False
    indexed: bool = False


class CommitPage(msgspec.Struct):
    """Commits, newest first."""

    commits: list[Commit]


class Backup(msgspec.Struct):
    """A name that keeps a commit from collection."""

    name: str
    commit: int
    time_ms: int


class BackupPage(msgspec.Struct):
    """Backups by name."""

    backups: list[Backup]


class Damage(msgspec.Struct):
    """One thing that is wrong with a log: at which commit, in which object, and what."""

    commit: int
    key: str
    what: str


class Verification(msgspec.Struct):
    """What reading a whole log found, and when. ``newest_intact_commit`` can be restored if the newest is damaged."""

    verified_at_ms: int
    newest_commit: int
    newest_intact_commit: int
    commits: int
    objects: int
    bytes: int
    problems: list[Damage]


class TargetDeletion(msgspec.Struct, frozen=True):
    """What became of a deleted user at a target, by its name.

    ``deleted_at_ms`` is when the target had nothing of the user any more, None as long as it may have; ``reason`` is
    why the last attempt failed. ``records`` were deleted there.
    """

    target: str
    records: int = 0
    deleted_at_ms: int | None = None
    reason: str | None = None


class Deletion(msgspec.Struct, frozen=True):
    """The receipt of the last deletion of a user's vectorstore.

    ``commit`` is the tombstone's number, whose grave and those below it stay, 16 bytes each. ``documents`` is how many
    source documents were deleted with it, None if they stayed. ``verified_empty_at_ms`` is when a listing showed that
    nothing else of the log is left, ``complete_at_ms`` that no document is either, None as long as none did. ``left``
    names what is other programs' and stays, at most 200; ``left_more`` that there is more. ``targets`` are those that
    the operator named, each with what became of the user there, after all else. Times are ms since 1970.
    """

    user_id: str
    commit: int
    deleted_at_ms: int
    objects: int
    bytes: int
    backups: int
    documents: int | None = None
    verified_empty_at_ms: int | None = None
    complete_at_ms: int | None = None
    left: list[str] = []
    left_more: bool = False
    targets: list[TargetDeletion] = []
