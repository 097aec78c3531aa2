"""What a commit costs: requests, and bytes against uploading what changed file by file, or everything."""

from __future__ import annotations

import statistics

from tests.bench.ground import COLLECTION, Line, Place, bucket_of, load, router, size, upsert, vectors
from vectorpool import commands
from vectorpool.commitlog.hydrate import hydrate, list_log
from vectorpool.commitlog.image import Image


async def _image(place: Place, bucket, user_id: str, seq: int) -> Image:
    directory = place.scratch / f"image-{seq}"
    hydrated = await hydrate(bucket, user_id, None, directory, at=seq)
    assert hydrated is not None
    return hydrated.image


def _changed(before: Image, after: Image) -> int:
    return sum(state.size for path, state in after.files.items() if before.files.get(path) != state)


async def run(place: Place) -> list[Line]:
    """Measure lone upserts, calls of 100 (one of which crosses the sync threshold), and the deletion of half."""
    count = 5000 if place.quick else 20_000
    user_id = f"cold-{count}"
    await load(place, user_id, count)
    bucket = bucket_of(place)
    settings = place.settings("commit")
    listing, _ = await list_log(bucket, user_id)
    base = listing.newest
    lone, hundreds = [], []
    async with router(settings, bucket) as pool:

        async def write(command) -> int:
            before = len(bucket.commits)
            await pool.execute(user_id, command)
            assert len(bucket.commits) == before + 1, "a write is exactly one commit"
            return bucket.commits[-1][1]

        for turn in range(10):
            lone.append(await write(upsert(count + turn, vectors(1, count + turn, 1))))
        # Read before compaction may have taken the commits between away.
        first, second = await _image(place, bucket, user_id, base), await _image(place, bucket, user_id, base + 1)
        for turn in range(11):
            at = count + 100 + turn * 100
            hundreds.append(await write(upsert(at, vectors(1, at, 100))))
        half = min(count // 2, settings.max_records)
        deletion = await write(commands.DeleteRecords(collection=COLLECTION, ids=[f"record-{n}" for n in range(half)]))
    changed, whole = _changed(first, second), second.size
    one = statistics.median(lone)
    what = f"bytes of the one create of a one-record upsert into {count:,} records"
    return [
        Line(
            "commit",
            f"{what}, against the changed files",
            size(one),
            size(changed),
            one / changed,
            "<= 0.02",
            one <= 0.02 * changed,
        ),
        Line(
            "commit",
            f"{what}, against the directory",
            size(one),
            size(whole),
            one / whole,
            "<= 0.02",
            one <= 0.02 * whole,
        ),
        Line(
            "commit",
            "bytes of a 100-record upsert",
            size(statistics.median(hundreds)),
            size(whole),
            statistics.median(hundreds) / whole,
        ),
        Line(
            "commit",
            "bytes of the 100-record upsert that crosses sync_threshold",
            size(max(hundreds)),
            size(whole),
            max(hundreds) / whole,
        ),
        Line(
            "commit", f"bytes of deleting {half:,} records in one call", size(deletion), size(whole), deletion / whole
        ),
    ]
