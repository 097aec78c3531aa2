"""The path of a warm top-10 query in microseconds, part by part, as far as parts can be measured alone.

Each part is run by itself some thousand times on one thread; the median counts. The rest (the HTTP
server, the event loops, switches between processes, the S3's answer to a strong read) is the difference between the
last lines and the sum of the parts. Excluded: embedding a text.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from tests.bench.ground import COLLECTION, Line, Place, bucket_of, load, near
from tests.bench.traffic import Connection, post, server_at
from tests.support.service import Service as Served
from vectorpool import commands
from vectorpool.answers import Answer, Match, QueryResult
from vectorpool.api.namespaces import Namespace
from vectorpool.api.records import query_in
from vectorpool.api.service import Service
from vectorpool.commitlog.hydrate import hydrate
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.engine.engine import Engine
from vectorpool.engine.records import EngineOptions, Records
from vectorpool.engine.rows import Rows
from vectorpool.names import DEFAULT_DATABASE
from vectorpool.settings import Settings
from vectorpool.shard.protocol import Answered, Execute, encode_frame, from_shard_decoder, to_shard_decoder
from vectorpool.shard.router import QuotaOf

COUNT = 5000
NUMBER = 77
_FRAME_HEAD = 4


def _us(work: Callable[[], Any], turns: int) -> float:
    took = []
    for _ in range(turns):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


class _Recording:
    """Stands for the router: keeps the command and returns an empty answer."""

    def __init__(self) -> None:
        self.command: commands.Command | None = None

    def limit(self, quota_of: QuotaOf) -> None:
        pass

    async def execute(self, user_id: str, command: commands.Command, context: RequestContext) -> Answer:
        self.command = command
        return Answer(b"", 0)


def _drive(coroutine: Any) -> None:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for something")


def _line(what: str, us: float, note: str = "") -> Line:
    return Line("path", f"warm top-10 query, {COUNT:,} records: {what}", f"{us:.0f} us", note=note)


async def run(place: Place) -> list[Line]:
    """Measure the parts, then the whole over one connection, local and strong."""
    turns = 300 if place.quick else 2000
    user_id = f"cold-{COUNT}"
    await load(place, user_id, COUNT)
    directory = place.scratch / "path"
    bucket = bucket_of(place)
    await hydrate(bucket, user_id, None, directory)
    await bucket.close()
    body = msgspec.json.encode(
        {"embeddings": near(1, NUMBER).tolist(), "n_results": 10, "include": ["documents", "metadatas", "distances"]}
    )
    lines = _parts(directory, user_id, body, turns)
    for consistency in ("local", "strong"):
        whole = await _whole(place, user_id, consistency, body, turns // 4)
        lines.append(_line(f"the whole over HTTP, one connection, {consistency}", whole))
    return lines


def _parts(directory: Path, user_id: str, body: bytes, turns: int) -> list[Line]:
    router = _Recording()
    service = cast(Service, SimpleNamespace(settings=Settings(), router=router, embedder=None))
    namespace = Namespace(user_id)
    parse = _us(lambda: _drive(query_in(body, namespace, service, BACKGROUND, COLLECTION)), turns)
    command = router.command
    assert isinstance(command, commands.QueryRecords)
    context = RequestContext("0a1b2c3d-0000-4000-8000-000000000000", caller="anybody", timeout_s=30.0)
    context.start()
    execute = Execute(1, user_id, command, context.carried())
    frame = bytes(encode_frame(execute))[_FRAME_HEAD:]
    out = _us(lambda: to_shard_decoder.decode(bytes(encode_frame(execute))[_FRAME_HEAD:]), turns)
    assert to_shard_decoder.decode(frame) == execute

    engine = Engine(directory, EngineOptions(exact_bytes=Settings().exact_bytes))
    info = engine.catalogue.get(DEFAULT_DATABASE, COLLECTION)
    plain = Engine(directory, EngineOptions(fast_reads=False, fast_writes=False))
    include = ("documents", "metadatas", "distances")
    query = near(1, NUMBER)

    def ask(records: Records) -> list[Rows]:
        found = records.query(info.id, DEFAULT_DATABASE, query, 10, include=include)
        assert found is not None
        return found

    rows = ask(engine.records)
    assert rows[0].ids[0] == ask(plain.records)[0].ids[0] == f"record-{NUMBER}"
    fast = _us(lambda: ask(engine.records), turns)
    in_chroma = _us(lambda: ask(plain.records), turns // 4)
    engine.close()
    plain.close()

    found = rows[0]
    assert found.documents and found.metadatas and found.distances
    columns = zip(found.ids, found.distances, found.documents, found.metadatas, strict=True)
    result = QueryResult(results=[[Match(i, d, document=t, metadata=m) for i, d, t, m in columns]])
    encode = _us(lambda: msgspec.json.encode(result), turns)
    answer = Answered(1, msgspec.json.encode(result), 1)
    back = _us(lambda: from_shard_decoder.decode(bytes(encode_frame(answer))[_FRAME_HEAD:]), turns)
    return [
        _line("front: body to command", parse),
        _line("frame to the shard, both ends", out),
        _line("fast read", fast, f"the same through Chroma: {in_chroma:.0f} us"),
        _line("answer to JSON", encode),
        _line("frame back, both ends", back),
    ]


async def _whole(place: Place, user_id: str, consistency: str, body: bytes, turns: int) -> float:
    root = place.scratch / f"path-{consistency}"
    root.mkdir()
    env = place.server.environ(place.store)
    served = await asyncio.to_thread(Served(root, "--consistency", consistency, store=place.store, env=env).start)
    try:
        server = server_at("vectorpool", served.url, {})
        connection = await Connection.open(server)
        request = post(server, f"/users/{user_id}/collections/{COLLECTION}/query", body)
        took = []
        for turn in range(turns + 20):
            began = time.perf_counter()
            answer = await connection.must(request)
            if turn >= 20:
                took.append(time.perf_counter() - began)
            assert f'"record-{NUMBER}"'.encode() in answer
        connection.close()
    finally:
        await asyncio.to_thread(served.close)
    return statistics.median(took) * 1e6
