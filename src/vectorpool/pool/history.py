"""History operations: they read and write the log beside the slot, and need no open vectorstore.

A fork or a backup is of what is committed: what a slot holds uncommitted (write-back) is committed first, by
the pool. Restoring is a job of the slot's writer, because the replica must follow.
"""

from __future__ import annotations

import msgspec

from vectorpool import answers
from vectorpool.answers import Answer
from vectorpool.commands import (
    CreateBackup,
    DeleteBackup,
    Fork,
    GetBackup,
    LastVerification,
    ListBackups,
    ListCommits,
    LogOperation,
    Verify,
)
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import CommitInfo, ScrubReport, Tag
from vectorpool.errors import UserNotFound, VerificationNotFound

_encode = msgspec.json.Encoder().encode


async def answer(log: CommitLog, command: LogOperation) -> Answer:
    """Answer one operation on a log. Raises CommitNotFound, BackupNotFound, BackupExists, VectorstoreExists."""
    match command:
        case ListCommits(limit=limit):
            return await _commits(log, limit)
        case CreateBackup(name=name, commit=commit):
            tag = await log.tag(name, commit)
            return Answer(_encode(_backup(tag)), tag.seq)
        case GetBackup(name=name):
            tag = await log.get_tag(name)
            return Answer(_encode(_backup(tag)), tag.seq)
        case ListBackups():
            tags = await log.tags()
            page = answers.BackupPage(backups=[_backup(tag) for tag in tags])
            return Answer(_encode(page), max((tag.seq for tag in tags), default=0))
        case DeleteBackup(name=name):
            await log.delete_tag(name)
            return Answer(_encode(answers.Deleted(deleted=1)), 0)
        case Verify():
            report = await log.verify()
            return Answer(_encode(_verification(report)), report.newest_seq)
        case LastVerification():
            last = await log.last_verification()
            if last is None:
                raise VerificationNotFound("The log was never verified. POST to verify it now.")
            return Answer(_encode(_verification(last)), last.newest_seq)
        case Fork(target_user_id=target, commit=commit):
            position = await log.fork(target, at=commit)
            return Answer(_encode(answers.Forked(user_id=target, commit=position.seq)), position.seq)


def _backup(tag: Tag) -> answers.Backup:
    return answers.Backup(name=tag.name, commit=tag.seq, time_ms=tag.time_ms)


def _verification(report: ScrubReport) -> answers.Verification:
    return answers.Verification(
        verified_at_ms=report.verified_at_ms,
        newest_commit=report.newest_seq,
        newest_intact_commit=report.newest_intact_seq,
        commits=report.commits,
        objects=report.objects,
        bytes=report.bytes,
        problems=[answers.Damage(commit=p.seq, key=p.key, what=p.what) for p in report.problems],
    )


async def _commits(log: CommitLog, limit: int) -> Answer:
    entries = await log.entries(limit=limit)
    if not entries:
        raise UserNotFound("Nothing is stored for this user, so there is no history.")
    names: dict[int, list[str]] = {}
    for tag in await log.tags():
        names.setdefault(tag.seq, []).append(tag.name)
    page = answers.CommitPage(commits=[_commit(entry, names.get(entry.seq, [])) for entry in entries])
    return Answer(_encode(page), entries[0].seq)


def _commit(entry: CommitInfo, backups: list[str]) -> answers.Commit:
    return answers.Commit(
        commit=entry.seq,
        time_ms=entry.time_ms,
        bytes=entry.size,
        state_bytes=entry.state_bytes,
        added=entry.summary.added,
        deleted=entry.summary.deleted,
        collections=list(entry.summary.collections),
        restored_from=entry.restored_from,
        migrated=entry.summary.migrated,
        tombstone=entry.tombstone,
        backups=backups,
        damage=entry.damage,
    )
