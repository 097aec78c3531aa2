"""The cost of ``sync_threshold``, and the recall of the index's defaults on real MiniLM vectors.

Up to this number of additions, vectors wait in SQLite's queue and every call reads it; at the threshold they enter
the HNSW files. The rate "an hour" is one upsert a second: the common commits and the share of the one that crosses.
"""

from __future__ import annotations

import statistics
import time

import msgspec
import numpy as np

from tests.bench.ground import (
    COLLECTION,
    Line,
    Place,
    bucket_of,
    check_first,
    fill,
    ms,
    near,
    query,
    router,
    size,
    timed,
    upsert,
    vectors,
)
from tests.support.texts import installed_texts
from vectorpool import commands
from vectorpool.answers import QueryResult
from vectorpool.embedding.onnx import build
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM

COUNT = 2000


async def _one(place: Place, threshold: int) -> Line:
    user_id = f"threshold-{threshold}"
    bucket = bucket_of(place)
    async with router(place.settings(user_id), bucket) as pool:
        await fill(pool, user_id, COUNT, commands.Hnsw(sync_threshold=threshold))
        lone, cpu = [], time.process_time()
        for at in range(COUNT, COUNT + 40):
            await pool.execute(user_id, upsert(at, vectors(1, at, 1)))
            lone.append(bucket.commits[-1][1])
        cpu = (time.process_time() - cpu) / 40 * 1000
        crossing, at = max(lone), COUNT + 40
        while at < COUNT + 40 + 1.2 * threshold and crossing < 6 * statistics.median(lone):
            await pool.execute(user_id, upsert(at, vectors(1, at, 20)))
            crossing, at = max(crossing, bucket.commits[-1][1]), at + 20
    waits = []
    for turn in range(3):
        async with router(place.settings(f"{user_id}-{turn}")) as pool:
            took, answer = await timed(lambda pool=pool, n=turn: pool.execute(user_id, query(near(1, n))))
            check_first(answer.body, turn)
            waits.append(took)
    middle = statistics.median(lone)
    hourly = 3600 * (middle * (threshold - 1) + crossing) / threshold
    return Line(
        "sync_threshold",
        f"sync_threshold {threshold:,}, {COUNT:,} records",
        f"commit of a lone upsert {size(middle)}, crossing {size(crossing)}, {hourly / 1024**3:.2f} GiB an hour",
        note=f"first cold answer {ms(waits)}, CPU of a lone upsert {cpu:.1f} ms (commit included)",
    )


def _texts(limit: int) -> list[str]:
    found: list[str] = []
    for path in installed_texts():
        for paragraph in path.read_text(encoding="utf-8", errors="replace").split("\n\n"):
            words = " ".join(paragraph.split())
            if 60 <= len(words) <= 600 and words not in found:
                found.append(words)
        if len(found) >= limit:
            break
    return found[:limit]


async def _recall(place: Place) -> list[Line]:
    texts = _texts(400 if place.quick else 1500)
    embedder = build(Settings(), SYSTEM)
    await embedder.start()
    rows = np.asarray(await embedder.embed(texts), dtype="<f4")
    await embedder.close()
    probes, stored = rows[::15], np.delete(rows, np.s_[::15], axis=0)
    exact = np.argsort(1 - probes @ stored.T, axis=1)[:, :10]
    lines = []
    async with router(place.settings("recall")) as pool:
        for ef in (10, 50, 100, 200):
            user_id = f"recall-{ef}"
            # A threshold below the number of records, so that queries use the index and not the queue.
            hnsw = commands.Hnsw(ef_search=ef, sync_threshold=100)
            await pool.execute(user_id, commands.CreateCollection(name=COLLECTION, hnsw=hnsw))
            for first in range(0, len(stored), 500):
                await pool.execute(user_id, upsert(first, stored[first : first + 500]))
            took, answer = await timed(lambda user_id=user_id: pool.execute(user_id, query(probes)))
            found = msgspec.json.decode(answer.body, type=QueryResult).results
            hits = sum(
                len({m.id for m in matches} & {f"record-{n}" for n in row})
                for matches, row in zip(found, exact, strict=True)
            )
            recall = hits / exact.size
            what = f"recall@10 of {len(stored):,} MiniLM vectors, cosine, 16 neighbours, ef_search {ef}"
            met = recall >= 0.99 if ef == Settings().hnsw_ef_search else None
            target = ">= 0.99" if met is not None else ""
            note = f"{took / len(probes):.2f} ms a query, {len(probes)} in one call"
            lines.append(Line("recall", what, f"{recall:.4f}", "1 (exact)", recall, target, met, note))
    return lines


async def run(place: Place) -> list[Line]:
    """Measure four thresholds, then recall by search effort."""
    lines = [await _one(place, threshold) for threshold in ((100, 1000) if place.quick else (20, 100, 1000, 5000))]
    return lines + await _recall(place)
