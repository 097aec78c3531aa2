"""Why the database of jobs did not answer, and what is to be done about it."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from vectorpool.errors import JobsUnavailable
from vectorpool.platform.local_disk import as_disk_failure


def unanswered(error: sa.exc.DBAPIError) -> JobsUnavailable:
    """Return the error of a statement that failed: a full disk is told apart, since waiting does not help there."""
    cause = error.orig or error
    if as_disk_failure(cause, Path("/")) is not None:
        return JobsUnavailable(
            f"The database of jobs cannot be written, its disk is full or fails ({cause}). Make room on it, or set "
            "jobs_url to another place. Jobs that are noted go on by themselves then."
        )
    return JobsUnavailable(f"The database of jobs does not answer: {type(cause).__name__}.")
