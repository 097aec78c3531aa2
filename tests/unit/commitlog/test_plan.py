"""Planning over thousands of simulated commits: the bounds that ``plan`` states, measured."""

from __future__ import annotations

import math
import random

import pytest

from vectorpool import names
from vectorpool.commitlog.plan import (
    BASE_EVERY,
    ENTRY_BYTES,
    SLACK_BYTES,
    Listing,
    LogObject,
    base_is_due,
    chain,
    due_windows,
    parse_object,
)
from vectorpool.objects.bucket import ObjectInfo

BLOCK = 4096


def commit(seq: int, size: int = 100) -> LogObject:
    return LogObject(names.commit_name(seq), "commit", seq, seq - 1, size, "")


def base(seq: int, size: int = 100) -> LogObject:
    return LogObject(names.base_name(seq), "base", seq, 0, size, "")


def merged(after: int, seq: int, size: int = 100) -> LogObject:
    return LogObject(names.merged_name(seq, after), "merged", seq, after, size, "")


def keys(objects: list[LogObject], seq: int) -> tuple[list[str], bool]:
    found = chain(Listing(objects, complete=True), seq)
    assert found is not None
    return [obj.key for obj in found.objects], found.anchored


def test_names_say_what_an_object_is() -> None:
    """What names.py builds is parsed back; foreign names are nothing."""
    for obj in (commit(7), base(7), merged(3, 7)):
        info = ObjectInfo("users/42/vectorstore/log/" + obj.key, 100, "e", 5)
        parsed = parse_object(info)
        assert parsed is not None
        assert (parsed.kind, parsed.seq, parsed.after, parsed.key) == (obj.kind, obj.seq, obj.after, info.key)
    assert parse_object(ObjectInfo("users/42/vectorstore/log/notes.txt", 1, "", 0)) is None


def test_a_chain_goes_down_to_the_newest_base() -> None:
    """Commits above the base, then the base."""
    objects = [commit(s) for s in range(1, 11)] + [base(8)]
    assert keys(objects, 10) == ([commit(10).key, commit(9).key, base(8).key], True)
    assert keys(objects, 7)[0][-1] == commit(1).key


def test_a_chain_takes_merged_deltas() -> None:
    """A merged delta stands in for its commits, but not where the target or the base cuts it."""
    objects = [commit(s) for s in range(1, 20)] + [merged(8, 16), base(8), merged(0, 8)]
    assert keys(objects, 17) == ([commit(17).key, merged(8, 16).key, base(8).key], True)
    assert len(keys(objects, 15)[0]) == 8


def test_a_chain_prefers_fewer_bytes() -> None:
    """A huge base is passed by if commit 1 and small deltas cost less."""
    objects = [commit(s) for s in range(1, 4)] + [base(3, 10**9)]
    assert keys(objects, 3) == ([commit(3).key, commit(2).key, commit(1).key], True)


def test_a_chain_without_a_base_ends_at_the_oldest_commit_that_hangs_together() -> None:
    """Whether that is a tombstone or a gap, only its header can say, so the chain is not anchored."""
    assert keys([commit(9), commit(8), commit(5)], 9) == ([commit(9).key, commit(8).key], False)
    assert chain(Listing([commit(9)], complete=True), 8) is None
    assert chain(Listing([], complete=True), 1) is None


def test_windows_are_the_largest_aligned_ones_above_the_base() -> None:
    """The numbers above the base are cut by powers of the fan-out, what is merged already is not due."""
    listing = Listing([], complete=True)
    assert due_windows(listing, 0, 7, 8) == []
    assert due_windows(listing, 0, 8, 8) == [(0, 8)]
    assert due_windows(listing, 0, 64 + 17, 8) == [(0, 64), (64, 72), (72, 80)]
    assert due_windows(listing, 5, 17, 8) == [(5, 8), (8, 16)]
    assert due_windows(listing, 7, 17, 8) == [(8, 16)]
    assert due_windows(Listing([merged(0, 8)], complete=True), 0, 16, 8) == [(8, 16)]


