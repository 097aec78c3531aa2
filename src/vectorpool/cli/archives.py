"""``vectorpool admin export`` and ``import``: a tar of a plain Chroma directory, through a service or a bucket."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

from rich.filesize import decimal

from vectorpool.cli.auditing import audited
from vectorpool.cli.console import err
from vectorpool.cli.logs import open_store
from vectorpool.cli.places import Place, log_of, path_of, run_at
from vectorpool.commitlog.format import MAX_FILES, MAX_STATE_BYTES, check_path
from vectorpool.commitlog.scratch import make_scratch
from vectorpool.errors import InvalidRequest
from vectorpool.local_paths import scratch_dir
from vectorpool.names import check_user_id
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.unusable import printable
from vectorpool.platform.tars import CHUNK_BYTES, TarReader, tar_chunks
from vectorpool.platform.trees import regular_files
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM
from vectorpool.vectorstore.exporting import export_directory


def export_user(settings: Settings, user_id: str, file: Path, at: int | None, **place: Any) -> int:
    """Write a vectorstore to a file as a tar; a file that is not whole is removed."""
    if str(file) != "-" and file.exists():
        raise InvalidRequest(f"{file} is there already. Name a new file.")

    async def work(where: Place) -> int:
        with _target(file) as target:
            if where.service is not None:
                path, params = f"{path_of(user_id)}/export", {} if at is None else {"at": at}
                async with where.client() as client, client.stream(path, params=params) as answer:
                    commit = int(answer.headers.get("x-vectorpool-commit", 0))
                    async for data in answer.aiter_bytes(CHUNK_BYTES):
                        await asyncio.to_thread(target.write, data)
            else:
                async with open_store(settings) as bucket, audited(bucket, settings, "export", check_user_id(user_id)):
                    commit = await _export(bucket, settings, user_id, at, target)
            target.flush()
        told = {"user_id": user_id, "commit": commit, "file": str(file)}
        if str(file) == "-":
            err.print(f"commit {commit} of user {user_id}", markup=False)
        else:
            where.show(told, lambda each: f"{each['file']}: commit {each['commit']} of user {each['user_id']}")
        return 0

    return run_at(work, place)


class _target:
    """A new file that is removed if its block fails; ``-`` is stdout."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._open: IO[bytes] | None = None

    def __enter__(self) -> IO[bytes]:
        if str(self._file) == "-":
            return sys.stdout.buffer
        try:
            self._open = self._file.open("xb")
        except OSError as error:
            raise InvalidRequest(f"{self._file} cannot be written: {error.strerror}. Name another file.") from None
        return self._open

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._open is not None:
            self._open.close()
            if kind is not None:
                self._file.unlink(missing_ok=True)


async def _export(bucket: Bucket, settings: Settings, user_id: str, at: int | None, target: IO[bytes]) -> int:
    with _scratch(settings) as path:
        hydrated = await export_directory(log_of(bucket, settings, user_id), path, at=at)
        sizes = regular_files(path, max_files=MAX_FILES, max_bytes=MAX_STATE_BYTES)
        for data in tar_chunks(path, sizes, SYSTEM.now_ms() // 1000):
            await asyncio.to_thread(target.write, data)
    return hydrated.position.seq


class _scratch:
    """An empty directory below the replica directory, removed at the end."""

    def __init__(self, settings: Settings) -> None:
        self._parent = scratch_dir(Path(settings.replica_dir))

    def __enter__(self) -> Path:
        self._path = make_scratch(self._parent)
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def import_user(settings: Settings, file: Path, user_id: str, **place: Any) -> int:
    """Import a tar; a stream that breaks off imports nothing."""

    async def work(where: Place) -> int:
        with _source(file) as source:
            if where.service is not None:
                async with where.client() as client:
                    headers = {"Content-Type": "application/x-tar"}
                    path = f"{path_of(user_id)}/import"
                    told = await client.ask("PUT", path, content=_parts(source), headers=headers)
            else:
                async with open_store(settings) as bucket, audited(bucket, settings, "import", check_user_id(user_id)):
                    told = await _import(bucket, settings, user_id, source)
        where.show(
            told,
            lambda each: (
                f"commit {each['commit']} of user {printable(each['user_id'])}: {each['files']} files, "
                f"{decimal(each['bytes'])}"
            ),
        )
        return 0

    return run_at(work, place)


def _source(file: Path) -> Any:
    if str(file) == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return file.open("rb")
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}. Name an archive.") from None


async def _parts(source: IO[bytes]) -> AsyncIterator[bytes]:
    while data := await asyncio.to_thread(source.read, CHUNK_BYTES):
        yield data


async def _import(bucket: Bucket, settings: Settings, user_id: str, source: IO[bytes]) -> Any:
    with _scratch(settings) as path:
        reader = TarReader(path, max_files=MAX_FILES, max_bytes=MAX_STATE_BYTES, check=check_path)
        try:
            async for data in _parts(source):
                reader.feed(data)
        finally:
            reader.close()
        sizes = reader.finish()
        position = await log_of(bucket, settings, user_id).adopt(path)
    return {"user_id": user_id, "commit": position.seq, "files": len(sizes), "bytes": sum(sizes.values())}
