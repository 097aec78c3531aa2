"""Answers about the operation of an instance: its shards, and what was done to a log or a user as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from vectorpool.answers import RecoveredDocuments, TaskView
from vectorpool.settings.words import RecoverInto

# Of a collection's name, by Chroma's bound.
_MOST_CHARACTERS: Final = 512

# ``starting`` also while it is started again; ``draining``: it finishes before it is started again; ``down``: stopped.
ShardState: TypeAlias = Literal["ready", "starting", "draining", "down"]


class ShardView(msgspec.Struct):
    """A shard: its process, the requests under way to it, and how often the process was started and died.

    ``ready_since_ms`` is when the present process began to serve, ms since 1970; None while it does not.
    ``is_isolated``: it serves one user in quarantine, and its number counts apart from the others'.
    """

    shard: int
    state: ShardState
    process_id: int | None
    requests: int
    starts: int
    deaths: int
    ready_since_ms: int | None = None
    is_isolated: bool = False


class Compacted(msgspec.Struct):
    """What a compaction wrote: the number of objects and their bytes; none if nothing was due."""

    objects: int
    bytes: int


class Exported(msgspec.Struct):
    """The commit whose state was written, and its bytes."""

    commit: int
    bytes: int


class Imported(msgspec.Struct):
    """The user, and the commit that holds what was imported; its files and their bytes."""

    user_id: str
    commit: int
    files: int = 0
    bytes: int = 0


class UserRow(msgspec.Struct):
    """A user of the bucket: the newest commit of the log, when it was made, and the bytes of the state after it.

    Commit 0: there is no log, but documents, or a plain directory that was never opened. Times are ms since 1970.
    ``is_deleted``: the vectorstore was deleted in that commit; ``verified_empty_at_ms`` is then that of the receipt.
    ``damage`` says why the newest commit cannot be read.
    """

    user_id: str
    commit: int = 0
    time_ms: int | None = None
    bytes: int = 0
    is_deleted: bool = False
    verified_empty_at_ms: int | None = None
    damage: str | None = None


class UserPage(msgspec.Struct):
    """Users in the order of their keys. ``next_cursor`` asks for the next page; None: this was the last one.

    ``refused`` are names below ``users/`` that are no ids of users; a page may hold fewer users because of them.
    """

    users: list[UserRow]
    refused: list[str] = []
    next_cursor: str | None = None


class ShardPage(msgspec.Struct):
    """The shards of an instance; those of users in quarantine come last."""

    shards: list[ShardView]


class TaskPage(msgspec.Struct):
    """The background tasks of an instance: those of the front, then those of each shard."""

    tasks: list[TaskView]


# --- Health ------------------------------------------------------------------------------------------

CheckName: TypeAlias = Literal["log", "opens", "counts", "samples", "documents"]
CheckState: TypeAlias = Literal["ok", "failed", "skipped"]
# ``damaged``: what is stored is not what it should be; ``degraded``: documents and records differ; ``unknown``: the
# store or the shard did not answer.
HealthState: TypeAlias = Literal["healthy", "degraded", "damaged", "unknown"]


class HealthCheck(msgspec.Struct):
    """One check: its state, the reason, and what to do about it."""

    check: CheckName
    state: CheckState
    reason: str = ""
    remedy: str = ""


class Checkup(msgspec.Struct):
    """What a shard found: the newest commit, its records and bytes, and the checks.

    ``known`` are the marks of the objects that are verified now; ``read_bytes`` were read from the store for it.
    """

    commit: int
    records: int
    state_bytes: int
    read_bytes: int
    checks: list[HealthCheck]
    known: list[str]


class UserHealth(msgspec.Struct):
    """The health of a user at the last check, here or on another instance. Times are ms since 1970."""

    user_id: str
    state: HealthState
    commit: int
    records: int
    checked_at_ms: int
    checks: list[HealthCheck]


class CanaryView(msgspec.Struct):
    """The last round of the canary: ``state`` is ``off`` without one, and ``waiting`` before the first."""

    state: Literal["off", "waiting", "ok", "failed"]
    user_id: str = ""
    at_ms: int | None = None
    took_ms: float | None = None
    reason: str = ""
    remedy: str = ""


class InstanceHealth(msgspec.Struct):
    """The health that this instance checks: its canary, the users that wait, and those that are not well.

    ``checked`` counts the users of its last checks by state; ``unwell`` are at most 1,000 of them, the newest first.
    """

    canary: CanaryView
    waiting: int
    checked: dict[str, int]
    unwell: list[UserHealth]
    last_round_ms: int | None = None


# --- Recovery ----------------------------------------------------------------------------------------


class CollectionPlace(msgspec.Struct, frozen=True, order=True):
    """A collection by its database, as Chroma's protocol names it: an avatar's is ``avatar-`` and its id."""

    database: str
    collection: str


class RecoveredCollection(msgspec.Struct, frozen=True):
    """A collection that came back, or would, under a name of its own."""

    database: str
    collection: str
    recovered_as: str

    @classmethod
    def named(
        cls, found: Sequence[CollectionPlace], taken: Sequence[CollectionPlace], commit: int
    ) -> list[RecoveredCollection]:
        """Return collections under names that no other one has: ``NAME-recovered-COMMIT``, cut to Chroma's bound."""
        used, named = set(taken), list[RecoveredCollection]()
        for place in found:
            for number in itertools.count(1):
                end = f"-recovered-{commit}" + (f"-{number}" if number > 1 else "")
                new = CollectionPlace(place.database, place.collection[: _MOST_CHARACTERS - len(end)] + end)
                if new not in used:
                    break
            used.add(new)
            named.append(cls(place.database, place.collection, new.collection))
        return named


