"""Health: the process runs; the instance takes work."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Response, get

from vectorpool.api import views
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.responses import respond
from vectorpool.errors import Draining


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
        operation_class=documented(gives=views.Health, problems=(Draining,), with_commit=False, is_open=True),
    )
    async def is_ready(
        self,
        request: Call,
    ) -> Response[Any]:
        """Answer 200 while the shards run, 503 before and after. Send no requests on 503."""
        ready = request.service.router.is_ready()
        return respond(views.Health(status="ready" if ready else "not-ready"), status=200 if ready else 503)
