"""``vectorpool restore``, ``backup`` and ``fork``: on the store alone; a running service takes the change in.

Which documents came back is noted in the vectorstore by the next ingest.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from vectorpool.answers import RestoredDocument
from vectorpool.cli.auditing import audited
from vectorpool.cli.console import out, run, spinner
from vectorpool.cli.logs import open_store
from vectorpool.commitlog.log import CommitLog
from vectorpool.documents.library import DocumentLibrary
from vectorpool.documents.recovery import Recovery
from vectorpool.errors import InvalidRequest
from vectorpool.names import check_backup_name, check_user_id
from vectorpool.settings import Settings
from vectorpool.vectorstore.compatibility import ENGINE
from vectorpool.vectorstore.restored_documents import flag_documents, flagged_documents


class _Flagged:
    """Flags the documents of a state before it is committed, and remembers which they are."""

    def __init__(self) -> None:
        self.documents: list[RestoredDocument] = []

    def __call__(self, directory: Path) -> bool:
        changed = flag_documents(directory)
        self.documents = flagged_documents(directory)
        return changed


def restore(settings: Settings, user_id: str, commit: int | None, time: str | None, backup: str | None) -> int:
    """Append the state of an earlier commit as a new commit, and bring its documents back; return the exit code."""
    return run(_restore(settings, check_user_id(user_id), commit, None if time is None else _time_ms(time), backup))


def _time_ms(text: str) -> int:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is no time. Write it as 2026-11-21T09:00:00Z.") from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


async def _restore(
    settings: Settings, user_id: str, commit: int | None, time_ms: int | None, backup: str | None
) -> int:
    flagged = _Flagged()
    async with open_store(settings) as bucket:
        log = CommitLog(bucket, user_id, settings=settings, engine=ENGINE)
        recovery = Recovery(DocumentLibrary(bucket, settings), user_id)
        with spinner(f"Restoring {user_id}"):
            if backup is not None:
                seq = (await log.get_tag(check_backup_name(backup))).seq
            else:
                seq = commit if commit is not None else await log.seq_at(time_ms or 0)
            async with audited(bucket, settings, "restore", user_id, asked={"commit": seq, "backup": backup}) as told:
                position = await log.restore(seq, edit=flagged)
                told |= {"commit": position.seq, "restored_from": seq}
                out.print(f"user {user_id} is at commit {position.seq}, which brings back commit {seq}", markup=False)
                await recovery.bring_back(flagged.documents)
    return _show(recovery)


def _show(recovery: Recovery) -> int:
    """Print what became of the documents; return 1 if some could not be read or written."""
    done = recovery.result
    if done is None:
        return 0
    out.print(
        f"documents: {done.written} brought back, {done.present} present, {done.different} paths hold other bytes, "
        f"{done.missing} missing, {done.failed} failed"
    )
    return 1 if done.failed else 0


def backup(settings: Settings, user_id: str, name: str | None, commit: int | None, forget: bool) -> int:
    """Create, delete or list backups; return the exit code."""
    if name is not None:
        check_backup_name(name)
    return run(_backup(settings, check_user_id(user_id), name, commit, forget))


async def _backup(settings: Settings, user_id: str, name: str | None, commit: int | None, forget: bool) -> int:
    async with open_store(settings) as bucket:
        log = CommitLog(bucket, user_id, settings=settings, engine=ENGINE)
        if name is None:
            table = Table("backup", "commit", "time (UTC)", box=None, pad_edge=False)
            for tag in await log.tags():
                when = datetime.fromtimestamp(tag.time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
                table.add_row(tag.name, str(tag.seq), when)
            out.print(table)
        elif forget:
            await log.delete_tag(name)
            out.print(f"backup {name} of user {user_id} is deleted", markup=False)
        else:
            tag = await log.tag(name, commit)
            out.print(f"backup {name} of user {user_id} keeps commit {tag.seq}", markup=False)
    return 0


def fork(settings: Settings, user_id: str, target_user_id: str, commit: int | None) -> int:
    """Copy a user's vectorstore and its documents to another user; return the exit code."""
    return run(_fork(settings, check_user_id(user_id), check_user_id(target_user_id), commit))


async def _fork(settings: Settings, user_id: str, target_user_id: str, commit: int | None) -> int:
    flagged = _Flagged()
    async with open_store(settings) as bucket:
        log = CommitLog(bucket, user_id, settings=settings, engine=ENGINE)
        recovery = Recovery(DocumentLibrary(bucket, settings), target_user_id, user_id)
        with spinner(f"Forking {user_id}"):
            async with audited(bucket, settings, "fork", user_id, target=target_user_id, of_commit=commit) as told:
                position = await log.fork(target_user_id, at=commit, edit=flagged)
                told["commit"] = position.seq
                out.print(
                    f"user {target_user_id} is at commit {position.seq}, forked from user {user_id}", markup=False
                )
                await recovery.bring_back(flagged.documents)
    return _show(recovery)
