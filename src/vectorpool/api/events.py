"""Events of the object store: documents that other programs changed are synced when the store says so."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Response, post

from vectorpool.api.bodies import body_of
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.jobs import jobs_of
from vectorpool.api.responses import respond
from vectorpool.api.views import EventsTaken
from vectorpool.documents.events import StoreEventBody, read_events
from vectorpool.errors import InvalidRequest, JobsNotInstalled, JobsUnavailable, LimitExceeded, MalformedJson, QueueFull
from vectorpool.objects.stores import place_of

# More paths of one avatar become a sync of all of it.
_MOST_PATHS = 500


class StoreEvents(Controller):
    """What a bucket's notifications are sent to."""

    path = "/admin/events"
    tags = ("admin",)

    @post(
        "/s3",
        status_code=200,
        summary="Take events of the object store",
        operation_class=documented(
            takes=StoreEventBody,
            gives=EventsTaken,
            problems=(MalformedJson, InvalidRequest, LimitExceeded, QueueFull, JobsNotInstalled, JobsUnavailable),
            with_commit=False,
        ),
    )
    async def take_s3_events(self, request: Call) -> Response[Any]:
        """Have the documents synced that events of S3, MinIO, SNS or EventBridge name; other objects are ignored.

        It answers when the syncs are noted. After any other answer the sender has to send the events again, which is
        safe.
        """
        body = bytes(await body_of(request))
        changed = read_events(body, *place_of(request.service.settings))
        jobs = jobs_of(request)
        for (user_id, avatar_id), paths in changed.paths.items():
            named = paths if len(paths) <= _MOST_PATHS else None
            await request.context.within(jobs.sync(user_id, avatar_id, named), changes=True)
        documents = sum(map(len, changed.paths.values()))
        return respond(EventsTaken(avatars=len(changed.paths), documents=documents, ignored=changed.ignored))
