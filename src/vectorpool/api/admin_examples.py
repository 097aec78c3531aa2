"""Examples of the answers of ``/admin``, for the OpenAPI document."""

from __future__ import annotations

from typing import Final

import msgspec

from vectorpool import answers, operating
from vectorpool.api import views
from vectorpool.audit import AuditPage, Entry
from vectorpool.notifications import Notification, NotificationPage

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

_CHECKS: Final = [
    operating.HealthCheck(
        "log",
        "failed",
        "log/999999999982 was cut",
        "Look at POST /admin/users/{user_id}/recover?dry_run=true, then recover.",
    )
]
_HEALTH: Final = operating.UserHealth("42", "damaged", 17, 0, 1_780_000_000_000, _CHECKS)
_SOURCE: Final = operating.RecoverySource(
    "commit", 16, 540, time_ms=1_780_000_000_000, lost_commits=1, lost_added=6, lost_deleted=0, unreadable=0
)
_PLAN: Final = operating.RecoveryPlan("42", True, 17, "log/999999999982 was cut", _SOURCE, [_SOURCE])
_REPORT: Final = operating.RecoveryReport(
    "42",
    18,
    _SOURCE,
    "log/999999999982 was cut",
    1_780_000_000_000,
    540,
    1,
    [operating.LostCommit(17, damage="it was cut")],
    reingested=["7"],
    caller="operator",
)
_NOTIFICATION: Final = Notification(
    "0a1b2c3d0a1b2c3d0a1b2c3d0a1b2c3d",
    "damage-found",
    "open",
    1_780_000_000_000,
    1_780_000_000_000,
    user_id="42",
    reason="log/999999999982 was cut",
    remedy="Look at POST /admin/users/{user_id}/recover?dry_run=true, then recover.",
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
    operating.UserHealth: _HEALTH,
    operating.InstanceHealth: operating.InstanceHealth(
        operating.CanaryView("ok", "vectorpool-canary-7f", 1_780_000_000_000, 12.5),
        waiting=0,
        checked={"healthy": 12, "damaged": 1},
        unwell=[_HEALTH],
        last_round_ms=1_780_000_000_000,
    ),
    operating.Recovery: operating.Recovery(_PLAN, _REPORT),
    operating.RecoveryReport: _REPORT,
    operating.RecoveredPage: operating.RecoveredPage([operating.RecoveredRecord("notes", "note-1", None, 16)]),
    Notification: _NOTIFICATION,
    NotificationPage: NotificationPage([_NOTIFICATION]),
    AuditPage: AuditPage(entries=[_ENTRY]),
    views.EventsTaken: views.EventsTaken(avatars=1, documents=1, ignored=0),
    views.OperatorsReadiness: views.OperatorsReadiness(
        status="starting", reasons=["Shard 0 is starting."], store="answers", shards=[_SHARD], tasks=[]
    ),
}
