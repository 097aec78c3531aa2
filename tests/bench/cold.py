"""First answer of a cold user: hydrate, open and query, against programs without the log; and its parts.

(b) downloads the plain directory file by file with boto3, with a client that stays open, opens it with Chroma's own
client and queries it. (c) gets the objects that a hydrate reads, in parallel, and opens and queries an existing
directory with this service's reader. All imports happen before; every answer is checked. All directories are
in the scratch directory's file system, which is named; the parts are measured on memory too, where containers have it.

The parts run one after the other, so that they can be added up; the hydrate beside them overlaps them. 100,000 records
take minutes to load: set VECTORPOOL_BENCH_LARGE=1 for their parts.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

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
    size,
    timed,
)
from tests.support.service import Service
from vectorpool.commitlog.body import unpack_frame
from vectorpool.commitlog.format import decode_header
from vectorpool.commitlog.hydrate import hydrate, list_log
from vectorpool.commitlog.image import Image, block_digests
from vectorpool.commitlog.outcomes import Position
from vectorpool.commitlog.plan import Chain
from vectorpool.engine.index_build import write_indexes
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings
from vectorpool.vectorstore.replica import Replica

T = TypeVar("T")
MEMORY = Path("/dev/shm")
# The first turn has costs of a first use (boto3's models, pages of the libraries), so it is not counted.
TURNS = 7
_LARGE = "VECTORPOOL_BENCH_LARGE"


async def run(place: Place) -> list[Line]:
    """Measure 500, 5,000 and 20,000 records; the ways take turns."""
    lines, parts = [], []
    bucket = bucket_of(place)
    service = await asyncio.to_thread(serve, place, "served-cold")
    try:
        for count in (500, 5000) if place.quick else (500, 5000, 20_000):
            user_id = f"cold-{count}"
            await load(place, user_id, count)
            lines += await _one_size(place, bucket, service, user_id, count)
            parts += await _parts_of(place, bucket, user_id, count)
        if os.environ.get(_LARGE):
            await load(place, "cold-100000", 100_000)
            parts += await _parts_of(place, bucket, "cold-100000", 100_000)
    finally:
        await asyncio.to_thread(service.close)
        await bucket.close()
    return lines + parts


def serve(place: Place, name: str) -> Service:
    """Start the service with one shard and no warm tier, its files in ``name`` of the scratch directory."""
    flags = ("--shards", "1", "--warm-bytes", "0")
    root = place.scratch / name
    root.mkdir()
    return Service(root, *flags, store=place.store, env=place.server.environ(place.store)).start()


# --- Side by side ------------------------------------------------------------------------------------


def _download_and_ask(place: Place, client: Any, user_id: str, directory: Path, number: int) -> None:
    bucket, _, prefix = place.store.removeprefix("s3://").partition("/")
    base = f"{prefix}/plain/{user_id}/"
    for found in client.list_objects_v2(Bucket=bucket, Prefix=base)["Contents"]:
        target = directory / found["Key"].removeprefix(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, found["Key"], str(target))
    collection = chromadb.PersistentClient(str(directory)).get_collection(COLLECTION, embedding_function=None)
    answer = collection.query(query_embeddings=near(1, number), n_results=10)
    assert answer["ids"][0][0] == f"record-{number}"


async def _gets_and_ask(bucket: Bucket, user_id: str, replica: Path, image: Image, number: int) -> None:
    _, found = await list_log(bucket, user_id)
    assert found is not None
    await asyncio.gather(*(bucket.get(obj.key) for obj in found.objects))

    def ask() -> None:
        opened = _open(replica, image)
        check_first(opened.read(query(near(1, number))), number)
        opened.close()

    await asyncio.to_thread(ask)


def _open(directory: Path, image: Image) -> Replica:
    return Replica("cold", directory, Position(1, b""), image, Settings(store="memory://cold", shards=-1))


async def _upload_plain(place: Place, bucket: Bucket, user_id: str) -> tuple[Path, Image]:
    directory = place.scratch / f"plain-{user_id}"
    hydrated = await hydrate(bucket, user_id, None, directory)
    assert hydrated is not None
    # A program without the log would have Chroma's indexes beside the queue.
    plain = place.scratch / f"indexed-{user_id}"
    await asyncio.to_thread(shutil.copytree, directory, plain)
    await asyncio.to_thread(write_indexes, plain)
    for path in sorted(p for p in plain.rglob("*") if p.is_file()):
        await bucket.put(f"plain/{user_id}/{path.relative_to(plain)}", path.read_bytes())
    return directory, hydrated.image


async def _one_size(place: Place, bucket: Bucket, service: Service, user_id: str, count: int) -> list[Line]:
    plain, image = await _upload_plain(place, bucket, user_id)
    client = place.server.client()
    taken: dict[str, list[float]] = {"pool": [], "served": [], "files": [], "gets": []}
    cpu: dict[str, list[float]] = {"pool": [], "files": [], "gets": []}

    async def take(way: str, work: Callable[[], Awaitable[T]]) -> T:
        began = time.process_time()
        took, result = await timed(work)
        taken[way].append(took)
        cpu[way].append((time.process_time() - began) * 1000)
        return result

    for turn in range(4 if place.quick else TURNS):
        number = (turn * 37) % count
        async with router(place.settings(f"cold-{turn}")) as pool:
            answer = await take("pool", lambda pool=pool, n=number: pool.execute(user_id, query(near(1, n))))
            check_first(answer.body, number)
        shutil.rmtree(place.scratch / f"cold-{turn}")
        taken["served"].append(await ask_served(service, user_id, number))
        # A directory of its own each time: Chroma's client remembers paths.
        fresh = place.scratch / f"fresh-{user_id}-{turn}"
        await take("files", in_thread(lambda f=fresh, n=number: _download_and_ask(place, client, user_id, f, n)))
        shutil.rmtree(fresh)
        copy = place.scratch / f"copy-{turn}"
        await asyncio.to_thread(shutil.copytree, plain, copy)
        await take("gets", lambda c=copy, n=number: _gets_and_ask(bucket, user_id, c, image, n))
        shutil.rmtree(copy)
    lines = []
    for how, way in (("in process", "pool"), ("vectorpool serve, over HTTP", "served")):
        for against, other, limit in (("boto3, file by file", "files", 0.5), ("parallel raw GETs", "gets", 1.5)):
            ours, theirs = taken[way][1:], taken[other][1:]
            ratio = statistics.median(ours) / statistics.median(theirs)
            what = f"first answer, cold, {count:,} records, {how}, against {against} + open + query"
            note = f"CPU time {ms(cpu[way][1:])} against {ms(cpu[other][1:])}" if way in cpu else ""
            lines.append(Line("cold", what, ms(ours), ms(theirs), ratio, f"<= {limit}", ratio <= limit, note))
    return lines


async def ask_served(service: Service, user_id: str, number: int) -> float:
    """Return the milliseconds of a cold user's answer over HTTP; the user is cold again afterwards."""
    body = {"embeddings": near(1, number).tolist(), "n_results": 10}
    path = f"/users/{user_id}/collections/{COLLECTION}/query"
    took, response = await timed(in_thread(lambda: service.ok("POST", path, json=body)))
    check_first(response.content, number)
    await in_thread(lambda: service.ok("POST", f"/admin/users/{user_id}/evict"))()
    return took


