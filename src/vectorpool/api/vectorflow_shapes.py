"""Bodies of VectorFlow's protocol, in its words."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

_MOST_NUMBERS: Final = 1000
EXAMPLE_NUMBER: Final = 1_780_000_000_000_000


class VectorFlowJobsBody(msgspec.Struct, frozen=True):
    """The jobs whose states are asked for."""

    job_ids: Annotated[
        list[int], Meta(max_length=_MOST_NUMBERS, description="JobIDs.", examples=[[EXAMPLE_NUMBER]])
    ] = msgspec.field(name="JobIDs")


class VectorFlowJob(msgspec.Struct):
    """The job that ingests a file, in VectorFlow's words."""

    message: str
    job_id: int = msgspec.field(name="JobID")


class VectorFlowUploads(msgspec.Struct):
    """What became of several files: jobs by file name, and names of files that were refused."""

    message: str
    successful_uploads: dict[str, int]
    failed_uploads: list[str]
    empty_files_count: int
    duplicate_files_count: int


class VectorFlowStatus(msgspec.Struct):
    """The state of a job: NOT_STARTED, IN_PROGRESS, COMPLETED, PARTIALLY_COMPLETED, FAILED."""

    job_status: str = msgspec.field(name="JobStatus")


class VectorFlowJobs(msgspec.Struct):
    """The states of jobs, each as JobID and JobStatus."""

    jobs: list[dict[str, Any]] = msgspec.field(name="Jobs")
