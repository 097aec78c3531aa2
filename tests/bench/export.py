"""An export to PostgreSQL beside a raw COPY of the same rows, and an increment of one record, by both ways to find it.

Beside the raw COPY the directory of the commit is there already: hydrating one is the bench ``cold``. A new export and
an increment are compared as a worker runs them, from the log to the target's commit.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psycopg

from tests.bench.ground import Line, Place
from tests.support.plain_chroma import PlainChroma
from tests.support.postgres import Postgres, programs
from vectorpool.app import open_service
from vectorpool.commands import ImportFrom, UpsertRecords, Vectors
from vectorpool.context import BACKGROUND
from vectorpool.names import DEFAULT_DATABASE
from vectorpool.settings import Settings
from vectorpool.targets import postgresql, postgresql_rows, runs, transfer
from vectorpool.targets.directory import DirectorySource, DirectoryWriter
from vectorpool.targets.kept import Kept, KeptSinks, KeptStates
from vectorpool.targets.records import BATCH, Collection, Records
from vectorpool.targets.urls import Target, parse

DIMENSION = 384
TURNS = 3
# Increments by each way in a turn: one takes milliseconds, in which other programs weigh more.
INCREMENTS = 7
TEXT = "A passage of a document, as long as the passages of this service are: " * 8


async def run(place: Place) -> list[Line]:
    """Measure both, in turns."""
    if programs() is None:
        return [Line("export", "an export to PostgreSQL", "PostgreSQL is not installed here")]
    # Its user must reach the directory.
    root = Path(tempfile.mkdtemp(prefix="vectorpool-bench-", dir="/tmp"))
    root.chmod(0o755)
    try:
        server = Postgres(root / "postgres")
        try:
            count = 2_000 if place.quick else 20_000
            return await asyncio.to_thread(_lines, root, server.url, count) + await _of_a_worker(
                root, server.url, count
            )
        finally:
            server.kill()
    finally:
        shutil.rmtree(root, ignore_errors=True)


async def _of_a_worker(root: Path, url: str, count: int) -> list[Line]:
    """Measure exports as the jobs of a worker run them; each new one goes into an empty database."""
    settings = Settings(store=str(root / "bucket"), replica_dir=str(root / "replicas"), shards=-1, health_interval_s=0)
    whole, increments, vectors = list[float](), list[float](), np.random.default_rng(5)
    async with open_service(settings) as service:
        router, bucket = service.router, service.library.bucket
        await router.execute("42", ImportFrom(directory=str(root / "store")), BACKGROUND)
        kept = Kept(KeptStates(settings.replica_dir, settings.export_kept_bytes), KeptSinks())

        async def export(target: Target, kept: Kept | None) -> tuple[float, int]:
            began = time.perf_counter()
            done = await runs.export_user(bucket, settings, "42", target, kept=kept)
            return time.perf_counter() - began, done.written

        for turn in range(TURNS):
            with psycopg.connect(url, autocommit=True) as db:
                db.execute(f"CREATE DATABASE turn_{turn}".encode())
            target = parse(f"{url.rpartition('/')[0]}/turn_{turn}")
            took_s, written = await export(target, None)
            assert written == count
            whole.append(took_s)
            # The first one after it begins to keep the state.
            for number in range(INCREMENTS + 1):
                vector = vectors.normal(size=(1, DIMENSION)).astype("<f4").tobytes()
                change = UpsertRecords(collection="notes", ids=["r7"], vectors=Vectors(DIMENSION, vector))
                await router.execute("42", change, BACKGROUND)
                took_s, written = await export(target, kept)
                assert written == 1
                if number:
                    increments.append(took_s)
        kept.sinks.close_idle(0.0)
    return [
        Line(
            "export",
            f"an increment of one record in {count:,}, as a worker runs it",
            f"{median(increments) * 1000:.1f} ms",
            f"{median(whole):.2f} s, a new export, as a worker runs it",
            median(increments) / median(whole),
            "1 %",
            median(increments) <= median(whole) / 100,
            f"{median(increments) / median(whole):.2%} of the export",
        )
    ]


def _lines(root: Path, url: str, count: int) -> list[Line]:
    directory = root / "store"
    directory.mkdir()
    rows = _records(count)
    writer = DirectoryWriter(directory)
    collection = writer.create(Collection("", DEFAULT_DATABASE, "notes"))
    for start in range(0, count, BATCH):
        writer.put(collection, rows.part(slice(start, start + BATCH)))
    writer.close()
    whole, raw = list[float](), list[float]()
    one, kept, compared = list[float](), list[float](), list[float]()
    data = postgresql_rows.packed("user", collection, 1, rows, is_vector=False)
    for user in ("own", "kept"):
        _export(directory, url, user, 1, count)
    sink, commit = postgresql.open_sink(parse(url)), 1
    for turn in range(TURNS):
        raw.append(_timed(lambda: _copy(url, data)))
        whole.append(_timed(lambda turn=turn: _export(directory, url, f"user-{turn}", 1, count)))  # type: ignore[misc]
        for _ in range(INCREMENTS):
            commit += 1
            chroma = PlainChroma(directory)
            chroma.upsert(chroma.collection("notes"), ["r7"], np.full((1, DIMENSION), commit, np.float32))
            chroma.close()
            one.append(_timed(lambda: _export(directory, url, "own", commit, 1)))  # noqa: B023
            kept.append(_timed(lambda: _export(directory, url, "kept", commit, 1, sink)))  # noqa: B023
        compared.append(_timed(lambda: _compare(directory, url)))
    sink.close()
    return [
        Line(
            "export",
            f"a new export of {count:,} records of {DIMENSION} dimensions to PostgreSQL",
            f"{median(whole):.2f} s",
            f"{median(raw):.2f} s, a raw COPY of the same rows, packed before",
            median(whole) / median(raw),
            "3 times",
            median(whole) <= 3 * median(raw),
        ),
        Line(
            "export",
            f"an increment of one record in {count:,}, with a connection of its own",
            f"{median(one) * 1000:.1f} ms",
            f"{median(compared) * 1000:.0f} ms, reading ids and hashes on both sides",
            median(one) / median(compared),
            note=f"{median(one) / median(whole):.2%} of the export",
        ),
        Line(
            "export",
            f"an increment of one record in {count:,}, the connection kept",
            f"{median(kept) * 1000:.1f} ms",
            f"{median(one) * 1000:.1f} ms, a connection of its own",
            median(kept) / median(one),
            note=f"{median(kept) / median(whole):.2%} of the export",
        ),
    ]


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _export(
    directory: Path, url: str, user_id: str, commit: int, expected: int, kept: postgresql.PostgresSink | None = None
) -> None:
    sink, source = kept or postgresql.open_sink(parse(url)), DirectorySource(directory)
    done = transfer.export(
        source,
        sink,
        user_id=user_id,
        commit=commit,
        commit_hash=f"{commit:032x}",
        lineage=lambda *_: True,
        shown="the target",
    )
    source.close()
    if kept is None:
        sink.close()
    assert done.written == expected


def _copy(url: str, data: bytes) -> None:
    """Send bytes that were packed before into a table of the same columns and key: no export does less."""
    with psycopg.connect(url) as db:
        db.execute("DROP TABLE IF EXISTS raw")
        db.execute(
            "CREATE TABLE raw (user_id text, collection_id text, commit bigint, id text, embedding real[], "
            "document text, uri text, metadata jsonb, PRIMARY KEY (user_id, collection_id, id))"
        )
        copy_sql = f"COPY raw ({postgresql_rows.COLUMNS}) FROM STDIN (FORMAT BINARY)"
        with db.cursor().copy(copy_sql.encode()) as copy:
            copy.write(data)


def _compare(directory: Path, url: str) -> None:
    """Read what a comparison of ids and hashes needs, the target's hashes being made by the target."""
    source = DirectorySource(directory)
    (collection,) = source.collections()
    here = {
        record_id: hash((vector.tobytes(), document))
        for batch in source.batches(collection)
        for record_id, vector, document in zip(batch.ids, batch.vectors, batch.documents, strict=True)
    }
    source.close()
    with psycopg.connect(url) as db:
        made = "hashtextextended(embedding::text || document, 0)"
        sql = f"SELECT id, {made} FROM vectorpool.records WHERE user_id = 'own'".encode()
        there: dict[str, Any] = dict(db.execute(sql).fetchall())
    assert here.keys() == there.keys()


def _records(count: int) -> Records:
    return Records(
        [f"r{number}" for number in range(count)],
        np.random.default_rng(3).normal(size=(count, DIMENSION)).astype(np.float32),
        [f"{number} {TEXT}" for number in range(count)],
        [{"path": f"a/{number % 100}.md", "chunk": number} for number in range(count)],
        [None] * count,
    )
