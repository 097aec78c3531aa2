"""The same user with other ways to keep vectors in object storage: one zip for each save, LanceDB, pgvector.

Zip: the plain directory, open in Chroma's own client; a save is the upsert, one zip of the directory (stored, because
deflating vectors takes longer than it saves) and one PUT; a load is one GET, unzip, open and query. PUT and GET use the
same S3 client as this service. LanceDB: its asynchronous client on the same bucket, cosine, with the index that
answered best here (HNSW-SQ at 5,000 records, IVF-FLAT at 20,000, whose HNSW-SQ takes minutes to build); a save is a
merge by id. Cold is a new connection that opens the table and queries it; for
this service it is `vectorpool serve` without local files of the user. The other lines are measured in this process.
For pgvector the bench only reports whether PostgreSQL has the extension, because a separate server is not comparable.

Excluded: building LanceDB's index, its compaction, and conflicts of writers (one zip a save loses one of two).
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import shutil
import statistics
import subprocess
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import chromadb

from tests.bench.cold import ask_served, serve
from tests.bench.ground import (
    COLLECTION,
    DIMENSION,
    Float32,
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
    upsert,
    vectors,
)
from tests.support.service import Service
from vectorpool.commitlog.hydrate import hydrate
from vectorpool.commitlog.log import CommitLog
from vectorpool.objects.bucket import Bucket

HOW_TO_INSTALL = "uv run --group bench python -m tests.bench peers"
WHY_COLD = "it reads the ranges that one query needs, ours brings the whole vectorstore onto the instance"
WHY_SAVE = "it writes the new row beside its index, which it leaves alone; ours is in Chroma's index and SQLite tables"
# The first turn of each way has costs of a first use, so it is not counted.
TURNS = 6


def _zip(directory: Path, target: Path) -> bytes:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(directory))
    return target.read_bytes()


class _Zip:
    """A user whose whole directory is one object."""

    def __init__(self, place: Place, bucket: Bucket, user_id: str) -> None:
        self._bucket, self._key = bucket, f"zips/{user_id}"
        self._root = place.scratch / f"zip-{user_id}"
        self._user_id = user_id
        self._client: Any = None
        self._turn = 0

    async def prepare(self) -> None:
        """Make the user's present state a directory that Chroma's client has open, and a zip."""
        directory = self._root / "saved"
        await hydrate(self._bucket, self._user_id, None, directory)
        self._client = chromadb.PersistentClient(str(directory))
        await self._bucket.put(self._key, _zip(directory, self._root / "saved.zip"))

    async def save(self, number: int) -> None:
        """Upsert one record and store the directory."""
        command = upsert(number, vectors(1, number, 1))

        def write() -> bytes:
            collection = self._client.get_collection(COLLECTION, embedding_function=None)
            collection.upsert(
                ids=command.ids,
                embeddings=vectors(1, number, 1),
                documents=command.documents,
                metadatas=command.metadatas,
            )
            return _zip(self._root / "saved", self._root / "saved.zip")

        await self._bucket.put(self._key, await in_thread(write)())

    async def answer(self, number: int) -> None:
        """Load the directory and query it."""
        self._turn += 1
        directory = self._root / f"loaded-{self._turn}"
        data = (await self._bucket.get(self._key)).data

        def ask() -> None:
            directory.mkdir()
            packed = directory.with_suffix(".zip")
            packed.write_bytes(data)
            with zipfile.ZipFile(packed) as archive:
                archive.extractall(directory)
            client = chromadb.PersistentClient(str(directory))
            collection = client.get_collection(COLLECTION, embedding_function=None)
            found = collection.query(query_embeddings=near(1, number), n_results=10)
            assert found["ids"][0][0] == f"record-{number}"

        await in_thread(ask)()

    def close(self) -> None:
        """Remove the local files."""
        shutil.rmtree(self._root, ignore_errors=True)


def has_lance() -> bool:
    """Return whether LanceDB is installed (``--group bench``)."""
    return importlib.util.find_spec("lancedb") is not None


class Lance:
    """A user whose records are a LanceDB table in the same bucket."""

    def __init__(self, place: Place, user_id: str, count: int) -> None:
        self._lance, self._arrow = importlib.import_module("lancedb"), importlib.import_module("pyarrow")
        server = place.server
        self._options = {
            "aws_access_key_id": server.access_key_id,
            "aws_secret_access_key": server.secret_access_key,
            "aws_region": server.region,
            "aws_endpoint": server.endpoint,
            "allow_http": "true",
            "aws_virtual_hosted_style_request": "false",
        }
        self._url, self._name, self._count = f"{place.store}/lance", user_id, count
        self._table: Any = None

    def _rows(self, first: int, rows: Float32) -> Any:
        arrow, command = self._arrow, upsert(first, rows)
        flat = arrow.array(rows.reshape(-1))
        columns = {
            "id": command.ids,
            "document": command.documents,
            "number": [metadata["number"] for metadata in command.metadatas or []],
            "day": [metadata["day"] for metadata in command.metadatas or []],
            "vector": arrow.FixedSizeListArray.from_arrays(flat, DIMENSION),
        }
        return arrow.table(columns)

    async def _open(self) -> Any:
        database = await self._lance.connect_async(self._url, storage_options=self._options)
        return await database.open_table(self._name)

    async def prepare(self) -> None:
        """Write the table and its index."""
        database = await self._lance.connect_async(self._url, storage_options=self._options)
        rows = self._rows(0, vectors(1, 0, self._count))
        self._table = await database.create_table(self._name, rows, mode="overwrite")
        index = importlib.import_module("lancedb.index")
        config = (
            index.HnswSq(distance_type="cosine", num_partitions=1)
            if self._count <= 5000
            else index.IvfFlat(distance_type="cosine", num_partitions=64)
        )
        await self._table.create_index("vector", config=config)

    async def save(self, number: int) -> None:
        """Merge one record by its id."""
        merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        await merge.execute(self._rows(number, vectors(1, number, 1)))

    async def answer(self, number: int) -> None:
        """Connect, open the table and query it."""
        await self._ask(await self._open(), number)

    async def again(self, number: int) -> None:
        """Query the open table."""
        await self._ask(self._table, number)

    async def _ask(self, table: Any, number: int) -> None:
        found = (
            await table.query()
            .nearest_to(near(1, number)[0])
            .distance_type("cosine")
            .select(["id", "document", "number", "day", "_distance"])
            .limit(10)
            .to_list()
        )
        assert len(found) == 10 and found[0]["id"] == f"record-{number}", [row["id"] for row in found]


async def _take(kept: list[float], work: Callable[[], Awaitable[object]]) -> None:
    kept.append((await timed(work))[0])


async def _cold(
    place: Place, service: Service, user_id: str, count: int, zipped: _Zip, lance: Lance | None
) -> list[Line]:
    ours, zips, lances = list[float](), list[float](), list[float]()
    for turn in range(4 if place.quick else TURNS):
        number = (turn * 37) % count
        ours.append(await ask_served(service, user_id, number))
        await _take(zips, lambda n=number: zipped.answer(n))
        if lance is not None:
            await _take(lances, lambda n=number: lance.answer(n))
    what = f"first answer, cold, {count:,} records, ours over HTTP"
    return _lines(what, ours, {"one zip": zips, "LanceDB": lances}, WHY_COLD)


async def _warm(
    place: Place, bucket: Bucket, user_id: str, count: int, zipped: _Zip, lance: Lance | None
) -> list[Line]:
    asked, lances_asked = list[float](), list[float]()
    saved, zips, lances = list[float](), list[float](), list[float]()
    async with router(place.settings(f"peers-warm-{count}"), bucket) as pool:
        for turn in range(20 if place.quick else 60):
            number = (turn * 41) % count
            took, answer = await timed(lambda n=number: pool.execute(user_id, query(near(1, n))))
            check_first(answer.body, number)
            asked.append(took)
            if lance is not None:
                await _take(lances_asked, lambda n=number: lance.again(n))
        for turn in range(4 if place.quick else TURNS):
            number = count + turn
            command = upsert(number, vectors(1, number, 1))
            await _take(saved, lambda c=command: pool.execute(user_id, c))
            await _take(zips, lambda n=number: zipped.save(n))
            if lance is not None:
                await _take(lances, lambda n=number: lance.save(n))
        # Each of them finds the record that was saved last.
        check_first((await pool.execute(user_id, query(near(1, number)))).body, number)
    await zipped.answer(number)
    if lance is not None:
        await lance.answer(number)
    what = f"one-record upsert into {count:,} records, saved in the S3"
    return [
        *_lines(what, saved, {"one zip": zips, "LanceDB": lances}, WHY_SAVE),
        *_lines(f"warm top-10 query, {count:,} records, strong", asked, {"LanceDB": lances_asked}, ""),
    ]


def _lines(what: str, ours: list[float], theirs: dict[str, list[float]], why: str) -> list[Line]:
    """Return a line for each peer that was measured; the first turn of each is not counted.

    ``why`` is the note where LanceDB is better.
    """
    lines = []
    for name, values in theirs.items():
        if values:
            ratio = statistics.median(ours[1:]) / statistics.median(values[1:])
            lines.append(
                Line(
                    "peers",
                    f"{what}, against {name}",
                    ms(ours[1:]),
                    ms(values[1:]),
                    ratio,
                    note=why if ratio > 1 and name == "LanceDB" else "",
                )
            )
    return lines


def _pgvector() -> Line:
    """Return a line that says whether this machine's PostgreSQL has the extension."""
    config = shutil.which("pg_config")
    found = ""
    if config:
        shared = subprocess.run([config, "--sharedir"], capture_output=True, text=True, check=True).stdout.strip()
        if (Path(shared) / "extension" / "vector.control").exists():
            found = "installed, not measured: it is a server with a disk of its own"
    return Line("peers", "pgvector", "", found or "not available here", note="" if found else "not measured")


async def run(place: Place) -> list[Line]:
    """Measure 5,000 and 20,000 records; the ways take turns."""
    lines = [_pgvector()]
    bucket = bucket_of(place)
    service = await asyncio.to_thread(serve, place, "served-peers")
    try:
        for count in (5000,) if place.quick else (5000, 20_000):
            await load(place, f"cold-{count}", count)
            user_id = f"peers-{count}"
            await CommitLog(bucket, f"cold-{count}", settings=place.settings("peers-fork")).fork(user_id)
            zipped, lance = _Zip(place, bucket, user_id), None
            await zipped.prepare()
            if has_lance():
                lance = Lance(place, user_id, count)
                await lance.prepare()
            lines += await _cold(place, service, user_id, count, zipped, lance)
            lines += await _warm(place, bucket, user_id, count, zipped, lance)
            zipped.close()
            if lance is None:
                lines.append(Line("peers", f"LanceDB, {count:,} records", "", "not installed", note=HOW_TO_INSTALL))
    finally:
        await asyncio.to_thread(service.close)
        await bucket.close()
    return lines
