"""Rows of the record of jobs, as what callers are shown and as what a run works with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from vectorpool.commands import PipelineChoice
from vectorpool.documents.reports import DocumentOutcome
from vectorpool.jobs.views import Job, JobCounts, JobKind, JobOptions, Transfer


class Work(msgspec.Struct, frozen=True):
    """A job that begins to run: what it is to do, and what an earlier run of it did."""

    job_id: str
    user_id: str
    avatar_id: str
    kind: JobKind
    paths: list[str] | None
    force: bool
    choice: PipelineChoice | None
    run: int
    deaths: int
    path: str | None
    attempt: int
    options: JobOptions | None
    number: int | None
    created_ms: int
    traceparent: str
    done: dict[str, DocumentOutcome]
    transfer: Transfer | None = None
    started_ms: int = 0


def work_of(row: Any, run: int, deaths: int, started_ms: int, documents: Iterable[Any]) -> Work:
    """Return the work of a job that begins its next run; ``documents`` are the rows of its outcomes."""
    return Work(
        job_id=row.id,
        user_id=row.user_id,
        avatar_id=row.avatar_id,
        kind=row.kind,
        paths=msgspec.json.decode(row.paths, type=list[str] | None),
        force=row.force,
        choice=msgspec.json.decode(row.choice, type=PipelineChoice | None),
        run=run,
        deaths=deaths,
        path=row.path,
        attempt=row.attempt,
        options=msgspec.json.decode(row.options, type=JobOptions | None),
        number=row.number,
        created_ms=row.created_ms,
        traceparent=row.traceparent,
        done={each.path: msgspec.json.decode(each.outcome, type=DocumentOutcome) for each in documents},
        transfer=transfer_of(row),
        started_ms=started_ms,
    )


def job_of(row: Any) -> Job:
    """Return a job as callers are shown it, without its documents."""
    return Job(
        job_id=row.id,
        state=row.state,
        avatar_id=row.avatar_id,
        kind=row.kind,
        created_ms=row.created_ms,
        attempt=row.attempt,
        started_ms=row.started_ms,
        finished_ms=row.finished_ms,
        counts=msgspec.json.decode(row.counts, type=JobCounts),
        commit=row.commit,
        path=row.path,
        code=row.code,
        reason=row.reason,
        version=row.version,
        number=row.number,
        transfer=transfer_of(row),
    )


def transfer_of(row: Any) -> Transfer | None:
    """Return what an export or import moves; None for other jobs."""
    return msgspec.json.decode(row.transfer, type=Transfer | None)


def anew(transfer: Transfer | None) -> Transfer | None:
    """Return what was asked for, with nothing done."""
    return transfer and Transfer(transfer.target, transfer.at, transfer.source_user)


def encoded(value: Any) -> str:
    """Return a value as the JSON of a column."""
    return msgspec.json.encode(value).decode()