class Model:
    """A store of blocks whose commits touch some of them; sizes are blocks, packing is 1:1."""

    def __init__(self, fanout: int, amplification: float) -> None:
        self.fanout = fanout
        self.amplification = amplification
        self.objects: dict[str, LogObject] = {}
        self.touched: dict[int, frozenset[int]] = {}
        self.live: set[int] = set()
        self.seq = self.committed = self.written = self.derived = 0

    def commit(self, blocks: set[int]) -> None:
        self.seq += 1
        self.live |= blocks
        self.touched[self.seq] = frozenset(blocks)
        self.put(commit(self.seq, len(blocks) * BLOCK))
        self.committed += len(blocks) * BLOCK
        if self.seq % self.fanout == 0:
            self.compact()

    def put(self, obj: LogObject) -> None:
        self.objects[obj.key] = obj
        self.written += obj.size
        self.derived += obj.kind != "commit"

    def compact(self) -> None:
        listing = self.listing()
        found = chain(listing, self.seq)
        assert found is not None
        last = found.objects[-1]
        floor = last.seq
        live = len(self.live) * BLOCK
        if base_is_due(found.bytes, live, self.seq - floor, self.amplification):
            self.put(base(self.seq, live))
            return
        for after, upto in due_windows(listing, floor, self.seq, self.fanout):
            assert chain(listing, upto, above=after) is not None
            blocks = frozenset[int]().union(*(self.touched[s] for s in range(after + 1, upto + 1)))
            self.put(merged(after, upto, len(blocks) * BLOCK))

    def listing(self) -> Listing:
        # As a listing does: the newest thousand are enough if a base is among them.
        return Listing(sorted(self.objects.values(), key=lambda o: o.key)[:3000], complete=True)


@pytest.mark.parametrize(
    ("start_blocks", "touch", "grow", "commits"),
    [
        (50, 5, 0, 2000),
        (2_500, 25, 0, 2000),
        (2_500, 25, 3, 1500),
        (40, 20, 10, 1000),
        (60_000, 25, 1, 1200),
    ],
    ids=["tiny", "steady", "growing", "from-nothing", "large"],
)
def test_the_bounds_hold_over_thousands_of_commits(start_blocks: int, touch: int, grow: int, commits: int) -> None:
    """Bytes read, objects read and bytes written stay within the stated formulas, whatever the shape of the store."""
    fanout, amplification = 8, 1.5
    model = Model(fanout, amplification)
    dice = random.Random(7)
    model.commit(set(range(start_blocks)))
    first = model.committed
    worst_bytes, worst_objects = 0.0, 0
    for _ in range(commits):
        size = len(model.live)
        # Half of what a commit touches is always the same, as with a database's first pages.
        hot = set(range(touch // 2))
        model.commit(hot | {dice.randrange(size) for _ in range(touch - touch // 2)} | set(range(size, size + grow)))
        found = chain(model.listing(), model.seq)
        assert found is not None
        live = len(model.live) * BLOCK
        open_window = fanout * (touch + grow) * BLOCK
        assert found.bytes <= amplification * live + SLACK_BYTES + open_window
        since = model.seq - found.objects[-1].seq
        levels = math.floor(math.log(max(since, 1), fanout)) + 1
        assert len(found.objects) <= 2 + (fanout - 1) * levels + fanout
        assert since <= max(BASE_EVERY, live // ENTRY_BYTES) + fanout
        worst_bytes = max(worst_bytes, (found.bytes - SLACK_BYTES - open_window) / live)
        worst_objects = max(worst_objects, len(found.objects))
    levels = math.floor(math.log(commits, fanout)) + 1
    bound = 1 + levels + 1 / (amplification - 1)
    later = model.committed - first
    assert model.written - first <= bound * later + ENTRY_BYTES * commits + first
    print(
        f"\n{commits} commits on {start_blocks} blocks: at most {worst_objects} objects, {worst_bytes:.2f} x live "
        f"bytes (+ slack), write amplification {(model.written - first) / later:.2f} (bound {bound:.1f})"
    )


def test_a_base_is_due_for_bytes_or_for_length() -> None:
    """Too many bytes, or too many commits, but never for a state that a base already is."""
    live = 10 * 1024**2
    assert not base_is_due(int(1.5 * live), live, 10, 1.5)
    assert base_is_due(int(1.5 * live) + SLACK_BYTES + 1, live, 10, 1.5)
    assert base_is_due(live, live, BASE_EVERY, 1.5)
    assert not base_is_due(100 * live, live, 0, 1.5)
    assert not base_is_due(1024**3, 1024**3, BASE_EVERY, 1.5)
