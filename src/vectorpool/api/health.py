"""Health: the process runs; the instance takes work."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Response, get

from vectorpool.api import views
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.responses import respond
from vectorpool.api.service import Service
from vectorpool.errors import Draining
from vectorpool.supervision import down


class Health(Controller):
    """For load balancers and supervisors."""

    path = "/health"
    tags = ("health",)

    @get(
        "/live", summary="Is it alive", operation_class=documented(gives=views.Health, with_commit=False, is_open=True)
    )
    async def is_live(self) -> Response[Any]:
        """Answer as long as the process runs. Restart it if this stays silent."""
        return respond(views.Health(status="live"))

    @get(
        "/ready",
        summary="Does it take work",
        operation_class=documented(gives=views.Readiness, problems=(Draining,), with_commit=False, is_open=True),
    )
    async def is_ready(self, request: Call) -> Response[Any]:
        """Answer 200 while the shards and the essential background tasks run, else 503. Send no requests on 503.

        A background task that fails is started again by itself, and is listed until it runs.
        """
        found = await readiness(request.service)
        return respond(found, status=200 if found.status == "ready" else 503)


async def readiness(service: Service) -> views.Readiness:
    """Return whether the instance takes work."""
    tasks = service.supervisor.view() + await service.router.tasks()
    failing = [task for task in tasks if task.state in ("restarting", "down")]
    if not service.router.is_ready():
        return views.Readiness("not-ready", failing)
    return views.Readiness("task-down" if down(tasks) else "ready", failing)
