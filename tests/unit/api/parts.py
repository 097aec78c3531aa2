"""An application over a router that only remembers, an embedder that counts letters, and a bucket in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

import httpx
import msgspec
import numpy as np

from vectorpool.allowances.allowances import Allowances
from vectorpool.answers import Answer, Forked, PoolView, TaskView
from vectorpool.api.service import Service
from vectorpool.app import create_app
from vectorpool.audit import Audit
from vectorpool.care.parts import open_care
from vectorpool.chroma_bodies import Target, decode_body
from vectorpool.commands import Fork, ListRestored
from vectorpool.context import RequestContext
from vectorpool.documents.ingest import Ingestor
from vectorpool.documents.library import DocumentLibrary
from vectorpool.embedding.tokens import Tokens, load_word_pieces
from vectorpool.front.pipeline import Pipeline
from vectorpool.jobs.client import Jobs
from vectorpool.jobs.protocol import ListJobs
from vectorpool.jobs.views import EXAMPLE_JOB, JobPage
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.watch import StoreWatch
from vectorpool.operating import ShardView
from vectorpool.settings import Settings
from vectorpool.shard.router import QuotaOf
from vectorpool.sources import SYSTEM, Sources
from vectorpool.telemetry.figures import Figures


class FakeRouter:
    """Remembers commands and answers each with the same bytes; no restore brought a document."""

    body = b'{"as":"it came",  "spaces":"kept"}'

    def __init__(self) -> None:
        self.ready = True
        self.restarts: list[tuple[int, bool]] = []
        self.shown_tasks: list[TaskView] = []
        self.commands: list[tuple[str, Any]] = []
        self.contexts: list[RequestContext] = []

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.ready = False

    def limit(self, quota_of: QuotaOf) -> None:
        pass

    def is_ready(self) -> bool:
        return self.ready

    async def execute(self, user_id: str, command: Any, context: RequestContext) -> Answer:
        self.contexts.append(context)
        self.commands.append((user_id, command))
        if isinstance(command, ListRestored):
            return Answer(b'{"documents":[]}', 17)
        if isinstance(command, Fork):
            return Answer(msgspec.json.encode(Forked(command.target_user_id, 1)), 1)
        return Answer(self.body, 17)

    async def execute_body(
        self, user_id: str, target: Target, body: AsyncIterator[bytes], context: RequestContext
    ) -> Answer:
        whole = b"".join([data async for data in body])
        return await self.execute(user_id, decode_body(target, whole, Settings()), context)

    def process_ids(self) -> list[int]:
        return []

    async def press(self, *, is_short: bool) -> None:
        pass

    async def tasks(self) -> list[TaskView]:
        return self.shown_tasks

    def shards(self) -> list[ShardView]:
        return [ShardView(0, "ready" if self.ready else "starting", 1, 0, 1, 0)]

    async def restart_shard(self, number: int, *, force: bool) -> ShardView:
        self.restarts.append((number, force))
        return self.shards()[0]

    async def pool_view(self) -> PoolView:
        return PoolView(slots=[], open_slots=0, open_slots_limit=1, local_bytes=0, local_bytes_limit=1, waiting=0)


class LetterEmbedder:
    """Four numbers a text: how many a, e, i and o."""

    name = "letters"
    dimension = 4
    max_tokens = 100

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.users: list[str] = []

    @cached_property
    def tokenizer(self) -> Tokens:
        return Tokens(load_word_pieces())

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def embed(self, texts: Sequence[str], user_id: str = "") -> np.ndarray[Any, np.dtype[np.float32]]:
        self.asked.append(list(texts))
        self.users.append(user_id)
        return np.array([[text.count(letter) for letter in "aeio"] for text in texts], dtype=np.float32)


class FakeJobs(Jobs):
    """Remembers requests and what was scheduled, and answers each about one finished job of avatar 7."""

    def __init__(self) -> None:
        super().__init__(Settings(), lambda: "http://127.0.0.1:1")
        self.requests: list[Any] = []
        self.scheduled: list[tuple[str, str, str | None]] = []

    async def request(self, request: Any, *, answer_s: float = 1.0) -> bytes:
        self.requests.append(request)
        return msgspec.json.encode(JobPage([EXAMPLE_JOB]) if isinstance(request, ListJobs) else EXAMPLE_JOB)

    def schedule(self, user_id: str, avatar_id: str, path: str | None) -> None:
        self.scheduled.append((user_id, avatar_id, path))


def application(router: FakeRouter, settings: Settings | None = None, sources: Sources = SYSTEM) -> Pipeline:
    """Return the application over these parts."""
    settings = settings or Settings()
    embedder = LetterEmbedder()
    bucket = MemoryBucket()
    library = DocumentLibrary(bucket, settings)
    ingestor, allowances = Ingestor(library, embedder, router, settings), Allowances(settings, sources)
    allowances.documents.open(bucket)
    audit, store, jobs = Audit(bucket, settings), StoreWatch(bucket, SYSTEM), FakeJobs()
    care = open_care(router, library, audit, allowances, settings, SYSTEM, Figures(), jobs)
    service = Service(
        settings, router, embedder, library, ingestor, audit, store, allowances=allowances, jobs=jobs, care=care
    )
    return create_app(settings, service=service)


@asynccontextmanager
async def talk(app: Pipeline) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client that calls the application without a network."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client
