"""Syncs that follow from a request, in the background."""

from __future__ import annotations

from vectorpool.api.call import Call
from vectorpool.api.jobs import may_run


def schedule_sync(request: Call, user_id: str, avatar_id: str, path: str | None = None) -> None:
    """Have a document synced, or a whole avatar, if that is set, the instance runs jobs, and the user may."""
    jobs = request.service.jobs
    if request.service.settings.sync_on_write and jobs is not None and may_run(request, user_id):
        jobs.schedule(user_id, avatar_id, path)
