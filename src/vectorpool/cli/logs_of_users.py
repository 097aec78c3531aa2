"""``vectorpool admin compact``, ``scrub``, ``deletion`` and ``delete``: on a service, or straight on a bucket."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.filesize import decimal

from vectorpool import answers
from vectorpool.cli.auditing import audited
from vectorpool.cli.logs import open_store
from vectorpool.cli.places import Place, log_of, path_of, run_at, time_text
from vectorpool.commitlog.deletions import load_receipt
from vectorpool.documents.library import DocumentLibrary
from vectorpool.documents.removal import remove_user
from vectorpool.errors import DeletionNotFound
from vectorpool.names import check_user_id
from vectorpool.objects.unusable import printable
from vectorpool.settings import Settings
from vectorpool.targets.named import named_targets


def compact(settings: Settings, user_id: str, **place: Any) -> int:
    """Compact a log; print what was written."""

    async def work(where: Place) -> int:
        if where.service is not None:
            async with where.client() as client:
                done = await client.ask("POST", f"{path_of(user_id)}/compact")
        else:
            async with open_store(settings) as bucket, audited(bucket, settings, "compact", check_user_id(user_id)):
                _, compaction = await log_of(bucket, settings, user_id).compact_now()
                done = {"objects": len(compaction.written), "bytes": compaction.bytes}
        where.show(done, lambda told: f"{told['objects']} objects written, {decimal(told['bytes'])}")
        return 0

    return run_at(work, place)


def scrub(settings: Settings, user_id: str, **place: Any) -> int:
    """Verify a log; print what is wrong, and return 1 if anything is."""

    async def work(where: Place) -> int:
        if where.service is not None:
            async with where.client() as client:
                report = await client.ask("POST", f"{path_of(user_id)}/scrub")
        else:
            async with open_store(settings) as bucket:
                found = await log_of(bucket, settings, check_user_id(user_id)).verify()
            problems = [answers.Damage(commit=p.seq, key=p.key, what=p.what) for p in found.problems]
            report = msgspec.to_builtins(
                answers.Verification(
                    found.verified_at_ms,
                    found.newest_seq,
                    found.newest_intact_seq,
                    found.commits,
                    found.objects,
                    found.bytes,
                    problems,
                )
            )

        def text(told: Any) -> str:
            state = "DAMAGED" if told["problems"] else "intact"
            lines = [f"{state} at commit {told['newest_commit']} ({told['objects']} objects, {decimal(told['bytes'])})"]
            if told["problems"]:
                lines.append(f"newest intact commit: {told['newest_intact_commit'] or 'none'}")
            lines += [
                f"  commit {each['commit']}, {printable(each['key'])}: {each['what']}" for each in told["problems"]
            ]
            return "\n".join(lines)

        where.show(report, text)
        return 1 if report["problems"] else 0

    return run_at(work, place)


def _receipt(told: Any) -> str:
    lines = [
        f"user {printable(told['user_id'])}: deleted {time_text(told['deleted_at_ms'])} UTC as commit {told['commit']}",
        f"  {told['objects']} objects, {decimal(told['bytes'])}, {told['backups']} backups, "
        f"{told['documents'] or 0} documents",
        f"  log verified empty: {time_text(told['verified_empty_at_ms']) or 'not yet'}",
        f"  complete: {time_text(told.get('complete_at_ms')) or 'not yet'}",
    ]
    if left := told.get("left"):
        more = ", and more" if told.get("left_more") else ""
        lines.append(f"  left, because it is other programs': {', '.join(left)}{more}")
    for each in told.get("targets", []):
        when = time_text(each["deleted_at_ms"])
        state = f"{each['records']} records deleted {when} UTC" if when else f"not yet, {each['reason'] or 'it waits'}"
        lines.append(f"  target {each['target']}: {state}")
    return "\n".join(lines)


def deletion(settings: Settings, user_id: str, **place: Any) -> int:
    """Print the receipt of the last deletion."""

    async def work(where: Place) -> int:
        if where.service is not None:
            async with where.client() as client:
                told = await client.ask("GET", f"{path_of(user_id)}/deletion")
        else:
            async with open_store(settings) as bucket:
                receipt = await load_receipt(bucket, check_user_id(user_id))
            if receipt is None:
                raise DeletionNotFound(f"User {user_id} was never deleted, or before there were receipts.")
            told = msgspec.to_builtins(receipt)
        where.show(told, _receipt)
        return 0

    return run_at(work, place)


def delete(settings: Settings, user_id: str, **place: Any) -> int:
    """Delete all that is ours of a user; print the receipt, and return 1 if it is not complete."""

    async def work(where: Place) -> int:
        if where.service is not None:
            async with where.client() as client:
                told = await client.ask("DELETE", path_of(user_id))
        else:
            async with open_store(settings) as bucket, audited(bucket, settings, "delete-all", check_user_id(user_id)):
                log = log_of(bucket, settings, user_id)

                async def end(documents: int, seal: bool) -> int:
                    return await log.end(seal=seal, documents=documents)

                # The workers of a service delete there, once it runs.
                names = sorted(named_targets(settings))
                told = msgspec.to_builtins(
                    await remove_user(DocumentLibrary(bucket, settings), user_id, end, targets=names)
                )
        where.show(told, _receipt)
        return 0 if told["complete_at_ms"] else 1

    return run_at(work, place)
