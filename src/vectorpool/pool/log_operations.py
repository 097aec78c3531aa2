"""Operations on the log alone: they need no open vectorstore.

A fork or a backup takes committed states, so the pool first commits a slot's uncommitted writes (write-back).
A restore is a job of the slot's writer, because the replica must be rebuilt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from vectorpool import answers, operating
from vectorpool.answers import Answer
from vectorpool.commands import (
    Compact,
    CreateBackup,
    DeleteBackup,
    ExportTo,
    Fork,
    GetBackup,
    ImportFrom,
    LastDeletion,
    LastVerification,
    ListBackups,
    ListCommits,
    LogOperation,
    Verify,
)
from vectorpool.commands.handlers import handled_by, handles
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import CommitInfo, ScrubReport, Tag
from vectorpool.errors import DeletionNotFound, UserNotFound, VerificationNotFound
from vectorpool.platform.local_disk import on_local_disk
from vectorpool.vectorstore.exporting import export_directory
from vectorpool.vectorstore.restored_documents import flag_documents

_encode = msgspec.json.Encoder().encode


class LogOperations:
    """Answers the operations on one log."""

    def __init__(self, log: CommitLog) -> None:
        self._log = log

    async def execute(self, command: LogOperation) -> Answer:
        """Answer one operation. Raises CommitNotFound, BackupNotFound, BackupExists, VectorstoreExists."""
        answer: Answer = await getattr(self, _HANDLERS[type(command)])(command)
        return answer

    @handles(ListCommits)
    async def _list_commits(self, command: ListCommits) -> Answer:
        return await _commits(self._log, command.limit)

    @handles(CreateBackup)
    async def _create_backup(self, command: CreateBackup) -> Answer:
        tag = await self._log.tag(command.name, command.commit)
        return Answer(_encode(_backup(tag)), tag.seq)

    @handles(GetBackup)
    async def _get_backup(self, command: GetBackup) -> Answer:
        tag = await self._log.get_tag(command.name)
        return Answer(_encode(_backup(tag)), tag.seq)

    @handles(ListBackups)
    async def _list_backups(self, command: ListBackups) -> Answer:
        tags = await self._log.tags()
        page = answers.BackupPage(backups=[_backup(tag) for tag in tags])
        return Answer(_encode(page), max((tag.seq for tag in tags), default=0))

    @handles(DeleteBackup)
    async def _delete_backup(self, command: DeleteBackup) -> Answer:
        await self._log.delete_tag(command.name)
        return Answer(_encode(answers.Deleted(deleted=1)), 0)

    @handles(Verify)
    async def _verify(self, command: Verify) -> Answer:
        report = await self._log.verify()
        return Answer(_encode(_verification(report)), report.newest_seq)

    @handles(LastVerification)
    async def _last_verification(self, command: LastVerification) -> Answer:
        last = await self._log.last_verification()
        if last is None:
            raise VerificationNotFound("The log was never verified. POST to verify it now.")
        return Answer(_encode(_verification(last)), last.newest_seq)

    @handles(LastDeletion)
    async def _last_deletion(self, command: LastDeletion) -> Answer:
        receipt = await self._log.deletion()
        if receipt is None:
            raise DeletionNotFound("The vectorstore was never deleted, or before there were receipts.")
        return Answer(_encode(receipt), receipt.commit)

    @handles(Compact)
    async def _compact(self, command: Compact) -> Answer:
        position, done = await self._log.compact_now()
        return Answer(_encode(operating.Compacted(objects=len(done.written), bytes=done.bytes)), position.seq)

    @handles(ExportTo)
    async def _export(self, command: ExportTo) -> Answer:
        directory = Path(command.directory)
        with on_local_disk(directory):
            hydrated = await export_directory(self._log, directory, at=command.commit)
        commit = hydrated.position.seq
        return Answer(_encode(operating.Exported(commit, hydrated.image.size)), commit)

    @handles(ImportFrom)
    async def _import(self, command: ImportFrom) -> Answer:
        position = await self._log.adopt(Path(command.directory))
        return Answer(_encode(operating.Imported(self._log.user_id, position.seq)), position.seq)

    @handles(Fork)
    async def _fork(self, command: Fork) -> Answer:
        position = await self._log.fork(command.target_user_id, at=command.commit, edit=flag_documents)
        return Answer(_encode(answers.Forked(user_id=command.target_user_id, commit=position.seq)), position.seq)


# Each operation makes an object of the class, so the handlers are collected once.
_HANDLERS: Final = handled_by(LogOperations)


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
        erased=entry.summary.erased,
        indexed=entry.summary.indexed,
        tombstone=entry.tombstone,
        backups=backups,
        damage=entry.damage,
    )
