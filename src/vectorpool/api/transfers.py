"""A vectorstore as a tar stream: exported with constant memory, and imported whole or not at all.

An export is built by the user's shard in a scratch directory, from the log: neither a slot nor a lock is held while a
reader is slow. An import is unpacked into such a directory by the front, and committed by the shard once its end has
come. The number of both at once is bounded, and so is the time of an export, by its size.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from litestar import Controller, Response, get, put
from litestar.params import QueryParameter
from litestar.types import Receive, Scope, Send

from vectorpool import commands, operating
from vectorpool.api.auditing import audited
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.durations import EXPORT_S, IMPORT_S
from vectorpool.api.namespaces import UserId
from vectorpool.api.problems import COMMIT_HEADER
from vectorpool.api.responses import respond
from vectorpool.commitlog.format import MAX_FILES, MAX_STATE_BYTES, check_path
from vectorpool.commitlog.scratch import make_scratch
from vectorpool.errors import (
    CommitNotFound,
    InvalidRequest,
    LimitExceeded,
    LocalDiskFailed,
    QueueFull,
    UserNotFound,
    VectorstoreExists,
)
from vectorpool.local_paths import scratch_dir
from vectorpool.names import check_user_id
from vectorpool.operating import Exported, Imported
from vectorpool.platform.local_disk import on_local_disk
from vectorpool.platform.tars import CHUNK_BYTES, TarReader, tar_chunks, tar_size
from vectorpool.platform.trees import regular_files
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM

_logger = logging.getLogger(__name__)

TAR: Final = "application/x-tar"
# Exports and imports at once, each with a directory of its own.
MOST_AT_ONCE: Final = 4
# An import's commit is one object, which is packed in memory.
MAX_IMPORT_BYTES: Final = 1024**3
# The slowest reader of an export that is waited for, over all of it.
_LEAST_BYTES_PER_S: Final = 256 * 1024
# How long a response may take to begin once its archive is built.
_BEGIN_S: Final = 60.0

At = Annotated[int | None, QueryParameter(ge=1, description="Of this commit; the newest if left out.")]


class Transfers:
    """The places for exports and imports of one instance. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._parent = scratch_dir(Path(settings.replica_dir))
        self._under_way = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Path]:
        """Yield an empty directory, and remove it. Raises QueueFull, LocalDiskFailed."""
        if self._under_way >= MOST_AT_ONCE:
            raise QueueFull(f"{MOST_AT_ONCE} exports and imports are under way. Send the request later.")
        self._under_way += 1
        path: Path | None = None
        try:
            with on_local_disk(self._parent):
                path = await asyncio.to_thread(make_scratch, self._parent)
                yield path
        finally:
            self._under_way -= 1
            if path is not None:
                await asyncio.shield(asyncio.to_thread(shutil.rmtree, path, ignore_errors=True))


class Archive:
    """A directory that is sent as an archive and then removed, in any case: an ASGI application of one request."""

    def __init__(self, place: AbstractAsyncContextManager[Path], path: Path, sizes: dict[str, int], exported: Exported):
        self._place: AbstractAsyncContextManager[Path] | None = place
        self._path = path
        self._sizes = sizes
        self._exported = exported
        self._removing: asyncio.Task[None] | None = None
        # A request that ends between its handler and its first byte.
        self._timer = asyncio.get_running_loop().call_later(_BEGIN_S, self._give_up)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, a part in memory at a time, no faster than the caller takes it."""
        self._timer.cancel()
        time_s = SYSTEM.now_ms() // 1000
        headers = {
            "content-type": TAR,
            "content-length": str(tar_size(self._sizes, time_s)),
            "content-disposition": 'attachment; filename="vectorstore.tar"',
            COMMIT_HEADER.lower(): str(self._exported.commit),
        }
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": encoded})
            if await self._send_all(send, gone, time_s):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            # Else without its announced length: the connection is closed, and the caller sees that it is not whole.
        finally:
            gone.cancel()
            await self._remove()

    async def _send_all(self, send: Send, gone: asyncio.Task[None], time_s: int) -> bool:
        """Send the archive; return False if it breaks off: its caller left or is too slow, or a file is gone."""
        deadline_s = SYSTEM.monotonic_s() + EXPORT_S + self._exported.bytes / _LEAST_BYTES_PER_S
        chunks = tar_chunks(self._path, self._sizes, time_s)
        try:
            while (data := await asyncio.to_thread(next, chunks, None)) is not None:
                # A caller that takes nothing is disconnected after transfer_timeout_s.
                await send({"type": "http.response.body", "body": data, "more_body": True})
                if gone.done() or SYSTEM.monotonic_s() > deadline_s:
                    _logger.warning("an export broke off: its caller %s", "left" if gone.done() else "is too slow")
                    return False
        except OSError as error:
            _logger.error("an export broke off: %s", error)
            return False
        return True

    def _give_up(self) -> None:
        self._removing = asyncio.get_running_loop().create_task(self._remove())

    async def _remove(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            await place.__aexit__(None, None, None)


async def _until_gone(receive: Receive) -> None:
    """Return when the caller has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


