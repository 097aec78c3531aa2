"""``vectorpool ingest FOLDER``: a folder's files become an avatar's documents, and those become records.

It works by itself over the store (``Alone``), or through a running service (``cli.remote``). A file is uploaded if its
bytes differ from the document's. No link leads out of the folder: directories that are links are not entered, and a
file that is a link is read only if it leads to a file within.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from vectorpool.api.service import Service
from vectorpool.cli.console import err, out, progress_bar, run
from vectorpool.cli.documents import temporary_service
from vectorpool.cli.remote import Remote
from vectorpool.documents.reports import IngestProgress, IngestReport
from vectorpool.errors import DocumentNotFound, InvalidId, InvalidRequest, NotFound
from vectorpool.names import check_avatar_id, check_document_path, check_user_id
from vectorpool.settings import Settings

# Files compared and uploaded at the same time.
_UPLOADS: Final = 8
# Failed documents that are printed; the number of the others is.
_SHOWN: Final = 100

Show = Callable[[IngestProgress], None]


class Target(Protocol):
    """Where the documents of a folder go."""

    def known(self) -> AsyncIterator[tuple[str, int, str]]:
        """Yield path, bytes and ETag of every document of the avatar."""
        ...

    async def read(self, path: str) -> bytes:
        """Return a document's bytes."""
        ...

    async def put(self, path: str, data: bytes) -> None:
        """Write a document."""
        ...

    async def delete(self, path: str) -> None:
        """Delete a document with its records; it is no error if it is gone."""
        ...

    async def ingest(self, paths: list[str], *, force: bool, show: Show) -> IngestReport:
        """Make records of these documents."""
        ...


class Alone:
    """An instance of the command's own, over the same store."""

    def __init__(self, service: Service, user_id: str, avatar_id: str) -> None:
        self._service = service
        self._names = user_id, avatar_id

    async def known(self) -> AsyncIterator[tuple[str, int, str]]:
        async for document in self._service.library.iterate(*self._names):
            yield document.path, document.size, document.etag

    async def read(self, path: str) -> bytes:
        return (await self._service.library.get(*self._names, path)).data

    async def put(self, path: str, data: bytes) -> None:
        await self._service.library.put(*self._names, path, data)

    async def delete(self, path: str) -> None:
        with suppress(DocumentNotFound):
            await self._service.library.delete(*self._names, path)
        with suppress(NotFound):
            await self._service.ingestor.forget(*self._names, path)

    async def ingest(self, paths: list[str], *, force: bool, show: Show) -> IngestReport:
        return await self._service.ingestor.ingest(*self._names, paths, force=force, progress=show)


class Upload(NamedTuple):
    """What became of the files: how many were uploaded and removed, and those that could not be."""

    changed: int
    removed: int
    failed: dict[str, str]


class Folder(NamedTuple):
    """The files of a folder by document path, and what was passed over, with its reason."""

    files: dict[str, Path]
    passed_over: dict[str, str]


def files_of(folder: Path) -> Folder:
    """Return the files below a folder that are not hidden. Links out of the folder are passed over, never followed."""
    root = folder.resolve()
    found = Folder({}, {})
    for file in sorted(_walk(folder)):
        path = file.relative_to(folder).as_posix()
        if file.is_symlink():
            target = file.resolve()
            if not target.is_relative_to(root) or not target.is_file():
                found.passed_over[path] = "a link out of the folder, or to no file"
                continue
            file = target
        try:
            # A name that is no text in UTF-8 has no path.
            path.encode()
            found.files[check_document_path(path)] = file
        except UnicodeEncodeError:
            found.passed_over[path.encode(errors="replace").decode()] = "its name is not UTF-8"
        except InvalidId as error:
            found.passed_over[path] = error.detail
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(parent) / name
            # Neither pipes nor devices: reading one may never end.
            if not name.startswith(".") and (file.is_symlink() or file.is_file()):
                yield file


def ingest(
    settings: Settings,
    folder: Path,
    user_id: str,
    avatar_id: str,
    force: bool,
    mirror: bool,
    service: str | None,
    token_file: Path | None,
) -> int:
    """Upload the changed files of a folder and ingest them; return 1 if a document failed."""
    check_user_id(user_id)
    check_avatar_id(avatar_id)
    if service is None:
        if token_file is not None:
            raise InvalidRequest("A token is for a service. Name it with --service URL, or leave --token-file out.")
        target = _alone(settings, user_id, avatar_id)
    else:
        target = Remote.open(service, token_file, user_id, avatar_id)
    return run(_ingest(target, folder, force=force, mirror=mirror))


