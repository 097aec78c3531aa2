"""Syncs that follow from a request, in the background."""

from __future__ import annotations

from vectorpool.api.call import Call


def schedule_sync(request: Call, user_id: str, avatar_id: str, path: str | None = None) -> None:
    """Have a document synced, or a whole avatar, if that is set and the instance runs jobs."""
    if request.service.settings.sync_on_write and request.service.jobs is not None:
        request.service.jobs.schedule(user_id, avatar_id, path)
