"""Ingestion: the whole pipeline against its embedder alone, its memory, and a neighbour's questions meanwhile.

*Pipeline.* Text documents of one user lie in the S3. A job fetches, cuts, embeds and commits them through the service;
the time is the job's own, from its start to its end, in a worker whose model is loaded. The embedder alone gets the
same chunks, in the same windows, in a process that does nothing else. Turns alternate.

*Memory.* The peaks of the worker's and the front's memory after a job of 100 small documents, and after a further one
of many.

*Questions.* Another user asks a question in words, once in 200 ms: alone, during a job, and during the same job of a
user who may embed ``LIMITED`` tokens a minute, about a fifth of what two cores embed.

*Excluded.* Separate machines: service, worker, S3 and client share this one. Of formats only text: others are read in
processes of their own, which take what their libraries take.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.bench.ground import Line, Place
from tests.bench.traffic import percentile
from tests.support.service import Service
from tests.support.texts import write_book
from vectorpool.embedding import open_embedder
from vectorpool.objects.stores import open_bucket
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM

WINDOW: Final = 256
TURNS: Final = 3
EVERY_S: Final = 0.2
AT_ONCE: Final = 16
LIMITED: Final = 120_000


async def _put(place: Place, user_id: str, texts: dict[str, bytes]) -> None:
    """Put documents straight in the S3, as another program does."""
    bucket, room = open_bucket(place.settings("put")), asyncio.Semaphore(AT_ONCE)

    async def put(path: str, data: bytes) -> None:
        async with room:
            await bucket.put(f"users/{user_id}/avatars/7/vectorstore_data/{path}", data)

    await asyncio.gather(*(put(path, data) for path, data in texts.items()))
    await bucket.close()


def _begin(service: Service, user_id: str) -> Any:
    return service.ok("POST", f"/users/{user_id}/avatars/7/ingest").json()


def _job(service: Service, user_id: str) -> Any:
    """Ingest all of a user; return the finished job."""
    job = _begin(service, user_id)
    while job["state"] in ("queued", "running"):
        job = service.ok("GET", f"/users/{user_id}/jobs/{job['job_id']}?wait_s=20&limit=1").json()
    assert job["state"] == "done" and not job["counts"].get("failed"), job
    return job


def _seconds(job: Any) -> float:
    return float(job["finished_ms"] - job["started_ms"]) / 1000


def _peaks_mb(service: Service) -> tuple[float, float]:
    """Return the peaks of the worker's memory and of the front's."""
    listed = subprocess.run(
        ["pgrep", "-P", str(service.pid), "-f", "vectorpool.jobs.process"], capture_output=True, text=True, check=True
    )

    def peak(process_id: str) -> float:
        status = Path(f"/proc/{process_id}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    return peak(listed.stdout.split()[0]), peak(str(service.pid))


def _chunks(service: Service, user_id: str) -> list[str]:
    records = f"/users/{user_id}/avatars/7/collections/documents/records/get"
    found = service.ok("POST", records, json={"limit": 10_000, "include": ["documents"]}).json()["records"]
    return [each["document"] for each in found]


async def _pipeline(place: Place, service: Service) -> Line:
    """Measure the whole pipeline and the embedder alone, in alternation."""
    count = 20 if place.quick else 60
    ours, alone = list[float](), list[float]()
    embedder = open_embedder(Settings(), SYSTEM, is_bulk=True)
    await embedder.start()
    try:
        for turn in range(TURNS):
            user_id = f"pipeline-{turn}"
            texts = {f"{n:03d}.md": write_book(1000 * turn + n, words=900).text.encode() for n in range(count)}
            await _put(place, user_id, texts)
            job = await asyncio.to_thread(_job, service, user_id)
            chunks = await asyncio.to_thread(_chunks, service, user_id)
            assert len(chunks) == job["counts"]["chunks"]
            ours.append(len(chunks) / _seconds(job))
            began = time.perf_counter()
            for at in range(0, len(chunks), WINDOW):
                await embedder.embed(chunks[at : at + WINDOW])
            alone.append(len(chunks) / (time.perf_counter() - began))
    finally:
        await embedder.close()
    ratio = statistics.median(a / b for a, b in zip(ours, alone, strict=True))
    return Line(
        "ingest",
        "chunks a second of the whole pipeline",
        f"{statistics.median(ours):.0f}",
        f"{statistics.median(alone):.0f} of the embedder alone",
        ratio,
        ">= 0.9",
        ratio >= 0.9,
        f"{count} documents, {len(chunks)} chunks a turn",
    )


async def _memory(place: Place, service: Service) -> list[Line]:
    many = 1000 if place.quick else 10_000
    peaks = []
    for user_id, count in (("few", 100), ("many", many)):
        texts = {f"{n:05d}.md": f"# Note {n}\n\nWhat was said on day {n}.\n".encode() for n in range(count)}
        await _put(place, user_id, texts)
        await asyncio.to_thread(_job, service, user_id)
        peaks.append(_peaks_mb(service))
    return [
        Line(
            "ingest",
            f"peak memory of the {process} after {many:,} documents",
            f"{much:.0f} MB",
            f"{few:.0f} MB after 100",
            much / few,
            "<= 1.1",
            much <= 1.1 * few,
        )
        for process, few, much in zip(("worker", "front"), *peaks, strict=True)
    ]


async def _questions(place: Place, service: Service) -> list[Line]:
    await _put(place, "quiet", {"a.md": write_book(5, words=900).text.encode()})
    await asyncio.to_thread(_job, service, "quiet")
    texts = {f"{n:03d}.md": write_book(9000 + n, words=900).text.encode() for n in range(100 if place.quick else 300)}

    def ask() -> float:
        began = time.perf_counter()
        body = {"text": "Where was the key found?", "n_results": 3}
        answer = service.ok("POST", "/users/quiet/avatars/7/query", json=body).json()
        assert answer["results"][0]
        return (time.perf_counter() - began) * 1000

    async def watch(until: Callable[[], bool]) -> list[float]:
        took = list[float]()
        while not until():
            took.append(await asyncio.to_thread(ask))
            await asyncio.sleep(EVERY_S)
        return took

    async def watch_for(seconds: float) -> list[float]:
        end_s = time.monotonic() + seconds
        return await watch(lambda: time.monotonic() > end_s)

    alone = await watch_for(10 if place.quick else 30)
    await _put(place, "bulk", texts)
    bulk = asyncio.create_task(asyncio.to_thread(_job, service, "bulk"))
    during = await watch(bulk.done)
    await bulk
    await _put(place, "limited", texts)
    service.ok("PUT", "/admin/users/limited/limits", json={"embedding_tokens_per_min": LIMITED})
    job = await asyncio.to_thread(_begin, service, "limited")
    limited = await watch_for(20 if place.quick else 60)
    job = service.ok("DELETE", f"/users/limited/jobs/{job['job_id']}").json()
    assert job["counts"].get("chunks"), "the limited job went on while questions were asked"
    return [
        _asked("during another's bulk ingest", alone, during, 5),
        _asked("during one with limits set", alone, limited, 3),
    ]


def _asked(when: str, alone: list[float], during: list[float], most: float) -> Line:
    calm, busy = percentile(alone, 99), percentile(during, 99)
    return Line(
        "ingest",
        f"a quiet user's question in words, p99, {when}",
        f"{busy:.0f} ms",
        f"{calm:.0f} ms alone",
        busy / calm,
        f"<= {most}",
        busy <= most * calm,
        f"p50 {percentile(during, 50):.0f} ms, {percentile(alone, 50):.0f} ms alone; {len(during)} questions",
    )


async def run(place: Place) -> list[Line]:
    """Measure all, over one service with one shard."""
    root = place.scratch / "ingest"
    root.mkdir()
    service = Service(root, "--shards", "1", store=place.store, env=place.server.environ(place.store))
    try:
        await asyncio.to_thread(service.start)
        # The worker loads its model for the first job.
        await _put(place, "first", {"a.md": b"Some text."})
        await asyncio.to_thread(_job, service, "first")
        return [await _pipeline(place, service), *await _questions(place, service), *await _memory(place, service)]
    finally:
        await asyncio.to_thread(service.close)
