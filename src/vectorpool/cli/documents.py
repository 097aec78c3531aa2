"""``vectorpool ingest`` and ``query``: an instance of its own for one command, over the same store.

Its replicas live in a temporary directory. This is correct beside a running service: the commit log orders
the commits of both, and each takes in the other's commit before its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from vectorpool.answers import QueryResult
from vectorpool.api.service import Service
from vectorpool.app import open_service
from vectorpool.cli.console import err, out, progress_bar, run
from vectorpool.commands import ReadOptions
from vectorpool.context import RequestContext
from vectorpool.documents.library import Document, DocumentLibrary
from vectorpool.documents.reports import IngestProgress, IngestReport
from vectorpool.errors import InvalidId, InvalidRequest
from vectorpool.names import check_avatar_id, check_document_path, check_user_id
from vectorpool.settings import Settings

# Files compared and uploaded at the same time.
_UPLOADS: Final = 8


@asynccontextmanager
async def temporary_service(settings: Settings) -> AsyncIterator[Service]:
    """Open an instance with one shard in this process, whose replicas are removed with it."""
    with tempfile.TemporaryDirectory(prefix="vectorpool-") as directory:
        own = msgspec.structs.replace(settings, shards=-1, replica_dir=directory)
        async with open_service(own) as service:
            yield service


# --- ingest ------------------------------------------------------------------------------------------


def ingest(settings: Settings, folder: Path, user_id: str, avatar_id: str, force: bool) -> int:
    """Upload the changed files of a folder and ingest them; return 1 if a document failed."""
    check_user_id(user_id)
    check_avatar_id(avatar_id)
    return run(_ingest(settings, folder, user_id, avatar_id, force))


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (document path, file) of every file below a folder that is not hidden, sorted; raise InvalidId."""
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or not file.is_file():
            continue
        path = relative.as_posix()
        try:
            yield check_document_path(path), file
        except InvalidId as error:
            raise InvalidId(f"{file}: {error.detail}") from None


async def _ingest(settings: Settings, folder: Path, user_id: str, avatar_id: str, force: bool) -> int:
    files = dict(files_of(folder))
    if not files:
        raise InvalidRequest(f"{folder} holds no files that are not hidden. Name a folder with documents.")
    async with temporary_service(settings) as service:
        with progress_bar() as bar:
            uploading = bar.add_task("Uploading", total=len(files), note="")
            known = {d.path: d async for d in service.library.iterate(user_id, avatar_id)}
            gate = asyncio.Semaphore(_UPLOADS)

            async def upload(path: str, file: Path) -> bool:
                async with gate:
                    changed = await _upload(service.library, user_id, avatar_id, path, file, known.get(path))
                bar.update(uploading, advance=1, note=path)
                return changed

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(upload(path, file)) for path, file in files.items()]
            bar.update(uploading, note=f"{sum(task.result() for task in tasks)} changed")
            ingesting = bar.add_task("Ingesting", total=None, note="")

            def show(progress: IngestProgress) -> None:
                bar.update(
                    ingesting,
                    completed=progress.documents_done,
                    total=progress.documents_total,
                    note=f"{progress.chunks_embedded} chunks, {progress.path}",
                )

            report = await service.ingestor.ingest(user_id, avatar_id, sorted(files), force=force, progress=show)
    return _show_report(report)


async def _upload(
    library: DocumentLibrary, user_id: str, avatar_id: str, path: str, file: Path, known: Document | None
) -> bool:
    """Upload a file unless the library has the same bytes; return whether it did."""
    data = await asyncio.to_thread(file.read_bytes)
    if known is not None and known.size == len(data):
        # Many stores use the MD5 of the bytes as the ETag; for other ETags, compare the bytes themselves.
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if known.etag.strip('"') == digest:
            return False
        if (await library.get(user_id, avatar_id, path)).data == data:
            return False
    await library.put(user_id, avatar_id, path, data)
    return True


def _show_report(report: IngestReport) -> int:
    failed = [outcome for outcome in report.documents if outcome.status == "failed"]
    for outcome in failed:
        err.print(f"{outcome.path}: {outcome.reason}", style="red", markup=False)
    chunks = sum(outcome.chunks for outcome in report.documents if outcome.status == "ingested")
    out.print(
        f"{report.count('ingested')} ingested ({chunks} chunks), {report.count('unchanged')} unchanged, "
        f"{len(failed)} failed; commit {report.commit}"
    )
    return 1 if failed else 0


# --- query -------------------------------------------------------------------------------------------


def query(settings: Settings, text: str, user_id: str, avatar_id: str, n_results: int, at: int | None) -> int:
    """Print the passages nearest to a question, as of commit ``at`` or now; return 1 if there are none."""
    check_user_id(user_id)
    check_avatar_id(avatar_id)
    if not text.strip():
        raise InvalidRequest("The question is empty. Ask in words.")
    return run(_query(settings, text, user_id, avatar_id, n_results, RequestContext(read=ReadOptions(at=at))))


async def _query(
    settings: Settings, text: str, user_id: str, avatar_id: str, n_results: int, context: RequestContext
) -> int:
    async with temporary_service(settings) as service:
        answer = await service.ingestor.query(user_id, avatar_id, text, n_results, context=context)
    found = msgspec.json.decode(answer.body, type=QueryResult)
    for matches in found.results:
        for number, match in enumerate(matches, start=1):
            metadata = match.metadata or {}
            place = f"{metadata.get('path', match.id)}:{metadata.get('start', 0)}-{metadata.get('end', 0)}"
            out.print(f"{number}. {place}  (distance {match.distance:.3f})", style="bold", markup=False)
            out.print((match.document or "").strip(), markup=False)
            out.print()
    return 0 if any(found.results) else 1
