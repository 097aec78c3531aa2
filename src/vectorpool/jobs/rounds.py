"""Rounds of exports: each looks which users changed since their last export, and asks for exports of those.

It also asks for the deletion, at every target, of users that were deleted and may be there still (``deleted_users``).

A round costs a small listing a user, and opens neither a vectorstore nor a target for one that did not change. Each
target is tried once before: one that is away is told once, and not for every user. Exports are jobs, which any worker
runs; ``_MOST_WAITING`` of them wait at a time, and the round waits for room. A round that is cut off begins again, and
passes over what was exported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Final

import msgspec

from vectorpool import names
from vectorpool.commitlog.ending import newest_header, newest_object
from vectorpool.commitlog.fetch import store_errors
from vectorpool.errors import (
    CommitConflict,
    Damaged,
    NewerFormat,
    QueueFull,
    TargetUnavailable,
    VectorpoolError,
)
from vectorpool.ids import is_reserved
from vectorpool.jobs.deleted_users import DeletedUsers, Drop
from vectorpool.jobs.exported import ExportRecord
from vectorpool.jobs.views import JobKind
from vectorpool.notifications import Notifications
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.targets.named import named_targets, scheduled_targets
from vectorpool.targets.urls import Target

logger = logging.getLogger(__name__)

_PAGE: Final = 1000
_AT_ONCE: Final = 16
_MOST_WAITING: Final = 200
_LOOK_S: Final = 1.0
# A round that found no room for so long ends; the next one goes on.
_NO_ROOM_S: Final = 1800.0
_TRIES: Final = 3
_TRY_AGAIN_S: Final = 5.0

# Asks for a job of a kind, user and target; returns whether it is a new one. Raises QueueFull, JobsUnavailable.
Ask = Callable[[JobKind, str, str], Awaitable[bool]]


class Round(msgspec.Struct):
    """What a round did. ``asked`` counts exports, ``forgotten`` deletions at targets; ``away`` were left out."""

    users: int = 0
    asked: int = 0
    forgotten: int = 0
    away: list[str] = []


class ExportRounds:
    """The rounds of one worker. Belongs to one event loop."""

    def __init__(
        self,
        bucket: Bucket,
        record: ExportRecord,
        notifications: Notifications,
        settings: Settings,
        sources: Sources,
        ask: Ask,
        waiting: Callable[[], Awaitable[int]],
        drop: Drop | None = None,
    ) -> None:
        """Raise Misconfigured for targets that cannot be meant."""
        self._bucket = bucket
        self._record = record
        self._notifications = notifications
        self._settings = settings
        self._sources = sources
        self._ask = ask
        self._waiting = waiting
        self._targets = scheduled_targets(settings)
        self._all = sorted(named_targets(settings))
        # Also looked at between rounds.
        self.deleted = DeletedUsers(
            bucket, record, self._all, sources, partial(self._asked, "forget"), self._has_room, drop
        )
        self._patterns = settings.export_users.split()

    @property
    def is_on(self) -> bool:
        """Whether there is a target, to keep current or to delete at."""
        return bool(self._all)

    async def run(self) -> Round:
        """Ask for what is to be done at targets. Raises StoreUnavailable, JobsUnavailable."""
        done = Round()
        done.forgotten = await self.deleted.run()
        reached = []
        for name, target in self._targets.items():
            if await self._is_reached(name, target):
                reached.append(name)
            else:
                done.away.append(name)
        after: str | None = None
        while reached:
            with store_errors(self._bucket, "listing the users"):
                found = await self._bucket.list_prefixes(names.users_prefix(), limit=_PAGE, after=after)
            users = [each for each in names.split_user_ids(found)[0] if self._is_meant(each)]
            held = {name: await asyncio.to_thread(self._record.held, name, users) if users else {} for name in reached}
            for start in range(0, len(users), _AT_ONCE):
                looks = (self._changed(each, held) for each in users[start : start + _AT_ONCE])
                for user_id, behind in zip(users[start:], await asyncio.gather(*looks), strict=False):
                    done.users += 1
                    for name in behind:
                        if not await self._has_room():
                            return done
                        done.asked += await self._asked("export", user_id, name)
            if len(found) < _PAGE:
                break
            after = found[-1]
        return done

    def _is_meant(self, user_id: str) -> bool:
        if is_reserved(user_id):
            return False
        return not self._patterns or any(fnmatchcase(user_id, pattern) for pattern in self._patterns)

    async def _changed(self, user_id: str, held: dict[str, dict[str, int]]) -> list[str]:
        """Return the targets that do not have the newest commit of a user. One small listing if all have it."""
        newest = await newest_object(self._bucket, user_id)
        if newest is None:
            return []
        behind = [name for name, commits in held.items() if abs(commits.get(user_id, 0)) != newest.seq]
        if not behind:
            return []
        try:
            header = await newest_header(self._bucket, user_id)
        except (Damaged, NewerFormat, CommitConflict):
            # The job finds the same, and says so.
            return behind
        if header is not None and header.header.tombstone:
            # What targets have of a deleted user, the deletion deletes.
            return []
        return behind

    async def _has_room(self) -> bool:
        """Wait until an export may be asked for; return False if that takes too long."""
        until_s = self._sources.monotonic_s() + _NO_ROOM_S
        while await self._waiting() >= _MOST_WAITING:
            if self._sources.monotonic_s() > until_s:
                logger.warning("a round of exports ended early: %d exports wait", _MOST_WAITING)
                return False
            await self._sources.sleep(_LOOK_S)
        return True

    async def _asked(self, kind: JobKind, user_id: str, name: str) -> bool:
        try:
            return await self._ask(kind, user_id, name)
        except QueueFull:
            # As many jobs of the user wait; the next round asks again.
            return False

    async def _is_reached(self, name: str, target: Target) -> bool:
        """Whether a target answers; one that does not, after some tries, is told."""
        for attempt in range(1, _TRIES + 1):
            try:
                await asyncio.to_thread(_open, target)
            except VectorpoolError as error:
                if isinstance(error, TargetUnavailable) and attempt < _TRIES:
                    await self._sources.sleep(_TRY_AGAIN_S)
                    continue
                logger.warning("a target gets no exports: %s", error.code)
                await self._notifications.tell(
                    "export-failed",
                    subject=name,
                    reason=error.detail,
                    remedy="Do what the reason asks for; the next round exports what changed meanwhile.",
                    detail={"target": name, "code": error.code},
                )
                return False
            await self._notifications.settle("export-failed", subject=name)
            return True
        return False


def _open(target: Target) -> None:
    from vectorpool.targets import registry  # noqa: PLC0415 - drivers are for workers that export

    registry.open_sink(target).close()