class RecoverySource(msgspec.Struct):
    """A source, and what it would lose: the commits after ``commit``, and what their headers say that they did.

    ``kind`` is ``replica`` (this instance has the newest commit open), ``commit``, ``backup`` (a commit with a name),
    ``copy`` (what the target ``name`` has of the user, by an export) or ``documents`` (an empty vectorstore, and every
    source document ingested again). ``records`` are those that it holds, None if it is not known. ``unreadable`` lost
    commits do not say what they did. ``collections`` are at most 1,000 of those that it holds.
    """

    kind: Literal["replica", "commit", "backup", "copy", "documents"]
    commit: int
    records: int | None
    name: str | None = None
    time_ms: int | None = None
    documents: int | None = None
    lost_commits: int = 0
    lost_added: int = 0
    lost_deleted: int = 0
    unreadable: int = 0
    collections: list[CollectionPlace] = []


class Sources(msgspec.Struct):
    """Where a vectorstore could be recovered from, the best first. ``over`` is the highest number that is taken.

    ``is_damaged``: the newest commit cannot be had; ``reason`` says why.
    """

    is_damaged: bool
    over: int
    reason: str
    sources: list[RecoverySource]


class RecoveryPlan(msgspec.Struct):
    """What a recovery would do. ``chosen`` is the first of the sources, None if there is none.

    ``faults`` says of targets by name why what they have is no source. ``into``: ``same``, the collections of the
    source come back under their own names; ``new``, under the names of ``collections`` (1,000 are listed), and all else
    is as commit ``base`` has it, 0 being an empty vectorstore.
    """

    user_id: str
    is_damaged: bool
    commit: int
    reason: str
    chosen: RecoverySource | None
    sources: list[RecoverySource]
    faults: dict[str, str] = {}
    into: RecoverInto = "same"
    base: int | None = None
    collections: list[RecoveredCollection] = []


class Recovered(msgspec.Struct):
    """The new commit, and the records that its state holds; ``parts`` of the report list them.

    ``collections`` came back under names of their own; at most 1,000 are listed.
    """

    commit: int
    records: int
    parts: int
    collections: list[RecoveredCollection] = []


class LostCommit(msgspec.Struct):
    """A commit that the recovered state does not contain; ``damage`` says why its header cannot be read."""

    commit: int
    time_ms: int | None = None
    added: int | None = None
    deleted: int | None = None
    collections: list[str] = []
    damage: str | None = None


class RecoveryReport(msgspec.Struct):
    """What a recovery did: the new commit, its source, what was lost, and the documents that are ingested again.

    ``lost`` lists at most 1,000 commits, newest first. ``reingested`` are the avatars whose sync was scheduled.
    ``into``, ``base`` and ``collections`` are those of the plan, as they were carried out.
    """

    user_id: str
    commit: int
    source: RecoverySource
    reason: str
    recovered_at_ms: int
    records: int
    parts: int
    lost: list[LostCommit]
    documents: RecoveredDocuments | None = None
    reingested: list[str] = []
    caller: str = ""
    into: RecoverInto = "same"
    base: int | None = None
    collections: list[RecoveredCollection] = []


class RecoveredRecord(msgspec.Struct):
    """A record that a recovery brought back, and the commit that it was taken from."""

    collection: str
    id: str
    avatar_id: str | None
    from_commit: int


class RecoveredPage(msgspec.Struct):
    """Records of a recovery's report. ``next_cursor`` asks for the next page; None: this was the last one."""

    records: list[RecoveredRecord]
    next_cursor: str | None = None


class Recovery(msgspec.Struct):
    """What a recovery would do, and the report of what it did; without one, nothing was done."""

    plan: RecoveryPlan
    report: RecoveryReport | None = None