# --- The parts ---------------------------------------------------------------------------------------


class _Clock:
    """Sums milliseconds by part."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.parts[part] = self.parts.get(part, 0.0) + (time.perf_counter() - began) * 1000


def _build(clock: _Clock, chain: Chain, bodies: list[bytes], directory: Path) -> None:
    """Build the directory in the simplest way, oldest object first: every byte is unpacked, digested and written."""
    for obj, data in zip(reversed(chain.objects), reversed(bodies), strict=True):
        with clock.of("header"):
            decoded = decode_header(obj.key, data, obj.size)
        at, files = decoded.body_offset, decoded.header.files
        for frame in decoded.header.frames:
            stored, at = memoryview(data)[at : at + frame.stored], at + frame.stored
            with clock.of("unpack"):
                raw = memoryview(unpack_frame(obj.key, frame, stored))
            with clock.of("digest"):
                block_digests(raw)
            cursor = 0
            with clock.of("write"):
                for index, offset, length in frame.extents:
                    path = directory / files[index].path
                    path.parent.mkdir(parents=True, exist_ok=True)
                    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
                    os.pwrite(handle, raw[cursor : cursor + length], offset)
                    os.close(handle)
                    cursor += length
        for entry in files:
            # A file may be empty, or have shrunk since an older object.
            path = directory / entry.path
            path.touch()
            os.truncate(path, entry.size)


async def _one_turn(clock: _Clock, bucket: Bucket, user_id: str, directory: Path, number: int) -> tuple[Chain, Image]:
    # First, so that the memory that the parts keep does not slow it down.
    with clock.of("hydrate"):
        hydrated = await hydrate(bucket, user_id, None, directory / "hydrated")
    assert hydrated is not None
    with clock.of("list"):
        _, found = await list_log(bucket, user_id)
    assert found is not None
    with clock.of("get"):
        bodies = [body.data for body in await asyncio.gather(*(bucket.get(obj.key) for obj in found.objects))]
    built = directory / "built"
    built.mkdir()
    _build(clock, found, bodies, built)
    command = query(near(1, number))
    with clock.of("open"):
        replica = await asyncio.to_thread(_open, built, hydrated.image)
    with clock.of("first query"):
        check_first(await asyncio.to_thread(replica.read, command), number)
    with clock.of("second query"):
        check_first(await asyncio.to_thread(replica.read, command), number)
    replica.close()
    shutil.rmtree(directory)
    return found, hydrated.image


async def _parts_of(place: Place, bucket: Bucket, user_id: str, count: int) -> list[Line]:
    lines = []
    roots = {"on disk": place.scratch}
    if MEMORY.is_dir():
        roots["in memory"] = Path(tempfile.mkdtemp(prefix="vectorpool-bench-", dir=MEMORY))
    try:
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in roots}
        for turn in range(4 if place.quick else TURNS):
            for name, root in roots.items():
                clock = _Clock()
                directory = root / f"parts-{user_id}-{turn}"
                found, image = await _one_turn(clock, bucket, user_id, directory, (turn * 37) % count)
                turns[name].append(clock.parts)
        for name, measured in turns.items():
            middle = {part: statistics.median(turn[part] for turn in measured[1:]) for part in measured[0]}
            overlapped, again = middle.pop("hydrate"), middle.pop("second query")
            told = " + ".join(f"{part} {took:.1f}" for part, took in middle.items())
            until_open = sum(took for part, took in middle.items() if part not in ("open", "first query"))
            lines.append(
                Line(
                    "cold",
                    f"parts of a cold answer one by one, {count:,} records, working directory {name}",
                    f"{told} = {sum(middle.values()):.0f} ms",
                    f"list to write overlapped (hydrate): {overlapped:.0f} ms instead of {until_open:.0f} ms; "
                    f"second query {again:.1f} ms",
                    note=f"{len(found.objects)} objects of {size(found.bytes)} for files of {size(image.size)}",
                )
            )
    finally:
        if "in memory" in roots:
            shutil.rmtree(roots["in memory"], ignore_errors=True)
    return lines
