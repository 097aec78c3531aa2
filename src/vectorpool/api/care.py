"""Health, recovery and notifications: what operators look at, and what they answer."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Controller, Response, get, post
from litestar.params import PathParameter, QueryParameter

from vectorpool import operating
from vectorpool.api.auditing import audited, who
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.durations import RECOVER_S, SCRUB_S
from vectorpool.api.namespaces import UserId
from vectorpool.api.responses import respond
from vectorpool.care.parts import Care
from vectorpool.errors import (
    CommitConflict,
    HealthNotChecked,
    InvalidRequest,
    NotDamaged,
    NothingToRecoverFrom,
    NotificationNotFound,
    OutcomeUnknown,
    RecoveryNotFound,
    ServiceUnavailable,
    StoreUnavailable,
    UserNotFound,
)
from vectorpool.names import check_user_id
from vectorpool.notifications import Event, Notification, NotificationPage, State
from vectorpool.settings import RecoverInto

DryRun = Annotated[bool, QueryParameter(description="Only show the sources and what each would lose.")]
Into = Annotated[
    RecoverInto | None,
    QueryParameter(
        description="Bring the source's collections back under their own names (same), or under new ones beside the "
        "newest intact commit of the log (new). By default as recover_into says."
    ),
]
RecoveredCommit = Annotated[int, PathParameter(description="The commit that the recovery made.", ge=1)]
Cursor = Annotated[str | None, QueryParameter(description="The next_cursor of the page before.")]
Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="The most notifications of a page.")]
OfState = Annotated[State | None, QueryParameter(name="state", description="Only those in this state.")]
OfEvent = Annotated[Event | None, QueryParameter(name="event", description="Only those of this event.")]
OfUser = Annotated[str | None, QueryParameter(name="user", description="Only those about this user.")]
NotificationId = Annotated[str, PathParameter(description="The id of the notification.")]


def care_of(request: Call) -> Care:
    """Return the parts of the instance that care for what is stored. Raises ServiceUnavailable without them."""
    care = request.service.care
    if care is None:
        raise ServiceUnavailable("This process cares for nothing: it is no instance of the service.")
    return care


class UserCare(Controller):
    """The health of a user."""

    path = "/users/{user_id:str}/health"
    tags = ("users",)

    @get(
        summary="Show the health of a user",
        operation_class=documented(gives=operating.UserHealth, problems=(HealthNotChecked, StoreUnavailable)),
    )
    async def show_user_health(self, request: Call, user_id: UserId) -> Response[Any]:
        """Show what the last check found, here or on another instance: each check, the reason, and what to do."""
        health = await request.context.within(care_of(request).health.last(check_user_id(user_id)))
        return respond(health, commit=health.commit)


class OperatorsCare(Controller):
    """Health, recovery and notifications, for operators."""

    path = "/admin"
    tags = ("admin",)

    @get(
        "/health",
        summary="Show the health that this instance checks",
        operation_class=documented(gives=operating.InstanceHealth, with_commit=False),
    )
    async def show_instance_health(self, request: Call) -> Response[Any]:
        """Show the canary, how many users wait for a check, and those that are not healthy, with reasons."""
        return respond(care_of(request).health.view())

    @post(
        "/users/{user_id:str}/health",
        status_code=200,
        summary="Check the health of a user now",
        operation_class=documented(gives=operating.UserHealth, problems=(UserNotFound, StoreUnavailable)),
    )
    async def check_health(self, request: Call, user_id: UserId) -> Response[Any]:
        """Check a user now: the log's new objects, the newest commit opened, counts, a sample of records, documents."""
        request.context.allow(SCRUB_S)
        checking = care_of(request).health.check(check_user_id(user_id), request.context)
        health = await request.context.within(checking)
        return respond(health, commit=health.commit)

    @post(
        "/users/{user_id:str}/recover",
        status_code=200,
        summary="Recover a damaged vectorstore",
        operation_class=documented(
            gives=operating.Recovery,
            problems=(UserNotFound, NotDamaged, NothingToRecoverFrom, CommitConflict, OutcomeUnknown, StoreUnavailable),
        ),
    )
    async def recover(
        self, request: Call, user_id: UserId, dry_run: DryRun = False, into: Into = None
    ) -> Response[Any]:
        """Make the state of the best source the newest, as a new commit; the damaged objects stay in the log.

        The best source has the newest commit: an open replica of this instance, an intact commit, a backup, the copy at
        a target, or nothing but the source documents. With `into=new` its collections come back as
        `NAME-recovered-COMMIT`, beside what the log alone gives. Documents are ingested again in each case. A deleted
        user is never recovered.
        """
        request.context.allow(RECOVER_S)
        recoveries = care_of(request).recoveries
        check_user_id(user_id)
        if dry_run:
            plan = await request.context.within(recoveries.plan(user_id, request.context, into))
            return respond(operating.Recovery(plan), commit=plan.commit)
        working = recoveries.recover(user_id, request.context, who(request), into)
        done = await request.context.within(working, changes=True)
        return respond(done, commit=done.report.commit if done.report is not None else None)

    @get(
        "/users/{user_id:str}/recoveries/{commit:int}",
        summary="Show the report of a recovery",
        operation_class=documented(
            gives=operating.RecoveryReport, problems=(RecoveryNotFound, StoreUnavailable), with_commit=False
        ),
    )
    async def show_recovery(self, request: Call, user_id: UserId, commit: RecoveredCommit) -> Response[Any]:
        """Show what a recovery did: its source, the commits that it lost, the documents that were ingested again."""
        return respond(await request.context.within(care_of(request).recoveries.report(check_user_id(user_id), commit)))

    @get(
        "/users/{user_id:str}/recoveries/{commit:int}/records",
        summary="List the records of a recovery",
        operation_class=documented(
            gives=operating.RecoveredPage,
            problems=(RecoveryNotFound, InvalidRequest, StoreUnavailable),
            with_commit=False,
        ),
    )
    async def list_recovered(
        self, request: Call, user_id: UserId, commit: RecoveredCommit, cursor: Cursor = None
    ) -> Response[Any]:
        """List every record that a recovery brought back, a thousand a page."""
        listing = care_of(request).recoveries.records(check_user_id(user_id), commit, cursor)
        return respond(await request.context.within(listing))

    @get(
        "/notifications",
        summary="List notifications",
        operation_class=documented(
            gives=NotificationPage, problems=(InvalidRequest, StoreUnavailable), with_commit=False
        ),
    )
    async def list_notifications(
        self,
        request: Call,
        of_state: OfState = None,
        of_event: OfEvent = None,
        of_user: OfUser = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Response[Any]:
        """List what operators should know: damage, recoveries, failed exports, quotas, dead jobs, the canary."""
        listing = care_of(request).notifications.page(
            limit=limit,
            cursor=cursor,
            state=of_state,
            event=of_event,
            user_id=None if of_user is None else check_user_id(of_user),
        )
        return respond(await request.context.within(listing))

    @post(
        "/notifications/{notification:str}/acknowledge",
        status_code=200,
        summary="Acknowledge a notification",
        operation_class=documented(
            gives=Notification, problems=(InvalidRequest, NotificationNotFound, StoreUnavailable), with_commit=False
        ),
    )
    async def acknowledge(self, request: Call, notification: NotificationId) -> Response[Any]:
        """Note that a notification was seen. It opens again if the event is told again."""
        async with audited(request, "acknowledge-notification", notification=notification[:64]):
            seen = care_of(request).notifications.acknowledge(notification, request.caller.name)
            return respond(await request.context.within(seen, changes=True))
