"""``vectorpool users``, ``log``, ``scrub``, ``export`` and ``import``: with the store alone, no Chroma or model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.filesize import decimal
from rich.table import Table

from vectorpool.cli.auditing import audited
from vectorpool.cli.console import err, out, progress_bar, run, spinner
from vectorpool.commitlog.deletions import load_receipt, users_with_receipts
from vectorpool.commitlog.ending import newest_header
from vectorpool.commitlog.log import CommitLog
from vectorpool.errors import Damaged, InvalidRequest, StoreRefused, StoreUnavailable, UserNotFound
from vectorpool.names import check_user_id, split_user_ids, users_prefix
from vectorpool.objects.bucket import Bucket, BucketDenied, BucketUnavailable
from vectorpool.objects.stores import open_bucket
from vectorpool.objects.unusable import printable
from vectorpool.settings import Settings
from vectorpool.vectorstore.compatibility import ENGINE
from vectorpool.vectorstore.exporting import export_directory

# Users looked at at the same time.
_AT_ONCE: Final = 16


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Bucket]:
    """Open the store; raise an error of one sentence if it does not answer."""
    bucket = open_bucket(settings)
    try:
        yield bucket
    except BucketUnavailable as error:
        raise StoreUnavailable(f"The store {bucket.url} does not answer: {error}.") from error
    except BucketDenied as error:
        raise StoreRefused(f"The store {bucket.url} refuses: {error}.") from error
    finally:
        await bucket.close()


# --- users -------------------------------------------------------------------------------------------


def users(settings: Settings) -> int:
    """Print the ids of the users, one a line; those that were deleted say so, and when."""
    return run(_users(settings))


async def _users(settings: Settings) -> int:
    async with open_store(settings) as bucket:
        ids = await list_user_ids(bucket)
        receipts = sorted(set(await users_with_receipts(bucket)) & set(ids))
        gone: dict[str, str] = {}
        for start in range(0, len(receipts), _AT_ONCE):
            batch = receipts[start : start + _AT_ONCE]
            told = await asyncio.gather(*(_deletion_of(bucket, user_id) for user_id in batch))
            gone.update((user_id, text) for user_id, text in zip(batch, told, strict=True) if text)
        for user_id in ids:
            out.print(user_id + (f" ({gone[user_id]})" if user_id in gone else ""), markup=False)
    return 0


async def _deletion_of(bucket: Bucket, user_id: str) -> str:
    """Return what to say of a user whose vectorstore was deleted at some time; nothing if there is one again."""
    try:
        newest = await newest_header(bucket, user_id)
    except Damaged:
        return ""
    receipt = await load_receipt(bucket, user_id)
    if newest is None or not newest.header.tombstone or receipt is None:
        return ""
    when = datetime.fromtimestamp(receipt.deleted_at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    state = "verified empty" if receipt.verified_empty_at_ms is not None else "not verified empty yet"
    return f"deleted {when}, {state}"


async def list_user_ids(bucket: Bucket) -> list[str]:
    """Return the ids of all users; names that are no ids are told on stderr."""
    ids, refused = split_user_ids(await bucket.list_prefixes(users_prefix()))
    for name in refused:
        err.print(f"{users_prefix()}{printable(name)}: not a user id; passed over", markup=False)
    return ids


# --- log ---------------------------------------------------------------------------------------------


def log(settings: Settings, user_id: str, limit: int) -> int:
    """Print a user's commits, newest first; return 1 if one of them cannot be read."""
    return run(_log(settings, check_user_id(user_id), limit))


