"""What to read for a state, and what to merge so that reading stays cheap. Pure: names and sizes, no I/O.

**Chain.** A state is read as one path downwards from its number: a base ends the path, a merged delta jumps, a commit
steps by one. ``chain`` finds the path with the fewest bytes. An object costs ``OBJECT_COST`` bytes more, which is
about the time of a request.

**Compaction.** With fan-out F, the commits of each aligned window of F^k numbers above the base become one merged
delta, made from the level below. With n commits above the newest base, a chain has at most ``1 + F * (floor(log_F n) +
1)`` objects (F - 1 of each level, and one more a level where the base cuts a window), and each byte of a commit is
merged at most ``floor(log_F n)`` times.

A new base is due when a chain reads more than ``amplification`` times the live bytes (plus ``SLACK_BYTES``, so that
tiny stores are not rewritten often), or when n exceeds ``BASE_EVERY`` and live / ``ENTRY_BYTES``, so that a listing is
one page or costs little beside the download. Above a base of B bytes and live bytes L <= B + D, the deltas D since
then exceed (amplification - 1) * L if L >= B. So bases cost at most 1 / (amplification - 1) bytes for a byte
committed, and a store that shrank pays for each base with the bytes that it lost. In total: write amplification <= 1 +
floor(log_F n) + 1 / (amplification - 1), and ENTRY_BYTES a commit for bases forced by n.

Live bytes are estimated: the raw bytes of the state times the packing ratio of the chain that would be read.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from vectorpool import names
from vectorpool.commitlog.format import GRAVE
from vectorpool.objects.bucket import ObjectInfo

OBJECT_COST: Final = 32 * 1024
SLACK_BYTES: Final = 256 * 1024
BASE_EVERY: Final = 512
ENTRY_BYTES: Final = 128 * 1024


class LogObject(msgspec.Struct, frozen=True):
    """One object of a log: what its name says (``commit``, ``base`` or ``merged``, of numbers after + 1 .. seq)."""

    key: str
    kind: Literal["commit", "base", "merged"]
    seq: int
    after: int
    size: int
    etag: str
    modified_ms: int = 0


def parse_object(info: ObjectInfo) -> LogObject | None:
    """Return a listed object as a log object, or None if its key is not one, directly below ``log/``."""
    directory, _, name = info.key.rpartition("/")
    parsed = names.parse_log_name(name)
    if parsed is None or not directory.endswith("/log"):
        return None
    kind, seq, after = parsed
    assert kind in ("commit", "base", "merged")
    return LogObject(info.key, kind, seq, after, info.size, info.etag, info.modified_ms)  # type: ignore[arg-type]


def is_grave(obj: LogObject) -> bool:
    """Whether an object only keeps the number of a deleted commit taken."""
    return obj.kind == "commit" and obj.size == len(GRAVE)


class Listing:
    """The objects of a log, newest first, as far as they were listed. ``complete``: down to the oldest.

    Graves lead nowhere: they are left out of the objects, and their numbers are in ``graves``.
    """

    def __init__(self, objects: Iterable[LogObject], *, complete: bool) -> None:
        self.objects: list[LogObject] = []
        self.graves: set[int] = set()
        for obj in objects:
            if is_grave(obj):
                self.graves.add(obj.seq)
            else:
                self.objects.append(obj)
        self.complete = complete
        self.commits = {o.seq: o for o in self.objects if o.kind == "commit"}
        self.bases = {o.seq: o for o in self.objects if o.kind == "base"}
        self.merged: dict[int, list[LogObject]] = {}
        for o in self.objects:
            if o.kind == "merged":
                self.merged.setdefault(o.seq, []).append(o)

    @property
    def newest(self) -> int:
        """The newest number, 0 for an empty log."""
        return max((o.seq for o in self.objects), default=0)

    def steps(self, seq: int) -> list[LogObject]:
        """Return every object that leads to the state of ``seq``."""
        found = list(self.merged.get(seq, ()))
        if seq in self.bases:
            found.append(self.bases[seq])
        if seq in self.commits:
            found.append(self.commits[seq])
        return found


class Chain(msgspec.Struct, frozen=True):
    """The objects of one state, newest first.

    ``anchored`` is whether the last is a base by its name, or commit 1. If it is not, its header must say that
    it needs nothing below it; otherwise there is a gap below ``bottom``.
    """

    objects: list[LogObject]
    anchored: bool

    @property
    def bytes(self) -> int:
        """Bytes that are read."""
        return sum(o.size for o in self.objects)

    @property
    def bottom(self) -> int:
        """The number on which the last object rests; 0 for none."""
        return 0 if self.objects[-1].kind == "base" else self.objects[-1].after


def chain(listing: Listing, seq: int, *, above: int = 0) -> Chain | None:
    """Return the cheapest chain to ``seq``, or None if nothing leads there.

    With ``above``, return one that ends exactly on that number instead (for a merge), or None.
    """
    costs: dict[int, int] = {seq: 0}
    came: dict[int, tuple[int, LogObject]] = {}
    done: set[int] = set()
    heap = [(0, -seq)]
    ends: list[tuple[bool, int, list[LogObject]]] = []
    while heap:
        cost, negative = heapq.heappop(heap)
        at = -negative
        if at in done:
            continue
        done.add(at)
        if any(not loose and cost >= best for loose, best, _ in ends):
            break
        if at == above and at != seq:
            path = _path(came, seq, at)
            if above:
                return Chain(path, anchored=False)
            ends.append((False, cost, path))
            continue
        leads = False
        for step in listing.steps(at):
            total = cost + step.size + OBJECT_COST
            if step.kind == "base":
                if not above:
                    ends.append((False, total, [*_path(came, seq, at), step]))
                leads = True
            elif step.after >= above:
                leads = True
                if total < costs.get(step.after, total + 1):
                    costs[step.after], came[step.after] = total, (at, step)
                    heapq.heappush(heap, (total, -step.after))
        if not leads and not above and at != seq:
            # Nothing leads further down: whether this is an end or a gap, only the header of the last object says.
            ends.append((True, at, _path(came, seq, at)))
    if not ends:
        return None
    # Ends known from names come before ends that may be gaps; of these, the one that reaches lowest comes last, so
    # that a self-contained object on the way is met.
    loose, _, path = min(ends, key=lambda end: end[:2])
    return Chain(path, anchored=not loose)


def _path(came: dict[int, tuple[int, LogObject]], seq: int, at: int) -> list[LogObject]:
    path: list[LogObject] = []
    while at != seq:
        at, step = came[at]
        path.append(step)
    return path[::-1]


def due_windows(listing: Listing, floor: int, seq: int, fanout: int) -> list[tuple[int, int]]:
    """Return (after, upto) of every merged delta that is due above the base at ``floor`` and is not there yet.

    The numbers above the base are cut into the largest aligned windows that are complete; the base may cut the first.
    """
    due: list[tuple[int, int]] = []
    at = floor
    while at < seq:
        upto, width = at + 1, fanout
        while True:
            candidate = (at // width + 1) * width
            if candidate > seq:
                break
            if at in (floor, candidate - width):
                upto = candidate
            width *= fanout
        if upto - at > 1 and all(o.after != at for o in listing.merged.get(upto, ())):
            due.append((at, upto))
        at = upto
    return due


def base_is_due(read_bytes: int, live_bytes: int, since_base: int, amplification: float) -> bool:
    """Whether a new base should be written: for the bytes that a hydrate reads, or the length of the listing."""
    if not since_base:
        return False
    long = since_base >= max(BASE_EVERY, live_bytes // ENTRY_BYTES)
    return long or read_bytes > amplification * live_bytes + SLACK_BYTES
