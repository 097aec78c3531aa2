"""What the commit log answers with: values, and the one error that is the layer's own."""

from __future__ import annotations

import msgspec

from vectorpool.commitlog.format import Summary
from vectorpool.commitlog.image import Image
from vectorpool.commitlog.stamp import EngineStamp


class Position(msgspec.Struct, frozen=True):
    """Where a replica stands: the number of a commit and its hash. ``Position(0, b"")`` is the empty log."""

    seq: int
    commit_hash: bytes


ORIGIN = Position(0, b"")


class Hydrated(msgspec.Struct, frozen=True):
    """A directory that was filled: its commit, its exact image, and what was read for it.

    ``tombstone`` says that the vectorstore was deleted; its image is empty and later commits follow on it.
    ``fetched_bytes`` and ``fetched_objects`` count what came from the bucket, ``warm_objects`` from the warm tier;
    ``read_bytes`` is the size of all objects read. ``stamp`` names the engine that wrote the state. ``adopted`` says
    that another program made the files.
    """

    position: Position
    image: Image
    tombstone: bool
    fetched_bytes: int
    fetched_objects: int
    warm_objects: int = 0
    read_bytes: int = 0
    time_ms: int = 0
    stamp: EngineStamp | None = None
    adopted: bool = False


class PendingCommit(msgspec.Struct, frozen=True):
    """The bytes of one number. They do not change, and are offered until it is known who won the number.

    ``image`` is the state after it and ``position`` where a replica stands once it is committed.
    """

    seq: int
    key: str
    writer: str
    data: bytes
    image: Image
    position: Position


class LostRace(Exception):
    """Another writer's commit has the number. Throw the working directory away, hydrate, apply again."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"another writer committed number {seq}")
        self.seq = seq


class Written(msgspec.Struct, frozen=True):
    """An object that compaction wrote: its key and size."""

    key: str
    size: int


class Compaction(msgspec.Struct, frozen=True):
    """What a compaction did; nothing, if nothing was due or another was quicker."""

    written: list[Written] = []

    @property
    def bytes(self) -> int:
        """Bytes written."""
        return sum(item.size for item in self.written)


class Removal(msgspec.Struct, frozen=True):
    """What a garbage removal did: derived objects deleted, commits buried (their numbers stay taken), bytes freed.

    ``complete`` says that nothing is left to do; if not, another call continues.
    """

    deleted_objects: int = 0
    buried: int = 0
    bytes: int = 0
    complete: bool = True


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """A named backup: the commit that it keeps from garbage removal, its hash and the checksum of its state.

    ``time_ms`` is when the backup was made, ``maker`` the unique id of its making.
    """

    name: str
    seq: int
    commit_hash: bytes
    time_ms: int
    state_checksum: bytes
    maker: str = ""


class CommitInfo(msgspec.Struct, frozen=True):
    """One commit of the history. ``size`` is its object's, ``state_bytes`` the whole state's after it.

    ``restored_from`` is the commit whose state it brought back, or None.
    ``damage`` says what is wrong with the object if its header cannot be read; the other fields are then empty.
    """

    seq: int
    size: int
    time_ms: int = 0
    writer: str = ""
    commit_hash: bytes = b""
    state_bytes: int = 0
    files: int = 0
    self_contained: bool = False
    tombstone: bool = False
    summary: Summary = Summary()
    damage: str | None = None
    restored_from: int | None = None
    stamp: EngineStamp | None = None


class Problem(msgspec.Struct, frozen=True):
    """One thing that scrub found: the object's key (or the key that should be there) and what is wrong."""

    key: str
    seq: int
    what: str


class ScrubReport(msgspec.Struct, frozen=True):
    """What a walk over a whole log found. ``newest_intact_seq`` is the latest commit that hydrates; 0 for none.

    ``verified_at_ms`` is when the walk began, milliseconds since 1970. ``ended``: the newest commit is a tombstone.
    """

    newest_seq: int
    newest_intact_seq: int
    commits: int
    objects: int
    bytes: int
    problems: list[Problem]
    verified_at_ms: int = 0
    ended: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems
