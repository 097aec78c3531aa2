"""Examples of the answers of ``/admin``, for the OpenAPI document."""

from __future__ import annotations

from typing import Final

import msgspec

from vectorpool import answers, operating
from vectorpool.api import views
from vectorpool.audit import AuditPage, Entry

_SHARD: Final = operating.ShardView(
    shard=0, state="ready", process_id=4711, requests=3, starts=1, deaths=0, ready_since_ms=1_780_000_000_000
)
_TASK: Final = answers.TaskView(
    "verification rounds",
    "running",
    is_essential=False,
    starts=1,
    failures=0,
    failures_in_a_row=0,
    shard=0,
    next_run_ms=1_780_000_060_000,
)
_ENTRY: Final = Entry(
    time_ms=1_780_000_000_000,
    id="0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d",
    action="delete-all",
    outcome="done",
    caller="operator",
    user_id="42",
    request_id="a-request",
    detail={"commit": 18, "objects": 20, "documents": 3},
)

ADMIN_EXAMPLES: Final[dict[type[msgspec.Struct], msgspec.Struct]] = {
    operating.UserPage: operating.UserPage(
        users=[operating.UserRow("42", commit=17, time_ms=1_780_000_000_000, bytes=1_261_568)], next_cursor="NDI"
    ),
    operating.ShardView: _SHARD,
    operating.ShardPage: operating.ShardPage([_SHARD]),
    operating.TaskPage: operating.TaskPage([_TASK]),
    operating.Compacted: operating.Compacted(objects=1, bytes=402_133),
    operating.Imported: operating.Imported(user_id="42", commit=1, files=6, bytes=1_261_568),
    AuditPage: AuditPage(entries=[_ENTRY]),
    views.EventsTaken: views.EventsTaken(avatars=1, documents=1, ignored=0),
    views.OperatorsReadiness: views.OperatorsReadiness(
        status="starting", reasons=["Shard 0 is starting."], store="answers", shards=[_SHARD], tasks=[]
    ),
}
