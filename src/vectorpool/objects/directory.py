"""A bucket in a local directory (or a mounted one): every object is one file, at the path of its key.

Consistency. ``create`` writes a file in the staging directory and *links* it to its name: exactly one
link succeeds, and readers see all of the bytes or nothing. ``put`` renames over the name. Neither leaves a
half-written object when the process is killed. What replaces or deletes an object holds a lock of the staging directory
for that one step, so that ``replace`` and ``remove`` compare the ETag of what they change.

Crash consistency. A killed process leaves at most a file in the staging directory, which no listing shows and
which is swept at open once it is a day old (another instance may be writing a younger one). With ``fsync`` on,
the file is flushed before it gets its name, and the directory (and each new directory above it) before the
call returns: what was acknowledged survives power loss too. Without it, data survives only killed processes.

Limits. All instances must see one file system with working hard links; a key must fit it (255 bytes a segment), and
cannot be both an object and a "directory", which ``vectorpool.names`` never needs. Blocking calls run in threads.

Others may write into the directory too. Only regular files are objects, and no link below the root is followed: neither
to read what lies elsewhere, nor to write or delete there (``platform.trees``).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Final, TypeVar

from vectorpool.objects.bucket import (
    Body,
    BucketDenied,
    BucketFull,
    BucketUnavailable,
    KeyTaken,
    KeyTooLong,
    ObjectChanged,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    WithoutUploadUrls,
    check_key,
    check_prefix,
    check_range,
)
from vectorpool.objects.prefix_pages import folder_page
from vectorpool.objects.unusable import UnusableLog
from vectorpool.platform.name_cache import NameCache
from vectorpool.platform.privacy import shared_mode
from vectorpool.platform.trees import fsync_directory, make_directories, open_directory, open_file
from vectorpool.sources import SYSTEM, Sources

STAGING: Final = ".vectorpool-staging"
STAGING_MAX_AGE_MS: Final = 24 * 3600 * 1000
_THREADS: Final = 16
_COPY_BYTES: Final = 1024**2
# A delete prunes emptied directories while a write makes them: the write then tries again, at most this often.
_ATTEMPTS: Final = 100
_REFUSED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
# EFBIG is a limit of the process or of the file system on the size of one file.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHARED_NAME: Final = "a directory and an object cannot share a name, and links are not followed"

T = TypeVar("T")


def _etag(info: os.stat_result) -> str:
    """Return an ETag: a write makes a new file, so inode, time and size distinguish any two writes."""
    return f'"{info.st_ino:x}-{info.st_mtime_ns:x}-{info.st_size:x}"'


class DirectoryBucket(WithoutUploadUrls):
    """Objects as files below ``root``, which is created if it is missing.

    Raises BucketDenied from the constructor if the directory cannot be made or written.
    """

    def __init__(self, root: str | Path, *, fsync: bool = False, sources: Sources = SYSTEM) -> None:
        try:
            self._root = Path(root).absolute()
        except OSError as error:
            raise BucketDenied(f"the directory {root} cannot be found: the working directory is gone") from error
        self._staging = self._root / STAGING
        self._fsync = fsync
        self._sources = sources
        self._unusable = UnusableLog(self._root.as_uri())
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="directory-bucket")
        try:
            make_directories(self._staging, fsync=fsync)
            self._sweep()
        except OSError as error:
            self._threads.shutdown(wait=False)
            raise BucketDenied(f"the directory {self._root} cannot be used as store: {error.strerror}") from error
        self._names = NameCache(self._root)

    @property
    def url(self) -> str:
        return self._root.as_uri()

    @contextlib.contextmanager
    def _parent(self, key: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Yield a descriptor of the directory that a key lies in, and the name there."""
        *segments, name = key.split("/")
        with open_directory(self._root, *segments, make=make, fsync=self._fsync) as parent:
            yield parent, name

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ObjectMissing(f"{self.url} has no such object: {error.filename}") from error
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                # Nothing that is stored has such a name; a write says more, see ``_write``.
                raise ObjectMissing(f"{self.url} has no such object: its name is too long") from error
            kind = BucketDenied if error.errno in _REFUSED else BucketUnavailable
            raise kind(f"{self.url}: {error.strerror}") from error

    @staticmethod
    def _check(key: str) -> str:
        check_key(key)
        if key.partition("/")[0] == STAGING:
            raise ValueError(f"the object key {key!r} lies in the staging directory")
        return key

    # --- Reading -------------------------------------------------------------------------------------

    async def get(self, key: str) -> Body:
        return await self._run(partial(self._get, self._check(key)))

    def _open(self, key: str) -> IO[bytes]:
        with self._parent(key) as (parent, name):
            return os.fdopen(open_file(parent, name), "rb")

    def _get(self, key: str) -> Body:
        with self._open(key) as file:
            return Body(file.read(), _etag(os.fstat(file.fileno())))

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        check_range(start, end)
        return await self._run(partial(self._get_range, self._check(key), start, end))

    def _get_range(self, key: str, start: int, end: int) -> bytes:
        with self._open(key) as file:
            file.seek(start)
            return file.read(end - start)

    def is_surely_absent(self, key: str) -> bool:
        return self._names.is_absent(self._check(key))

    async def head(self, key: str) -> ObjectInfo:
        return await self._run(partial(self._head, self._check(key)))

    def _head(self, key: str) -> ObjectInfo:
        with self._parent(key) as (parent, name):
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        return self._info(key, info)

    @staticmethod
    def _info(key: str, info: os.stat_result) -> ObjectInfo:
        if not stat.S_ISREG(info.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not an object", key)
        return ObjectInfo(key, info.st_size, _etag(info), info.st_mtime_ns // 1_000_000)

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        check_prefix(prefix)
        return await self._run(partial(self._list, prefix, limit, after))

    def _list(self, prefix: str, limit: int, after: str | None) -> list[ObjectInfo]:
        found: list[ObjectInfo] = []
        if limit > 0:
            for key, path in self._walk(prefix, after):
                try:
                    found.append(self._info(key, os.lstat(path)))
                except FileNotFoundError:
                    continue  # Deleted since the directory was read, or no regular file.
                if len(found) >= limit:
                    break
        self._unusable.note(info.key for info in found)
        return found

    def _walk(self, prefix: str, after: str | None) -> Iterator[tuple[str, str]]:
        """Yield (key, path) in key order. A directory sorts as its name and a slash, as in a flat key space."""
        # A path object for each entry would take longer than the look at the file.
        directory = f"{self._root}/{prefix}"
        entries = sorted(name + "/" if is_directory else name for name, is_directory in self._scan(prefix))
        for name in entries:
            key = prefix + name
            if key == STAGING + "/":
                continue
            if name.endswith("/"):
                # A whole directory before ``after`` is skipped unread.
                if after is None or key > after or after.startswith(key):
                    yield from self._walk(key, after)
            elif after is None or key > after:
                yield key, directory + name

    async def list_prefixes(self, prefix: str, *, limit: int | None = None, after: str | None = None) -> list[str]:
        check_prefix(prefix)
        if limit is not None:
            return await self._run(partial(self._page_of_prefixes, prefix, limit, after))
        return await self._run(partial(self._list_prefixes, prefix))

    def _page_of_prefixes(self, prefix: str, limit: int, after: str | None) -> list[str]:
        is_there = lambda name: next(self._walk(f"{prefix}{name}/", None), None) is not None  # noqa: E731 - one use
        found = folder_page(self._root, prefix, limit, after, is_there, passed_over=STAGING)
        self._unusable.note(prefix + name for name in found)
        return found

    def _list_prefixes(self, prefix: str) -> list[str]:
        names = sorted(name for name, is_directory in self._scan(prefix) if is_directory and prefix + name != STAGING)
        self._unusable.note(prefix + name for name in names)
        # An empty directory, which a kill between two steps can leave, is not a prefix: nothing is below it.
        return [name for name in names if next(self._walk(f"{prefix}{name}/", None), None) is not None]

    def _scan(self, prefix: str) -> list[tuple[str, bool]]:
        """Return (name, whether it is a directory) of what lies directly below a prefix; nothing for a link."""
        try:
            with open_directory(self._root, *prefix.split("/")[:-1]) as directory, os.scandir(directory) as scan:
                return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan]
        except (FileNotFoundError, NotADirectoryError):
            return []

    # --- Writing -------------------------------------------------------------------------------------

    async def create(self, key: str, data: bytes) -> str:
        return await self._run(partial(self._write, self._check(key), data, only_if_free=True))

    async def put(self, key: str, data: bytes) -> str:
        return await self._run(partial(self._write, self._check(key), data, only_if_free=False))

    async def replace(self, key: str, data: bytes, etag: str) -> str:
        return await self._run(partial(self._write, self._check(key), data, only_if_free=False, instead_of=etag))

    async def remove(self, key: str, etag: str) -> None:
        try:
            await self._run(partial(self._delete, self._check(key), etag))
        except ObjectMissing as error:
            raise ObjectChanged(str(error)) from None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Exclude all others that replace or delete an object, in this process and in others, for as long as it takes.

        ``create`` needs no such lock: it never replaces what a condition was compared with.
        """
        descriptor = os.open(self._staging, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _require(self, parent: int, name: str, key: str, etag: str) -> None:
        try:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            info = None
        if info is None or _etag(info) != etag:
            raise ObjectChanged(f"{self.url} has another object {key!r} now, or none")

    async def copy(self, source: str, target: str) -> None:
        await self._run(partial(self._copy, self._check(source), self._check(target)))

    def _copy(self, source: str, target: str) -> None:
        # Not a link: another program may write into the file that it knows.
        with self._open(source) as file:
            self._write(target, file, only_if_free=False)

    def _write(self, key: str, data: bytes | IO[bytes], *, only_if_free: bool, instead_of: str | None = None) -> str:
        # Paths as texts: each step on a path object costs more than a system call.
        staged = f"{self._staging}/{self._sources.uuid()}"
        try:
            try:
                etag = self._stage(staged, data)
                self._name(staged, key, only_if_free=only_if_free, instead_of=instead_of)
            except OSError as error:
                # The object has no name yet, so nothing was written.
                if error.errno in _FULL:
                    raise BucketFull(f"{self.url}: {error.strerror}") from error
                if error.errno == errno.ENAMETOOLONG:
                    raise KeyTooLong(
                        f"{self.url}: a part of {key!r} is longer than the file system's limit for a name"
                    ) from error
                raise
        finally:
            # A file that cannot be removed is swept later. The object may have its name by now.
            with contextlib.suppress(OSError):
                os.unlink(staged)  # noqa: PTH108
        if self._fsync:
            try:
                fsync_directory((self._root / key).parent)
            except OSError as error:
                raise BucketUnavailable(f"{self.url}: {error.strerror}, after the object was written") from error
        return etag

    def _stage(self, staged: str, data: bytes | IO[bytes]) -> str:
        """Write a file in the staging directory; return its ETag."""
        with open(staged, "xb") as file:  # noqa: PTH123
            if (mode := shared_mode(0o666)) is not None:
                os.fchmod(file.fileno(), mode)
            if isinstance(data, bytes):
                file.write(data)
            else:
                shutil.copyfileobj(data, file, _COPY_BYTES)
            file.flush()
            if self._fsync:
                os.fsync(file.fileno())
            return _etag(os.fstat(file.fileno()))

    def _name(self, staged: str, key: str, *, only_if_free: bool, instead_of: str | None) -> None:
        """Give a staged file its name, in one step of the file system."""
        for _ in range(_ATTEMPTS):
            try:
                with self._parent(key, make=instead_of is None) as (parent, name):
                    if only_if_free:
                        os.link(staged, name, dst_dir_fd=parent)
                        return
                    with self._changing():
                        if instead_of is not None:
                            self._require(parent, name, key, instead_of)
                        os.replace(staged, name, dst_dir_fd=parent)
            except FileExistsError:
                path = self._root / key
                if only_if_free and (path.is_file() or path.is_symlink()):
                    raise ObjectExists(f"{self.url} already has an object {key}") from None
                if path.is_dir() or any(parent.is_file() for parent in path.parents):
                    raise self._taken(key) from None
                # The obstacle is gone again: a directory pruned while it was made, or a deleted object.
            except FileNotFoundError:
                # A delete pruned the directory between the two steps. Without the staged file, a retry cannot succeed.
                if instead_of is not None:
                    raise ObjectChanged(f"{self.url} has no object {key!r} any more") from None
                if not os.path.exists(staged):  # noqa: PTH110
                    raise OSError(errno.EIO, "the staging directory was emptied by somebody else") from None
            except (IsADirectoryError, NotADirectoryError):
                raise self._taken(key) from None
            else:
                return
        raise OSError(errno.EAGAIN, "the directory is deleted again and again")

    def _taken(self, key: str) -> KeyTaken:
        return KeyTaken(f"{self.url}: {_SHARED_NAME} ({key!r})")

    async def delete(self, key: str) -> None:
        await self.delete_listed(self._check(key))

    async def delete_listed(self, key: str) -> None:
        if any(segment in ("", ".", "..") for segment in key.split("/")):
            raise ValueError(f"no file has the object key {key!r}")
        try:
            await self._run(partial(self._delete, key))
        except ObjectMissing:
            return

    def _delete(self, key: str, etag: str | None = None) -> None:
        path = self._root / key
        with self._parent(key) as (parent, name), self._changing():
            if etag is not None:
                self._require(parent, name, key, etag)
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                return
            os.unlink(name, dir_fd=parent)
        if self._fsync:
            fsync_directory(path.parent)
        for emptied in path.parents:
            if emptied == self._root:
                break
            try:
                emptied.rmdir()
            except OSError:
                break  # Not empty, or another delete was first.

    # --- Opening and closing -------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Remove old files that killed writers left in the staging directory."""
        oldest_ms = self._sources.now_ms() - STAGING_MAX_AGE_MS
        with os.scandir(self._staging) as scan:
            for entry in scan:
                try:
                    if entry.stat().st_mtime_ns // 1_000_000 < oldest_ms:
                        Path(entry.path).unlink(missing_ok=True)
                except FileNotFoundError:
                    continue  # Its writer was alive, or another instance swept it.

    async def close(self) -> None:
        self._names.close()
        await asyncio.to_thread(self._threads.shutdown)
