"""First answer of a cold user: hydrate, open and query, against what a program would do without the log.

(b) downloads the plain directory file by file with boto3, opens it with Chroma's own client and asks. (c) gets the
very objects that a hydrate reads, in parallel, and opens and asks a directory that is there already. What has to be
imported is imported before; every answer is checked.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
from pathlib import Path

import chromadb

from tests.bench.ground import (
    COLLECTION,
    Line,
    Place,
    bucket_of,
    check_first,
    in_thread,
    load,
    ms,
    near,
    query,
    router,
    timed,
)
from tests.support.service import Service
from vectorpool.commitlog.hydrate import hydrate, list_log
from vectorpool.objects.bucket import Bucket
from vectorpool.vectorstore.chroma import Chroma


def _download_and_ask(place: Place, user_id: str, directory: Path, number: int) -> None:
    client = place.server.client()
    bucket, _, prefix = place.store.removeprefix("s3://").partition("/")
    base = f"{prefix}/plain/{user_id}/"
    for found in client.list_objects_v2(Bucket=bucket, Prefix=base)["Contents"]:
        target = directory / found["Key"].removeprefix(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, found["Key"], str(target))
    collection = chromadb.PersistentClient(str(directory)).get_collection(COLLECTION, embedding_function=None)
    answer = collection.query(query_embeddings=near(1, number), n_results=10)
    assert answer["ids"][0][0] == f"record-{number}"


async def _gets_and_ask(bucket: Bucket, user_id: str, directory: Path, number: int) -> None:
    _, found = await list_log(bucket, user_id)
    assert found is not None
    await asyncio.gather(*(bucket.get(obj.key) for obj in found.objects))

    def ask() -> None:
        chroma = Chroma(directory)
        rows = chroma.query(chroma.collection(None, COLLECTION), near(1, number), 10)
        assert rows[0].ids[0] == f"record-{number}"
        chroma.close()

    await asyncio.to_thread(ask)


async def _upload_plain(place: Place, bucket: Bucket, user_id: str) -> Path:
    directory = place.scratch / f"plain-{user_id}"
    await hydrate(bucket, user_id, None, directory)
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        await bucket.put(f"plain/{user_id}/{path.relative_to(directory)}", path.read_bytes())
    return directory


def _serve(place: Place) -> Service:
    flags = ("--shards", "1", "--warm-bytes", "0")
    root = place.scratch / "served-cold"
    root.mkdir(exist_ok=True)
    return Service(root, *flags, store=place.store, env=place.server.environ(place.store)).start()


async def run(place: Place) -> list[Line]:
    """Measure 500, 5,000 and 20,000 records; the ways take turns."""
    lines = []
    bucket = bucket_of(place)
    service = await asyncio.to_thread(_serve, place)
    try:
        for count in (500, 5000) if place.quick else (500, 5000, 20_000):
            user_id = f"cold-{count}"
            await load(place, user_id, count)
            lines += await _one_size(place, bucket, service, user_id, count)
    finally:
        await asyncio.to_thread(service.close)
        await bucket.close()
    return lines


async def _one_size(place: Place, bucket: Bucket, service: Service, user_id: str, count: int) -> list[Line]:
    plain = await _upload_plain(place, bucket, user_id)
    pool_ms, served_ms, files_ms, gets_ms = [], [], [], []
    # The first turn is for what only a first use costs (boto3's models, pages of the libraries): it is not counted.
    for turn in range(4 if place.quick else 6):
        number = (turn * 37) % count
        fresh = place.scratch / f"fresh-{user_id}-{turn}"
        async with router(place.settings(f"cold-{turn}")) as pool:
            took, answer = await timed(lambda pool=pool, n=number: pool.execute(user_id, query(near(1, n))))
            check_first(answer.body, number)
            pool_ms.append(took)
        shutil.rmtree(place.scratch / f"cold-{turn}")
        body = {"embeddings": near(1, number).tolist(), "n_results": 10}
        path = f"/users/{user_id}/collections/{COLLECTION}/query"
        took, response = await timed(in_thread(lambda p=path, b=body: service.ok("POST", p, json=b)))
        check_first(response.content, number)
        served_ms.append(took)
        service.ok("POST", f"/admin/users/{user_id}/evict")
        took, _ = await timed(in_thread(lambda f=fresh, n=number: _download_and_ask(place, user_id, f, n)))
        files_ms.append(took)
        shutil.rmtree(fresh)
        copy = place.scratch / f"copy-{turn}"
        await asyncio.to_thread(shutil.copytree, plain, copy)
        took, _ = await timed(lambda c=copy, n=number: _gets_and_ask(bucket, user_id, c, n))
        gets_ms.append(took)
        shutil.rmtree(copy)
    for values in (pool_ms, served_ms, files_ms, gets_ms):
        del values[0]
    lines = []
    for how, values in (("in process", pool_ms), ("vectorpool serve, over HTTP", served_ms)):
        for against, others, limit in (("boto3, file by file", files_ms, 0.5), ("parallel raw GETs", gets_ms, 1.5)):
            ratio = statistics.median(values) / statistics.median(others)
            what = f"first answer, cold, {count:,} records, {how}, against {against} + open + query"
            lines.append(Line("cold", what, ms(values), ms(others), ratio, f"<= {limit}", ratio <= limit))
    return lines