@asynccontextmanager
async def _alone(settings: Settings, user_id: str, avatar_id: str) -> AsyncIterator[Target]:
    async with temporary_service(settings) as service:
        yield Alone(service, user_id, avatar_id)


async def _ingest(opening: AbstractAsyncContextManager[Target], folder: Path, *, force: bool, mirror: bool) -> int:
    found = await asyncio.to_thread(files_of, folder)
    if not found.files:
        raise InvalidRequest(f"{folder} holds no files that are not hidden. Name a folder with documents.")
    async with opening as target:
        with progress_bar() as bar:
            uploading = bar.add_task("Uploading", total=len(found.files), note="")
            uploaded = await _upload(
                target, found.files, mirror=mirror, show=lambda path: bar.update(uploading, advance=1, note=path)
            )
            removed = f", {uploaded.removed} removed" if mirror else ""
            bar.update(uploading, note=f"{uploaded.changed} changed{removed}")
            ingesting = bar.add_task("Ingesting", total=None, note="")

            def show(progress: IngestProgress) -> None:
                bar.update(
                    ingesting,
                    completed=progress.documents_done,
                    total=progress.documents_total,
                    note=f"{progress.chunks_embedded} chunks, {progress.path}",
                )

            paths = sorted(found.files.keys() - uploaded.failed.keys())
            report = await target.ingest(paths, force=force, show=show)
            bar.update(ingesting, note="")
    return _summarise(report, uploaded, found.passed_over, mirror=mirror)


async def _upload(target: Target, files: dict[str, Path], *, mirror: bool, show: Callable[[str], None]) -> Upload:
    """Upload the files whose bytes differ, and with ``mirror`` delete documents that are no files."""
    known = {path: (size, etag) async for path, size, etag in target.known()}
    gate = asyncio.Semaphore(_UPLOADS)
    failed: dict[str, str] = {}

    async def upload(path: str, file: Path) -> bool:
        async with gate:
            try:
                return await _upload_one(target, path, file, known.get(path))
            except OSError as error:
                failed[path] = f"the file cannot be read: {error.strerror}"
            except InvalidRequest as error:
                failed[path] = error.detail
            finally:
                show(path)
            return False

    async def remove(path: str) -> None:
        async with gate:
            await target.delete(path)

    gone = sorted(known.keys() - files.keys()) if mirror else []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(upload(path, file)) for path, file in files.items()]
            for path in gone:
                group.create_task(remove(path))
    except ExceptionGroup as errors:
        # The first says why the store or the service does not take them.
        raise errors.exceptions[0] from None
    return Upload(sum(task.result() for task in tasks), len(gone), failed)


async def _upload_one(target: Target, path: str, file: Path, known: tuple[int, str] | None) -> bool:
    """Upload a file unless the document has the same bytes; return whether it did."""
    data = await asyncio.to_thread(file.read_bytes)
    if known is not None and known[0] == len(data):
        # Many stores use the MD5 of the bytes as the ETag; for other ETags, compare the bytes themselves.
        digest = await asyncio.to_thread(lambda: hashlib.md5(data, usedforsecurity=False).hexdigest())
        if known[1].strip('"') == digest:
            return False
        with suppress(DocumentNotFound):
            if await target.read(path) == data:
                return False
    await target.put(path, data)
    return True


def _summarise(report: IngestReport, uploaded: Upload, passed_over: dict[str, str], *, mirror: bool) -> int:
    for path, reason in sorted(passed_over.items()):
        err.print(f"{path}: passed over: {reason}", style="yellow", markup=False)
    failed = {outcome.path: outcome.reason or "" for outcome in report.documents if outcome.status == "failed"}
    failed.update(uploaded.failed)
    for path, reason in sorted(failed.items())[:_SHOWN]:
        err.print(f"{path}: {reason}", style="red", markup=False)
    if len(failed) > _SHOWN:
        err.print(f"and {len(failed) - _SHOWN} more", style="red", markup=False)
    chunks = sum(outcome.chunks for outcome in report.documents if outcome.status == "ingested")
    removed = f"{uploaded.removed} removed, " if mirror else ""
    out.print(
        f"{report.count('ingested')} ingested ({chunks} chunks), {report.count('unchanged')} unchanged, {removed}"
        f"{len(failed)} failed; commit {report.commit}"
    )
    return 1 if failed else 0
