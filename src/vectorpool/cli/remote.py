"""The documents of an avatar through a running service, by its HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from vectorpool.cli.service_client import check_url, problem_of, token_of
from vectorpool.documents.library import DocumentPage
from vectorpool.documents.reports import DocumentOutcome, IngestProgress, IngestReport
from vectorpool.errors import (
    InvalidRequest,
    NotFound,
    ShardUnavailable,
    TryAgain,
    VectorpoolError,
)

_ATTEMPTS: Final = 6
_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0
# An ingest is waited for this long in one request; a job is asked for again.
_INGEST_S: Final = 3660.0
_JOB_WAIT_S: Final = 5.0


class Remote:
    """A service at a URL. What fails for a time is sent again, a bounded number of times."""

    def __init__(self, client: httpx.AsyncClient, user_id: str, avatar_id: str) -> None:
        self._client = client
        self._avatar = f"/users/{quote(user_id, safe='')}/avatars/{quote(avatar_id, safe='')}"

    @staticmethod
    @asynccontextmanager
    async def open(url: str, token_file: Path | None, user_id: str, avatar_id: str) -> AsyncIterator[Remote]:
        """Yield the documents of an avatar at a service. Raises Misconfigured for what is no URL of one."""
        token = token_of(token_file)
        url = check_url(url, token)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        timeout = httpx.Timeout(60.0, connect=10.0)
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout) as client:
            yield Remote(client, user_id, avatar_id)

    async def known(self) -> AsyncIterator[tuple[str, int, str]]:
        """Yield path, bytes and ETag of every document of the avatar."""
        after: dict[str, str] = {}
        while True:
            try:
                answer = await self._ask("GET", f"{self._avatar}/documents", params=after)
            except NotFound:
                # Neither the user nor the avatar needs to be there before.
                return
            page = msgspec.json.decode(answer.content, type=DocumentPage)
            for document in page.documents:
                if not document.missing:
                    yield document.path, document.size, document.etag
            if page.next_after is None:
                return
            after = {"after": page.next_after}

    def _path(self, path: str) -> str:
        return f"{self._avatar}/documents/{quote(path)}"

    async def read(self, path: str) -> bytes:
        """Return a document's bytes."""
        return (await self._ask("GET", self._path(path))).content

    async def put(self, path: str, data: bytes) -> None:
        """Write a document."""
        await self._ask("PUT", self._path(path), content=data)

    async def delete(self, path: str) -> None:
        """Delete a document with its records; it is no error if it is gone."""
        try:
            await self._ask("DELETE", self._path(path))
        except NotFound:
            return

    async def ingest(self, paths: list[str], *, force: bool, show: Callable[[IngestProgress], None]) -> IngestReport:
        """Make records of these documents, at most 10,000 in one request, and wait for the end."""
        outcomes: list[DocumentOutcome] = []
        commit = 0
        for start in range(0, len(paths), 10_000):
            body = {"paths": paths[start : start + 10_000], "force": force}
            answer = await self._ask("POST", f"{self._avatar}/ingest", json=body, timeout=_INGEST_S)
            report = await self._finished(answer, len(outcomes), len(paths), show)
            outcomes += report.documents
            commit = max(commit, report.commit)
            show(IngestProgress(len(outcomes), len(paths), sum(outcome.chunks for outcome in outcomes), ""))
        return IngestReport(outcomes, commit)

    async def _finished(
        self, answer: httpx.Response, before: int, total: int, show: Callable[[IngestProgress], None]
    ) -> IngestReport:
        """Return the report that an answer has, or that the job has whose place it names, when it is finished."""
        place = answer.headers.get("location")
        if answer.status_code != 202 or place is None:
            return msgspec.json.decode(answer.content, type=IngestReport)
        while True:
            job = (await self._ask("GET", place, params={"wait_s": _JOB_WAIT_S})).json()
            counts: dict[str, Any] = job.get("counts", {})
            done = sum(counts.get(name, 0) for name in ("ingested", "unchanged", "removed", "missing", "failed"))
            show(IngestProgress(before + done, total, counts.get("chunks", 0), job.get("path") or ""))
            if job["state"] not in ("queued", "running"):
                break
            await asyncio.sleep(_PAUSE_S)
        if job["state"] != "done":
            reason = job.get("reason") or "it was ended by somebody else"
            raise InvalidRequest(f"The job {job['job_id']} is {job['state']}: {reason}")
        outcomes = msgspec.convert(job.get("documents") or [], list[DocumentOutcome])
        while job.get("next_after"):
            job = (await self._ask("GET", place, params={"after": job["next_after"]})).json()
            outcomes += msgspec.convert(job.get("documents") or [], list[DocumentOutcome])
        return IngestReport(outcomes, job.get("commit", 0))

    async def _ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Return an answer of success. Raises the error that the service answers, or ShardUnavailable."""
        for attempt in range(1, _ATTEMPTS + 1):
            error: VectorpoolError
            try:
                answer = await self._client.request(method, path, **arguments)
            except httpx.HTTPError as failure:
                error = ShardUnavailable(
                    f"The service at {self._client.base_url} does not answer ({type(failure).__name__}). Is it there?"
                )
            else:
                if answer.is_success:
                    return answer
                error = problem_of(answer)
                after = answer.headers.get("retry-after", "")
                error.retry_after_s = float(after) if after.isdigit() else error.retry_after_s
                if not isinstance(error, TryAgain):
                    raise error
            if attempt == _ATTEMPTS:
                raise error
            await asyncio.sleep(min(error.retry_after_s or _PAUSE_S * 2**attempt, _LONGEST_PAUSE_S))
        raise AssertionError("the loop returns or raises")
