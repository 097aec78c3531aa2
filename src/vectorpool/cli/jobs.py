"""``vectorpool worker`` and ``vectorpool jobs``: run jobs of a service, and look after them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

import click
import httpx
import msgspec

from vectorpool.cli.console import err, out, progress_bar
from vectorpool.errors import InternalError, JobsNotInstalled, Misconfigured, ServiceUnavailable
from vectorpool.jobs.installed import NOT_INSTALLED, are_jobs_installed
from vectorpool.jobs.views import FINISHED, Job, JobPage
from vectorpool.names import check_avatar_id, check_user_id
from vectorpool.settings import Settings

_TIMEOUT_S: Final = 60.0
_WAIT_S: Final = 5
_PAGE: Final = 1000


def worker(settings: Settings) -> None:
    """Run jobs until a signal. Raises Misconfigured, JobsNotInstalled, JobsUnavailable."""
    if not settings.jobs_url.startswith("postgres"):
        raise Misconfigured(
            "A worker of its own needs the database that the instances share. Set VECTORPOOL_JOBS_URL to a "
            "postgresql:// URL; an instance with a file of its own has its worker already."
        )
    if not settings.service_url:
        raise Misconfigured("A worker sends what it makes to the service. Set VECTORPOOL_SERVICE_URL to its URL.")
    if not are_jobs_installed():
        raise JobsNotInstalled(NOT_INSTALLED)
    process = importlib.import_module("vectorpool.jobs.process")
    process.serve_alone(settings, lambda: click.echo(f"vectorpool worker runs jobs of {settings.service_url}"))


def jobs(
    settings: Settings,
    user_id: str,
    job_id: str | None,
    avatar_id: str | None,
    state: str | None,
    action: str | None,
) -> int:
    """List jobs, or do something with one; return 1 if it failed, or a document of it."""
    service = _Service(settings, check_user_id(user_id))
    if job_id is None:
        query = {"avatar": None if avatar_id is None else check_avatar_id(avatar_id), "state": state}
        for job in service.all_jobs({name: value for name, value in query.items() if value is not None}):
            out.print(_line(job), markup=False)
        return 0
    if action == "cancel":
        job = service.job("DELETE", job_id)
    elif action == "retry":
        job = service.job("POST", f"{job_id}/retry")
    else:
        job = _follow(service, job_id) if action == "follow" else service.job("GET", job_id)
        for outcome in job.documents or []:
            if outcome.status == "failed":
                err.print(f"{outcome.path}: {outcome.reason}", style="red", markup=False)
    out.print(_line(job), markup=False)
    if job.reason:
        err.print(job.reason, style="red", markup=False)
    return 1 if action in (None, "follow") and (job.state == "failed" or job.counts.failed) else 0


def _follow(service: _Service, job_id: str) -> Job:
    job = service.job("GET", job_id)
    with progress_bar() as bar:
        shown = bar.add_task("Ingesting", total=None, note="")
        while True:
            counts = job.counts
            note = f"{counts.chunks} chunks, {job.path or job.state}"
            bar.update(shown, completed=counts.done, total=counts.total or None, note=note)
            if job.state in FINISHED:
                return job
            job = service.job("GET", f"{job_id}?wait_s={_WAIT_S}")


def _line(job: Job) -> str:
    counts = job.counts
    return (
        f"{job.job_id}  {job.state:9}  avatar {job.avatar_id}  {counts.ingested} ingested ({counts.chunks} chunks), "
        f"{counts.unchanged} unchanged, {counts.removed} removed, {counts.failed} failed"
    )


class _Service:
    """The routes of a user's jobs at a service."""

    def __init__(self, settings: Settings, user_id: str) -> None:
        if not settings.service_url:
            raise Misconfigured("Jobs are a running service's. Set VECTORPOOL_SERVICE_URL to its URL.")
        headers = {"Authorization": f"Bearer {settings.service_token}"} if settings.service_token else {}
        self._path = f"/users/{quote(user_id, safe='')}/jobs"
        self._client = httpx.Client(base_url=settings.service_url.rstrip("/"), headers=headers, timeout=_TIMEOUT_S)

    def all_jobs(self, query: dict[str, str]) -> Iterator[Job]:
        after = ""
        while True:
            asked: dict[str, Any] = {**query, "limit": _PAGE, "after": after}
            page = msgspec.json.decode(self._ask("GET", self._path, asked), type=JobPage)
            yield from page.jobs
            if page.next_after is None:
                return
            after = page.next_after

    def job(self, method: str, rest: str) -> Job:
        return msgspec.json.decode(self._ask(method, f"{self._path}/{rest}"), type=Job)

    def _ask(self, method: str, path: str, query: dict[str, Any] | None = None) -> bytes:
        try:
            response = self._client.request(method, path, params=query)
        except httpx.HTTPError as error:
            raise ServiceUnavailable(f"The service does not answer: {error or type(error).__name__}.") from None
        if response.is_success:
            return response.content
        try:
            detail = str(msgspec.json.decode(response.content)["detail"])
        except (msgspec.DecodeError, KeyError, TypeError):
            detail = f"The service answered {response.status_code}."
        raise InternalError(detail)
