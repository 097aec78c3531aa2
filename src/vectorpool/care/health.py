"""Health: every interval, the users that were used since are looked at, each by its shard, one at a time.

A user's check is the shard's (the log's new objects, the newest commit opened, counts, samples) and this module's: the
listing of source documents beside the registry. A check that fails is made again, from nothing, before it is believed.
What was found is one object beside the log, so that instances share the work: a user whom another instance checked
within half of the interval is passed over.

*Bounds.* One user at a time, ``_USER_S`` for each; ``_MOST_DOCUMENTS`` documents are compared; the shard reads at
``verify_bytes_per_s``. A store that does not answer ends the round; the users that are left wait for the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, TypeAlias

import msgspec

from vectorpool import names
from vectorpool.answers import Ingested, IngestedPage
from vectorpool.care.users import UsedUsers
from vectorpool.commands import CheckHealth, ListIngested, ReadOptions
from vectorpool.commitlog.ending import newest_header
from vectorpool.commitlog.fetch import store_errors
from vectorpool.commitlog.json_objects import load_json, save_json
from vectorpool.context import RequestContext
from vectorpool.documents.comparison import paired
from vectorpool.documents.library import Document, DocumentLibrary
from vectorpool.documents.router import Router
from vectorpool.errors import (
    AvatarNotFound,
    Damaged,
    HealthNotChecked,
    StoreUnavailable,
    TryAgain,
    UserNotFound,
    VectorpoolError,
)
from vectorpool.limits import Quota
from vectorpool.notifications import Notifications
from vectorpool.operating import CanaryView, Checkup, HealthCheck, HealthState, InstanceHealth, UserHealth
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.supervision import rest
from vectorpool.telemetry.families import HEALTH_CHECKS, HEALTH_UNWELL, HEALTH_WAITING
from vectorpool.telemetry.figures import Figures, Sample

logger = logging.getLogger(__name__)

# The longest check of one user: a large log that is new to the check is read at verify_bytes_per_s.
_USER_S: Final = 900.0
# The wait before a failing check is made again.
_AGAIN_S: Final = 2.0
_MOST_DOCUMENTS: Final = 10_000
_PAGE: Final = 1000
_MOST_UNWELL: Final = 1000
_MOST_KNOWN: Final = 10_000
_NEAR: Final = 0.9
_DAMAGE: Final = frozenset({"log", "opens", "counts", "samples"})
_SYNC: Final = "POST /users/{user_id}/avatars/{avatar_id}/ingest makes records and documents agree."

# Called with a user whose damage was believed; returns whether that is over, else it is called in the next round too.
OnDamage: TypeAlias = Callable[[str], Awaitable[bool]]
QuotaOf: TypeAlias = Callable[[str], Quota | None]


class HealthRecord(msgspec.Struct):
    """What is stored of a check: what is shown, and what the next check need not read again."""

    health: UserHealth
    known: list[str] = []


class HealthChecks:
    """The health checks of an instance. Belongs to one event loop."""

    def __init__(
        self,
        router: Router,
        library: DocumentLibrary,
        notifications: Notifications,
        settings: Settings,
        sources: Sources,
        figures: Figures,
        *,
        used: UsedUsers,
        quota_of: QuotaOf = lambda user_id: None,
        on_damage: OnDamage | None = None,
        canary: Callable[[], CanaryView] = lambda: CanaryView("off"),
    ) -> None:
        self._router = router
        self._library = library
        self._notifications = notifications
        self._settings = settings
        self._sources = sources
        self._figures = figures
        self._used = used
        self._quota_of = quota_of
        self._on_damage = on_damage
        self._canary = canary
        self._waiting: list[str] = []
        self._last_round_ms: int | None = None
        # The last states of users, those checked longest ago first.
        self._states: OrderedDict[str, HealthState] = OrderedDict()
        self._unwell: OrderedDict[str, UserHealth] = OrderedDict()

    # --- Rounds --------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Check the users that were used, every interval, until cancelled."""
        while True:
            # Instances that started together drift apart, so that one finds what the other has just checked.
            await rest(self._sources, self._settings.health_interval_s * (0.75 + 0.5 * self._sources.random()))
            await self.round()

    async def round(self) -> None:
        """Check the users that were used since the last round."""
        self._waiting = sorted({*self._waiting, *self._used.take()})
        while self._waiting:
            at = int(self._sources.random() * len(self._waiting))
            self._waiting[at], self._waiting[-1] = self._waiting[-1], self._waiting[at]
            user_id = self._waiting[-1]
            try:
                await self._check_in_round(user_id)
            except StoreUnavailable as error:
                logger.warning("a round of health checks ended early: %s", error.detail)
                return
            except VectorpoolError as error:
                logger.warning("the health of a user could not be checked: %s", error.code)
                self._figures.counter(HEALTH_CHECKS, "unknown").add()
            self._waiting.pop()
        self._last_round_ms = self._sources.now_ms()

    async def _check_in_round(self, user_id: str) -> None:
        last = await self._load(user_id)
        fresh_ms = self._settings.health_interval_s * 500
        if last is not None and 0 <= self._sources.now_ms() - last.health.checked_at_ms < fresh_ms:
            self._figures.counter(HEALTH_CHECKS, "skipped").add()
            self._remember(last.health)
            if last.health.state == "damaged":
                await self._damaged(user_id)
            return
        try:
            health = await self.check(user_id)
        except UserNotFound:
            return
        if health.state == "damaged":
            await self._damaged(user_id)

    async def _damaged(self, user_id: str) -> None:
        if self._on_damage is not None and not await self._on_damage(user_id):
            self._used.note(user_id)

    # --- One user ------------------------------------------------------------------------------------

    async def check(self, user_id: str, context: RequestContext | None = None) -> UserHealth:
        """Check a user now, store what was found, and tell it if it is damage. ``context``: of the request that asks.

        Raises UserNotFound, StoreUnavailable, and what the shard raises.
        """
        context = context or self._context()
        async with asyncio.timeout(_USER_S):
            last = await self._load(user_id)
            first, checkup = await self._look(user_id, last, context)
            if first.state not in ("healthy", "unknown"):
                await self._sources.sleep(_AGAIN_S)
                # From nothing: what the first look took for known may be what is wrong. What was seen stays seen.
                again, checkup = await self._look(user_id, last, context, forget=True)
                first = _agreed(first, again)
        known = checkup.known if first.state in ("healthy", "degraded") else []
        await save_json(self._library.bucket, names.health_key(user_id), HealthRecord(first, known))
        await self._leave_nothing_of_a_deleted_user(user_id)
        self._figures.counter(HEALTH_CHECKS, first.state).add()
        self._remember(first)
        await self._tell(first, checkup)
        return first

    async def _leave_nothing_of_a_deleted_user(self, user_id: str) -> None:
        """Remove what was stored if the user was deleted during the check. Raises UserNotFound then."""
        bucket = self._library.bucket
        try:
            newest = await newest_header(bucket, user_id)
        except Damaged:
            return
        if newest is None or not newest.header.tombstone:
            return
        with store_errors(bucket, "removing what was stored of a check"):
            await bucket.delete(names.health_key(user_id))
        raise UserNotFound("The vectorstore was deleted while it was checked.")

    async def last(self, user_id: str) -> UserHealth:
        """Return the last check of a user, here or on another instance. Raises HealthNotChecked, StoreUnavailable."""
        found = await self._load(user_id)
        if found is None:
            raise HealthNotChecked(
                "The health of this user was not checked yet: that comes within health_interval_s of a use. An "
                "operator may POST /admin/users/{user_id}/health to check it now."
            )
        return found.health

    async def _load(self, user_id: str) -> HealthRecord | None:
        return await load_json(self._library.bucket, names.health_key(user_id), HealthRecord)

    async def _look(
        self, user_id: str, last: HealthRecord | None, context: RequestContext, *, forget: bool = False
    ) -> tuple[UserHealth, Checkup]:
        since = 0 if last is None or last.health.state == "damaged" else last.health.commit
        known = [] if last is None or forget else last.known
        command = CheckHealth(known=known, since=since)
        answer = await self._router.execute(user_id, command, context)
        checkup = msgspec.json.decode(answer.body, type=Checkup)
        checks = list(checkup.checks)
        if not any(check.state == "failed" for check in checks):
            checks.append(await self._check_documents(user_id, context))
        state = _state_of(checks)
        now_ms = self._sources.now_ms()
        return UserHealth(user_id, state, checkup.commit, checkup.records, now_ms, checks), checkup

    def _context(self) -> RequestContext:
        context = RequestContext(
            caller="health", read=ReadOptions(consistency="strong"), timeout_s=_USER_S, sources=self._sources
        )
        context.start()
        return context

    # --- Documents -----------------------------------------------------------------------------------

    async def _check_documents(self, user_id: str, context: RequestContext) -> HealthCheck:
        """Compare the listing of every avatar with the registry: rows whose document is gone are a disagreement."""
        gone = changed = new = seen = 0
        try:
            for avatar_id in await self._library.list_avatars(user_id):
                pages, rows = self._documents(user_id, avatar_id), self._registry(user_id, avatar_id, context)
                async with aclosing(paired(pages, rows)) as pairs:
                    async for pair in pairs:
                        seen += 1
                        if seen > _MOST_DOCUMENTS:
                            reason = f"The first {_MOST_DOCUMENTS} documents were compared, and there are more."
                            return HealthCheck("documents", "skipped", reason)
                        if pair.known is None:
                            new += 1
                        elif pair.document is None:
                            gone += not pair.known.restored
                        elif pair.known.etag != pair.document.etag:
                            changed += 1
        except (StoreUnavailable, TryAgain) as error:
            return HealthCheck("documents", "skipped", error.detail)
        if gone:
            reason = f"{gone} documents that have records are not in the bucket any more."
            return HealthCheck("documents", "failed", reason, _SYNC)
        if new or changed:
            reason = f"{new} documents wait to be ingested, and {changed} changed since."
            return HealthCheck("documents", "ok", reason, _SYNC)
        return HealthCheck("documents", "ok")

    async def _documents(self, user_id: str, avatar_id: str) -> AsyncGenerator[Document, None]:
        async with aclosing(self._library.pages(user_id, avatar_id)) as pages:
            async for page in pages:
                for document in page.documents:
                    yield document

    async def _registry(self, user_id: str, avatar_id: str, context: RequestContext) -> AsyncGenerator[Ingested, None]:
        after: str | None = None
        while True:
            command = ListIngested(avatar_id=avatar_id, after=after, limit=_PAGE)
            try:
                answer = await self._router.execute(user_id, command, context)
            except AvatarNotFound:
                # It has documents, and no record of any yet.
                return
            rows = msgspec.json.decode(answer.body, type=IngestedPage).documents
            for row in rows:
                yield row
            if len(rows) < _PAGE:
                return
            after = rows[-1].path

    # --- Telling -------------------------------------------------------------------------------------

    async def _tell(self, health: UserHealth, checkup: Checkup) -> None:
        user_id, failed = health.user_id, [check for check in health.checks if check.state == "failed"]
        if health.state == "damaged":
            logger.error("the vectorstore of a user is damaged: %s", ", ".join(check.check for check in failed))
            logger.debug("damaged: %s", user_id)
            await self._notifications.tell(
                "damage-found",
                user_id=user_id,
                reason=failed[0].reason,
                remedy=failed[0].remedy,
                detail={"checks": [check.check for check in failed], "commit": health.commit},
            )
        elif health.state == "healthy":
            await self._notifications.settle("damage-found", user_id=user_id)
        quota = self._quota_of(user_id)
        if quota is not None and health.state in ("healthy", "degraded"):
            await self._tell_quota(user_id, quota, health.records, checkup.state_bytes)

    async def _tell_quota(self, user_id: str, quota: Quota, records: int, state_bytes: int) -> None:
        for name, limit, used in (
            ("records", quota.records, records),
            ("bytes_stored", quota.bytes_stored, state_bytes),
        ):
            if limit is None:
                continue
            if used >= _NEAR * limit:
                await self._notifications.tell(
                    "quota-near",
                    user_id=user_id,
                    subject=name,
                    reason=f"The user has {used} of at most {limit} {name}.",
                    remedy="Raise the user's limit, or have the user delete some.",
                    detail={"limit_name": name, "limit": limit, "count": used},
                )
            else:
                await self._notifications.settle("quota-near", user_id=user_id, subject=name)

    # --- Showing -------------------------------------------------------------------------------------

    def _remember(self, health: UserHealth) -> None:
        self._states.pop(health.user_id, None)
        self._states[health.user_id] = health.state
        while len(self._states) > _MOST_KNOWN:
            self._unwell.pop(self._states.popitem(last=False)[0], None)
        self._unwell.pop(health.user_id, None)
        if health.state != "healthy":
            self._unwell[health.user_id] = health
            while len(self._unwell) > _MOST_UNWELL:
                self._unwell.popitem(last=False)

    def view(self) -> InstanceHealth:
        """Return what this instance found."""
        return InstanceHealth(
            canary=self._canary(),
            waiting=len(self._waiting) + len(self._used),
            checked=dict(Counter(self._states.values())),
            unwell=list(reversed(self._unwell.values())),
            last_round_ms=self._last_round_ms,
        )

    def samples(self) -> list[Sample]:
        """Return the gauges of the health checks."""
        counts = Counter(self._states.values())
        states: tuple[HealthState, ...] = ("degraded", "damaged", "unknown")
        return [
            Sample(HEALTH_WAITING.name, (), len(self._waiting) + len(self._used)),
            *(Sample(HEALTH_UNWELL.name, (state,), counts[state]) for state in states),
        ]


def _state_of(checks: list[HealthCheck]) -> HealthState:
    failed = {check.check for check in checks if check.state == "failed"}
    if failed & _DAMAGE:
        return "damaged"
    return "degraded" if failed else "healthy"


def _agreed(first: UserHealth, again: UserHealth) -> UserHealth:
    """Return the second look; a check that failed there alone is believed only if it failed in both."""
    failed = {check.check for check in first.checks if check.state == "failed"}
    checks = [
        check
        if check.state != "failed" or check.check in failed
        else HealthCheck(check.check, "skipped", f"It failed once: {check.reason}", "It is made again later.")
        for check in again.checks
    ]
    return msgspec.structs.replace(again, checks=checks, state=_state_of(checks))
