"""Answers about the operation of an instance: its shards, and what was done to a log or a user as a whole."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from vectorpool.answers import TaskView

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
