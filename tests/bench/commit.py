"""The cost of a commit: requests, and bytes, against uploads of the changed files or of a zip of the directory.

Each kind of write is a phase on a user of its own, forked from the loaded one: lone upserts, calls of 100 of which one
crosses the sync threshold, one call of 5,000, one deletion of half. A write must be exactly one create; the
background compaction of the phase is counted until the store has been quiet for a while, and reported separately.
Uploads are not made but computed from the real files before and after: every changed file, whole, in a PUT of its own.

Excluded: hydrating, listing for collection, and the time that a commit takes, which depends on the store (see users).
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import msgspec

from tests.bench.ground import COLLECTION, Line, Place, WatchedBucket, bucket_of, load, router, size, upsert, vectors
from vectorpool import commands
from vectorpool.commitlog.hydrate import hydrate
from vectorpool.commitlog.image import Image
from vectorpool.commitlog.log import CommitLog
from vectorpool.names import parse_log_name
from vectorpool.objects.bucket import Bucket

LONE, HUNDREDS, BULK = 20, 11, 5000
# Compaction has ended when the store got no request for QUIET_S; the wait for that is bounded by SETTLE_S.
QUIET_S, SETTLE_S = 0.5, 30.0
TARGET = 0.02


class Phase(msgspec.Struct):
    """The cost of one kind of write: bytes of each commit, all requests and bytes, and those of the uploads."""

    commits: list[int]
    first_seq: int
    last_seq: int
    requests: int
    sent: int
    received: int

    def background(self) -> str:
        """Return the cost of compaction for each commit, as text."""
        count = len(self.commits)
        if self.requests == count:
            return "one create a commit; no compaction was due"
        return (
            f"one create a commit; compaction adds {(self.requests - count) / count:.1f} requests, "
            f"{size((self.sent - sum(self.commits)) / count)} sent and {size(self.received / count)} read a commit"
        )


async def _settle(bucket: WatchedBucket) -> None:
    deadline, seen, since = time.monotonic() + SETTLE_S, -1, time.monotonic()
    while time.monotonic() < deadline:
        requests = bucket.total().requests
        if requests != seen:
            seen, since = requests, time.monotonic()
        elif time.monotonic() - since >= QUIET_S:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("compaction did not come to an end")


async def _phase(
    bucket: WatchedBucket, write: Callable[[commands.Write], Awaitable[object]], writes: list[commands.Write]
) -> Phase:
    await _settle(bucket)
    before, known = bucket.total(), len(bucket.commits)
    for done, command in enumerate(writes, start=1):
        await write(command)
        assert len(bucket.commits) == known + done, "a write is exactly one commit"
    await _settle(bucket)
    after, made = bucket.total(), bucket.commits[known:]
    seqs = [_seq(key) for key, _ in made]
    assert seqs == list(range(seqs[0], seqs[0] + len(writes)))
    return Phase(
        commits=[count for _, count in made],
        first_seq=seqs[0],
        last_seq=seqs[-1],
        requests=after.requests - before.requests,
        sent=after.bytes_sent - before.bytes_sent,
        received=after.bytes_received - before.bytes_received,
    )


def _seq(key: str) -> int:
    parsed = parse_log_name(key.rpartition("/")[2])
    assert parsed is not None
    return parsed[1]


async def _image(bucket: Bucket, user_id: str, seq: int) -> Image:
    hydrated = await hydrate(bucket, user_id, None, None, at=seq)
    assert hydrated is not None
    return hydrated.image


async def _uploads(bucket: Bucket, user_id: str, seq: int) -> tuple[int, int, int]:
    """Return the uploads that would stand for commit ``seq``: (changed files, their bytes, bytes of the directory)."""
    before, after = await _image(bucket, user_id, seq - 1), await _image(bucket, user_id, seq)
    changed = [state.size for path, state in after.files.items() if before.files.get(path) != state]
    return len(changed), sum(changed), after.size


async def run(place: Place) -> list[Line]:
    """Measure on 20,000 records (5,000 if quick)."""
    count = 5000 if place.quick else 20_000
    await load(place, f"cold-{count}", count)
    user_id = f"commit-{count}"
    plain, bucket = bucket_of(place), bucket_of(place)
    await CommitLog(plain, f"cold-{count}", settings=place.settings("commit-fork")).fork(user_id)
    settings = place.settings("commit", max_records=count + 2 * BULK)
    async with router(settings, bucket) as pool:

        async def phase(writes: list[commands.Write]) -> Phase:
            return await _phase(bucket, lambda command: pool.execute(user_id, command), writes)

        at = count
        lone = await phase([upsert(n, vectors(1, n, 1)) for n in range(at, at + LONE)])
        at += LONE
        hundreds = await phase([upsert(at + 100 * n, vectors(1, at + 100 * n, 100)) for n in range(HUNDREDS)])
        at += 100 * HUNDREDS
        bulk = await phase([upsert(at, vectors(1, at, BULK))])
        at += BULK
        gone = [f"record-{n}" for n in range(0, at, 2)]
        half = await phase([commands.DeleteRecords(collection=COLLECTION, ids=gone)])
        answer = await pool.execute(user_id, commands.CountRecords(collection=COLLECTION))
        assert msgspec.json.decode(answer.body)["count"] == at - len(gone)
    lines = await _lines(plain, user_id, f"a one-record upsert into {count:,} records", lone, target=TARGET)
    usual = sorted(hundreds.commits)[:-1]
    told, usual = hundreds.background(), msgspec.structs.replace(hundreds, commits=usual)
    lines += await _lines(plain, user_id, "a 100-record upsert", usual, told=told)
    crossing = hundreds.first_seq + hundreds.commits.index(max(hundreds.commits))
    crossed = msgspec.structs.replace(hundreds, commits=[max(hundreds.commits)], first_seq=crossing, last_seq=crossing)
    lines += await _lines(plain, user_id, "the one of them that crosses sync_threshold", crossed, told="")
    lines += await _lines(plain, user_id, f"a {BULK:,}-record upsert in one call", bulk)
    lines += await _lines(plain, user_id, f"deleting {len(gone):,} of {at:,} records in one call", half)
    await plain.close()
    return lines


async def _lines(
    bucket: Bucket, user_id: str, what: str, phase: Phase, *, target: float | None = None, told: str | None = None
) -> list[Line]:
    one = statistics.median(phase.commits)
    files, changed, whole = await _uploads(bucket, user_id, phase.last_seq)
    puts = f"{files} PUT{'s' if files > 1 else ''}"
    others = {f"the changed files ({puts})": changed, "the directory as one zip, stored": whole}
    note = phase.background() if told is None else told
    return [
        Line(
            "commit",
            f"bytes of {what}, against {how}",
            size(one),
            size(other),
            one / other,
            f"<= {target}" if target else "",
            one <= target * other if target else None,
            note if number == 0 else "",
        )
        for number, (how, other) in enumerate(others.items())
    ]
