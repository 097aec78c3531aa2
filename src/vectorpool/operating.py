"""Answers about the operation of an instance: its shards, and what was done to a log or a user as a whole."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

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
