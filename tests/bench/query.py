"""Warm top-10 queries over HTTP: ``vectorpool serve`` and ``chroma run`` on the same 5,000 records, taking turns.

The load comes from this process over raw streams with requests built beforehand; its own CPU time a request is
measured and reported, because on a small machine the client's share is not nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec

from tests.bench.ground import COLLECTION, Line, Place, bucket_of, load, near
from tests.support.service import Service
from tests.support.store import free_port
from vectorpool.commitlog.hydrate import hydrate

COUNT = 5000
PROBES = 64


class Target(msgspec.Struct):
    """A server and its prebuilt requests, each with the id that its answer must name first."""

    name: str
    host: str
    port: int
    requests: list[tuple[bytes, bytes]]


class Load(msgspec.Struct):
    """What one turn measured."""

    per_s: float
    p50_ms: float
    client_share: float


def _target(name: str, url: str, path: str, field: str) -> Target:
    parts = urlsplit(url)
    requests = []
    for probe in range(PROBES):
        number = probe * 71 % COUNT
        body = msgspec.json.encode(
            {field: near(1, number).tolist(), "n_results": 10, "include": ["documents", "metadatas", "distances"]}
        )
        head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        requests.append((f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, f'"record-{number}"'.encode()))
    assert parts.hostname and parts.port
    return Target(name, parts.hostname, parts.port, requests)


async def _connection(target: Target, offset: int, until: float, took: list[float]) -> None:
    reader, writer = await asyncio.open_connection(target.host, target.port)
    at = offset
    try:
        while (began := time.perf_counter()) < until:
            request, expected = target.requests[at % PROBES]
            at += 1
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            took.append(time.perf_counter() - began)
            assert body.find(b'"record-') == body.find(expected) >= 0, (expected, body[:300])
    finally:
        writer.close()


async def _turn(target: Target, connections: int, seconds: float) -> Load:
    took: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(_connection(target, n * 5, began + seconds, took) for n in range(connections)))
    wall = time.perf_counter() - began
    return Load(len(took) / wall, statistics.median(took) * 1000, (time.process_time() - cpu) / wall)


def _chroma_run(directory: Path) -> tuple[subprocess.Popen[bytes], Target]:
    port = free_port()
    command = str(Path(sys.executable).with_name("chroma"))
    process = subprocess.Popen(
        [command, "run", "--path", str(directory), "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    base = "/api/v2/tenants/default_tenant/databases/default_database/collections"
    for _ in range(200):
        try:
            found = httpx.get(f"{url}{base}/{COLLECTION}").raise_for_status().json()
            return process, _target("chroma run", url, f"{base}/{found['id']}/query", "query_embeddings")
        except httpx.HTTPError:
            time.sleep(0.1)
    process.kill()
    raise AssertionError("chroma run does not answer")


def _serve(place: Place, consistency: str) -> Service:
    root = place.scratch / f"served-{consistency}"
    root.mkdir()
    env = place.server.environ(place.store)
    return Service(root, "--consistency", consistency, store=place.store, env=env).start()


async def run(place: Place) -> list[Line]:
    """Measure 1 and 16 connections, consistency strong and local, against one ``chroma run``."""
    user_id = f"cold-{COUNT}"
    await load(place, user_id, COUNT)
    bucket = bucket_of(place)
    directory = place.scratch / "chroma-run"
    await hydrate(bucket, user_id, None, directory)
    await bucket.close()
    services = {name: await asyncio.to_thread(_serve, place, name) for name in ("strong", "local")}
    path = f"/users/{user_id}/collections/{COLLECTION}/query"
    chroma, theirs = await asyncio.to_thread(_chroma_run, directory)
    try:
        targets = {name: _target(name, str(s.client.base_url), path, "embeddings") for name, s in services.items()}
        lines = []
        for connections in (1, 16):
            lines += await _compare(targets, theirs, connections, 1.0)
    finally:
        chroma.kill()
        chroma.wait()
        for service in services.values():
            await asyncio.to_thread(service.close)
        shutil.rmtree(directory)
    return lines


async def _compare(targets: dict[str, Target], theirs: Target, connections: int, seconds: float) -> list[Line]:
    for target in (theirs, *targets.values()):
        await _turn(target, connections, 0.5)
    loads: dict[str, list[Load]] = {name: [] for name in (theirs.name, *targets)}
    for _ in range(3):
        for target in (theirs, *targets.values()):
            loads[target.name].append(await _turn(target, connections, seconds))
    lines = []
    other = {f: statistics.median(getattr(x, f) for x in loads[theirs.name]) for f in ("per_s", "p50_ms")}
    for name in targets:
        per_s = statistics.median(x.per_s for x in loads[name])
        p50 = statistics.median(x.p50_ms for x in loads[name])
        share = statistics.median(x.client_share for x in loads[name])
        what = f"top-10 queries, {COUNT:,} records, {connections} connection{'s' * (connections > 1)}, {name}"
        ratio = per_s / other["per_s"]
        note = f"the client used {share:.0%} of a core"
        lines.append(
            Line(
                "query",
                f"{what}: throughput",
                f"{per_s:.0f}/s",
                f"{other['per_s']:.0f}/s",
                ratio,
                ">= 1.0",
                ratio >= 1,
                note,
            )
        )
        ratio = p50 / other["p50_ms"]
        target = "<= 1.3" if connections == 1 else ""
        met = ratio <= 1.3 if connections == 1 else None
        lines.append(Line("query", f"{what}: p50", f"{p50:.2f} ms", f"{other['p50_ms']:.2f} ms", ratio, target, met))
    return lines