async def _log(settings: Settings, user_id: str, limit: int) -> int:
    async with open_store(settings) as bucket:
        entries = await CommitLog(bucket, user_id, settings=settings, engine=ENGINE).entries(limit=limit)
    if not entries:
        raise UserNotFound(f"Nothing is stored for user {user_id}. `vectorpool users` lists who there is.")
    table = Table("commit", "time (UTC)", "object", "state", "added", "deleted", "what", box=None, pad_edge=False)
    for entry in entries:
        if entry.damage is not None:
            table.add_row(str(entry.seq), "", decimal(entry.size), "", "", "", f"[red]{entry.damage}")
            continue
        when = datetime.fromtimestamp(entry.time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        what = "deleted" if entry.tombstone else ", ".join(entry.summary.collections)
        for name in ("indexed", "erased", "migrated"):
            what = name if getattr(entry.summary, name) else what
        table.add_row(
            str(entry.seq),
            when,
            decimal(entry.size),
            decimal(entry.state_bytes),
            str(entry.summary.added),
            str(entry.summary.deleted),
            what,
        )
    out.print(table)
    return 1 if any(entry.damage for entry in entries) else 0


# --- scrub -------------------------------------------------------------------------------------------


def scrub(settings: Settings, user_ids: tuple[str, ...]) -> int:
    """Verify the logs of the named users, or of all; return 1 if anything is damaged."""
    return run(_scrub(settings, [check_user_id(user_id) for user_id in user_ids]))


async def _scrub(settings: Settings, user_ids: list[str]) -> int:
    damaged = 0
    async with open_store(settings) as bucket:
        chosen = user_ids or await list_user_ids(bucket)
        with progress_bar() as bar:
            task = bar.add_task("Scrubbing", total=len(chosen), note="")
            for user_id in chosen:
                bar.update(task, note=user_id)
                report = await CommitLog(bucket, user_id, settings=settings, engine=ENGINE).scrub()
                bar.update(task, advance=1)
                if report.ok:
                    if report.newest_seq or user_ids:
                        out.print(
                            f"{user_id}: intact at commit {report.newest_seq} ({report.objects} objects, "
                            f"{decimal(report.bytes)})",
                            markup=False,
                        )
                    continue
                damaged += 1
                out.print(
                    f"{user_id}: DAMAGED at commit {report.newest_seq}; newest intact commit: "
                    f"{report.newest_intact_seq or 'none'}",
                    style="red",
                    markup=False,
                )
                for problem in report.problems:
                    out.print(f"  commit {problem.seq}, {problem.key}: {problem.what}", markup=False)
    out.print(f"{len(chosen)} users scrubbed, {damaged} damaged")
    return 1 if damaged else 0


# --- export and import -------------------------------------------------------------------------------


def export(settings: Settings, user_id: str, directory: Path, at: int | None) -> int:
    """Write a user's vectorstore as a plain Chroma directory."""
    return run(_export(settings, check_user_id(user_id), directory, at))


async def _export(settings: Settings, user_id: str, directory: Path, at: int | None) -> int:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InvalidRequest(f"{directory} is there and not an empty directory. Name a new one.")
    directory.mkdir(parents=True, exist_ok=True)
    async with open_store(settings) as bucket:
        with spinner(f"Exporting {user_id}"):
            log = CommitLog(bucket, user_id, settings=settings, engine=ENGINE)
            hydrated = await export_directory(log, directory, at=at)
    out.print(
        f"{directory}: commit {hydrated.position.seq} of user {user_id}, {decimal(hydrated.image.size)}", markup=False
    )
    return 0


def import_directory(settings: Settings, directory: Path, user_id: str) -> int:
    """Commit a plain Chroma directory as a user's vectorstore."""
    return run(_import(settings, directory, check_user_id(user_id)))


async def _import(settings: Settings, directory: Path, user_id: str) -> int:
    async with open_store(settings) as bucket:
        with spinner(f"Importing {directory}"):
            async with audited(bucket, settings, "import", user_id) as told:
                position = await CommitLog(bucket, user_id, settings=settings, engine=ENGINE).adopt(directory)
                told["commit"] = position.seq
    out.print(f"{directory} is commit {position.seq} of user {user_id}", markup=False)
    return 0
