"""Recovery: the best source of a damaged vectorstore becomes a new commit, and its documents are ingested again.

The best source is the one with the newest commit: it loses the least. This instance's open replica comes before a
commit of the log, a commit before the copy that an export left at a target, and that before nothing but documents.
Whatever the source, the documents' bytes are brought back
as after a restore, and a sync of every avatar with documents makes records of what the state does not have.

*Into.* The state replaces what cannot be read, under the collections' own names; or it comes beside what the log alone
gives, in new collections (``into`` new).

The commit is made on the number that the plan saw, so that of two recoveries one wins and nothing that was committed
meanwhile is replaced. The damaged objects stay. A deleted user is never recovered: the shard refuses it.

*By itself* an instance recovers at once only what loses nothing that the log says was committed. Another instance may
have a better source open, and finds the damage by its own check within the interval; so with a loss, an instance waits
for two intervals after the damage was first told.

*Crash.* Until the commit nothing has changed. After it, a lost sync is made up for by the next one of the avatar, and
a lost report by the history, which says what the commit was made of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from vectorpool import names
from vectorpool.allowances.usage import documents_size
from vectorpool.answers import CommitPage
from vectorpool.audit import Audit, Who
from vectorpool.care.copies import CopyReader
from vectorpool.commands import FindSources, ListCommits, Recover, SourceKind
from vectorpool.commitlog.json_objects import load_json, save_json
from vectorpool.commitlog.scratch import scratch_below
from vectorpool.context import RequestContext
from vectorpool.cursors import from_cursor, to_cursor
from vectorpool.documents.library import DocumentLibrary
from vectorpool.documents.recovery import Recovery as DocumentRecovery
from vectorpool.documents.router import Router
from vectorpool.errors import (
    InvalidRequest,
    NotDamaged,
    NothingToRecoverFrom,
    RecoveryNotFound,
    UserNotFound,
    VectorpoolError,
)
from vectorpool.notifications import Notifications
from vectorpool.operating import (
    CollectionPlace,
    LostCommit,
    Recovered,
    RecoveredCollection,
    RecoveredPage,
    RecoveredRecord,
    RecoveryPlan,
    RecoveryReport,
    RecoverySource,
    Sources,
)
from vectorpool.operating import Recovery as RecoveryDone
from vectorpool.settings import RecoverInto, Settings
from vectorpool.sources import Sources as Ambient
from vectorpool.targets.records import Copy
from vectorpool.telemetry.families import RECOVERIES
from vectorpool.telemetry.figures import Figures

logger = logging.getLogger(__name__)

_MOST_LOST: Final = 1000
_RECOVER_S: Final = 3600.0
_BY_ITSELF: Final = Who("vectorpool", via="background")

# Has an avatar synced soon: user, avatar.
Schedule = Callable[[str, str], None]


class Recoveries:
    """The recoveries of an instance. Belongs to one event loop."""

    def __init__(
        self,
        router: Router,
        library: DocumentLibrary,
        audit: Audit,
        notifications: Notifications,
        sources: Ambient,
        figures: Figures,
        schedule: Schedule,
        settings: Settings,
    ) -> None:
        self._router = router
        self._library = library
        self._audit = audit
        self._notifications = notifications
        self._sources = sources
        self._figures = figures
        self._schedule = schedule
        self._settings = settings
        self._copies = CopyReader(library.bucket, settings)

    # --- The plan ------------------------------------------------------------------------------------

    async def plan(self, user_id: str, context: RequestContext, into: RecoverInto | None = None) -> RecoveryPlan:
        """Return the sources and what each would lose; ``into`` is by default the setting's.

        Raises UserNotFound for deleted users, StoreUnavailable.
        """
        answer = await self._router.execute(user_id, FindSources(), context)
        found = msgspec.json.decode(answer.body, type=Sources)
        sources, faults = list(found.sources), dict[str, str]()
        if found.is_damaged:
            copies, faults = await self._copies.find(user_id)
            lost = await self._entries(user_id, context) if copies else []
            sources += [_as_source(name, copy, lost) for name, copy in sorted(copies.items())]
        if found.is_damaged and (documents := await self._count_documents(user_id)):
            everything = await self._entries(user_id, context)
            sources.append(
                RecoverySource(
                    "documents",
                    0,
                    None,
                    documents=documents,
                    lost_commits=len(everything),
                    lost_added=sum(each.added or 0 for each in everything),
                    lost_deleted=sum(each.deleted or 0 for each in everything),
                    unreadable=sum(each.damage is not None for each in everything),
                )
            )
        sources.sort(key=lambda source: -source.commit)
        chosen = sources[0] if sources else None
        plan = RecoveryPlan(user_id, found.is_damaged, found.over, found.reason, chosen, sources, faults)
        plan.into = into or self._settings.recover_into
        if plan.into == "new" and chosen is not None:
            base = next((source for source in sources if source.kind == "commit"), None)
            plan.base, taken = (0, []) if base is None else (base.commit, base.collections)
            plan.collections = RecoveredCollection.named(chosen.collections, taken, plan.commit + 1)
        return plan

    async def _count_documents(self, user_id: str) -> int:
        return (await documents_size(self._library.bucket, user_id)).objects

    async def _entries(self, user_id: str, context: RequestContext) -> list[LostCommit]:
        """Return the commits of the log, newest first; of a log that holds none, nothing."""
        try:
            answer = await self._router.execute(user_id, ListCommits(limit=_MOST_LOST), context)
        except UserNotFound:
            return []
        commits = msgspec.json.decode(answer.body, type=CommitPage).commits
        return [
            LostCommit(each.commit, damage=each.damage)
            if each.damage
            else LostCommit(each.commit, each.time_ms, each.added, each.deleted, list(each.collections))
            for each in commits
        ]

    # --- The recovery --------------------------------------------------------------------------------

    async def recover(
        self, user_id: str, context: RequestContext, who: Who, into: RecoverInto | None = None
    ) -> RecoveryDone:
        """Recover a user from the best source; return the plan and the report, which is stored too.

        Raises NotDamaged, NothingToRecoverFrom, CommitConflict, UserNotFound, StoreUnavailable, OutcomeUnknown.
        """
        plan = await self.plan(user_id, context, into)
        if not plan.is_damaged:
            raise NotDamaged("The newest commit can be read, so nothing is recovered. To go back, restore a commit.")
        if plan.chosen is None:
            raise NothingToRecoverFrom(
                f"Nothing is left of the vectorstore of user {user_id}: {plan.reason}. If it may go, delete it."
            )
        lost = [each for each in await self._entries(user_id, context) if each.commit > plan.chosen.commit]
        detail = {"source": plan.chosen.kind, "of_commit": plan.chosen.commit, "over": plan.commit, "into": plan.into}
        try:
            async with self._audit.recorded("recover", who, user_id=user_id, detail=detail) as told:
                report = await self._recover(user_id, plan, plan.chosen, lost, context, who)
                told |= {"commit": report.commit, "records": report.records}
        except VectorpoolError as error:
            self._figures.counter(RECOVERIES, "failed").add()
            await self._notifications.tell(
                "recovery-failed",
                user_id=user_id,
                reason=error.detail,
                remedy="Look at POST /admin/users/{user_id}/recover?dry_run=true.",
                detail=detail,
            )
            raise
        self._figures.counter(RECOVERIES, "done").add()
        await self._notifications.settle("recovery-failed", user_id=user_id)
        await self._notifications.settle("damage-found", user_id=user_id)
        await self._notifications.tell(
            "recovered",
            user_id=user_id,
            subject=str(report.commit),
            reason=f"Commit {report.commit} has the state of a {plan.chosen.kind}, of commit {plan.chosen.commit}.",
            remedy=f"Read the report: GET /admin/users/{{user_id}}/recoveries/{report.commit}.",
            detail={**detail, "commit": report.commit, "records": report.records, "lost_commits": len(lost)},
        )
        return RecoveryDone(plan, report)

    async def _recover(
        self,
        user_id: str,
        plan: RecoveryPlan,
        source: RecoverySource,
        lost: list[LostCommit],
        context: RequestContext,
        who: Who,
    ) -> RecoveryReport:
        kinds: dict[str, SourceKind] = {"replica": "replica", "commit": "commit", "backup": "commit", "copy": "copy"}
        command = Recover(
            kind=kinds.get(source.kind, "documents"),
            commit=source.commit,
            over=plan.commit,
            into=plan.into,
            base=plan.base or 0,
        )
        if source.kind == "copy":
            async with scratch_below(self._settings.replica_dir) as path:
                directory = path / "state"
                await asyncio.to_thread(directory.mkdir)
                await self._copies.read(user_id, str(source.name), source.commit, directory)
                command = msgspec.structs.replace(command, directory=str(directory))
                answer = await self._router.execute(user_id, command, context)
        else:
            answer = await self._router.execute(user_id, command, context)
        done = msgspec.json.decode(answer.body, type=Recovered)
        report = RecoveryReport(
            user_id=user_id,
            commit=done.commit,
            source=source,
            reason=plan.reason,
            recovered_at_ms=self._sources.now_ms(),
            records=done.records,
            parts=done.parts,
            lost=lost,
            caller=who.caller,
            into=plan.into,
            base=plan.base,
            collections=done.collections,
        )
        # The commit is durable: what follows may fail, and is made up for by the next sync of each avatar.
        try:
            report.documents = await DocumentRecovery(self._library, user_id).run(self._router, context)
            for avatar_id in await self._library.list_avatars(user_id):
                self._schedule(user_id, avatar_id)
                report.reingested.append(avatar_id)
            await save_json(self._library.bucket, names.recovery_key(user_id, done.commit), report)
        except VectorpoolError as error:
            logger.warning("the documents of a recovered vectorstore were not all brought back: %s", error.code)
        return report

    async def recover_by_itself(self, user_id: str) -> bool:
        """Recover a user whose damage was believed; return False if that waits for an instance with a better source.

        What fails is told, and tried again with the next check.
        """
        context = RequestContext(caller="recovery", timeout_s=_RECOVER_S, sources=self._sources)
        context.start()
        try:
            plan = await self.plan(user_id, context)
            is_lossless = plan.chosen is not None and plan.chosen.commit >= plan.commit
            if plan.is_damaged and not is_lossless and await self._may_be_better_elsewhere(user_id):
                logger.warning("a damaged vectorstore is not recovered yet: another instance may lose less")
                return False
            await self.recover(user_id, context, _BY_ITSELF)
        except (NotDamaged, UserNotFound):
            pass
        except VectorpoolError as error:
            logger.error("a damaged vectorstore was not recovered: %s", error.code)
        return True

    async def _may_be_better_elsewhere(self, user_id: str) -> bool:
        """Whether other instances had no time yet to find the damage themselves. Raises StoreUnavailable."""
        told = await self._notifications.find("damage-found", user_id=user_id)
        if told is None:
            # It could not be kept, and what has no beginning is not waited for.
            return False
        waited_ms = self._sources.now_ms() - told.first_ms
        return waited_ms < 2000 * self._settings.health_interval_s

    # --- Reports -------------------------------------------------------------------------------------

    async def report(self, user_id: str, commit: int) -> RecoveryReport:
        """Return the report of the recovery that made a commit. Raises RecoveryNotFound, StoreUnavailable."""
        key = names.recovery_key(user_id, min(max(commit, 0), names.MAX_SEQ))
        found = await load_json(self._library.bucket, key, RecoveryReport)
        if found is None:
            raise RecoveryNotFound(f"No recovery made commit {commit} of this user.")
        return found

    async def records(self, user_id: str, commit: int, cursor: str | None) -> RecoveredPage:
        """Return a page of the records that a recovery brought. Raises RecoveryNotFound, InvalidRequest."""
        report = await self.report(user_id, commit)
        text = "0" if cursor is None else from_cursor(cursor)
        part = int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else -1
        if not 0 <= part <= report.parts:
            raise InvalidRequest("The cursor is none of this report. Send the next_cursor of the page before.")
        if part >= report.parts:
            return RecoveredPage([])
        key = names.recovery_key(user_id, commit, part)
        records = await load_json(self._library.bucket, key, list[RecoveredRecord])
        following = to_cursor(str(part + 1)) if part + 1 < report.parts else None
        return RecoveredPage(records or [], following)


def _as_source(name: str, copy: Copy, entries: list[LostCommit]) -> RecoverySource:
    lost = [each for each in entries if each.commit > copy.commit]
    return RecoverySource(
        "copy",
        copy.commit,
        copy.records,
        name=name,
        lost_commits=len(lost),
        lost_added=sum(each.added or 0 for each in lost),
        lost_deleted=sum(each.deleted or 0 for each in lost),
        unreadable=sum(each.damage is not None for each in lost),
        collections=sorted(CollectionPlace(*each) for each in copy.collections),
    )