class ArchiveResponse(Response[Any]):
    """The response that an archive is."""

    def __init__(self, archive: Archive) -> None:
        super().__init__(content=None, media_type=TAR)
        self._archive = archive

    def to_asgi_response(self, *args: Any, **options: Any) -> Any:
        """Return the archive, which answers by itself."""
        return self._archive


class TransferRoutes(Controller):
    """Whole vectorstores, in and out."""

    path = "/admin/users/{user_id:str}"
    tags = ("admin",)

    @get(
        "/export",
        summary="Export a vectorstore",
        operation_class=documented(gives=TAR, problems=(UserNotFound, CommitNotFound, LocalDiskFailed)),
    )
    async def export_user(self, request: Call, user_id: UserId, at: At = None) -> Response[Any]:
        """Send a user's vectorstore as a tar stream of a plain Chroma directory, which Chroma's own client opens.

        What was acknowledged is in it. The stream has its length; one that is shorter broke off.
        """
        check_user_id(user_id)
        request.context.allow(EXPORT_S)
        transfers = request.app.state.transfers
        place = transfers.place()
        async with audited(request, "export", user_id, of_commit=at) as told:
            path = await place.__aenter__()
            try:
                answer = await request.execute(user_id, commands.ExportTo(directory=str(path), commit=at))
                sizes = await asyncio.to_thread(regular_files, path, max_files=MAX_FILES, max_bytes=MAX_STATE_BYTES)
            except BaseException:
                await place.__aexit__(None, None, None)
                raise
            exported = msgspec.json.decode(answer.body, type=Exported)
            told |= {"commit": exported.commit, "bytes": exported.bytes}
        return ArchiveResponse(Archive(place, path, sizes, exported))

    @put(
        "/import",
        status_code=201,
        summary="Import a vectorstore",
        request_max_body_size=None,
        operation_class=documented(
            takes=TAR,
            gives=operating.Imported,
            problems=(VectorstoreExists, InvalidRequest, LimitExceeded, LocalDiskFailed),
        ),
    )
    async def import_user(self, request: Call, user_id: UserId) -> Response[Any]:
        """Make a tar stream of a plain Chroma directory the vectorstore of a user who has none.

        Files and directories alone, no links; the directory is checked before it is opened. A stream that breaks off,
        or holds anything else, imports nothing.
        """
        check_user_id(user_id)
        request.context.allow(IMPORT_S)
        imported = await take_import(request, user_id)
        return respond(imported, commit=imported.commit, status=201)


async def take_import(request: Call, user_id: str) -> Imported:
    """Commit the directory that a request's body is a tar of, once it is whole. Raises VectorstoreExists, QueueFull."""
    async with request.app.state.transfers.place() as path, audited(request, "import", user_id) as told:
        reader = TarReader(path, max_files=MAX_FILES, max_bytes=MAX_IMPORT_BYTES, check=check_path)
        try:
            await _unpack(request, reader)
        finally:
            reader.close()
        sizes = reader.finish()
        answer = await request.execute(user_id, commands.ImportFrom(directory=str(path)))
        imported = msgspec.json.decode(answer.body, type=Imported)
        imported.files, imported.bytes = len(sizes), sum(sizes.values())
        told |= {"commit": imported.commit, "files": imported.files, "bytes": imported.bytes}
    return imported


async def _unpack(request: Call, reader: TarReader) -> None:
    """Feed a body to a reader, a part in memory at a time: the caller sends no faster than the disk takes it."""
    held = bytearray()
    async for data in request.stream():
        held += data
        if len(held) >= CHUNK_BYTES:
            await asyncio.to_thread(reader.feed, bytes(held))
            held.clear()
    await asyncio.to_thread(reader.feed, bytes(held))
