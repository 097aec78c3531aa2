"""Health: the process runs; the instance takes work."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Response, get

from vectorpool.answers import TaskView
from vectorpool.api import views
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.responses import respond
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
        operation_class=documented(gives=views.Readiness, with_commit=False, is_open=True),
    )
    async def is_ready(self, request: Call) -> Response[Any]:
        """Answer 200 while the instance takes work, else 503, and why in one word. Send no requests on 503.

        ``/admin/ready`` has the reasons.
        """
        status, _ = await readiness(request)
        return respond(views.Readiness(status), status=200 if status == "ready" else 503)


async def readiness(request: Call) -> tuple[views.ReadyStatus, list[TaskView]]:
    """Return whether the instance takes work, and its background tasks."""
    service = request.service
    tasks = service.supervisor.view() + await service.router.tasks()
    if request.app.state.is_draining():
        return "draining", tasks
    if not service.router.is_ready():
        return "starting", tasks
    if service.store.state == "refuses":
        return "store-refused", tasks
    return "task-down" if down(tasks) else "ready", tasks


async def operators_readiness(request: Call) -> views.OperatorsReadiness:
    """Return the same with reasons."""
    status, tasks = await readiness(request)
    service, shards = request.service, request.service.router.shards()
    failing = [task for task in tasks if task.state in ("restarting", "down")]
    reasons = ["The instance shuts down."] if status == "draining" else []
    reasons += [
        f"{'The process of a user in quarantine' if shard.is_isolated else f'Shard {shard.shard}'} is {shard.state}."
        for shard in shards
        if shard.state != "ready"
    ]
    reasons += [service.store.reason] if service.store.reason else []
    for task in failing:
        where = "of the front" if task.shard is None else f"of shard {task.shard}"
        weight = "Requests depend on it." if task.is_essential else "Requests go on without it."
        reasons.append(
            f"The task {task.name!r} {where} is {task.state}, after {task.failures_in_a_row} failures in a row "
            f"({task.last_error}). {weight}"
        )
    return views.OperatorsReadiness(status, reasons, service.store.state, shards, failing)
