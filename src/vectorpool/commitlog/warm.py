"""The warm tier: log objects cached on local disk, so that a vectorstore is opened again without a download.

The files are the bucket's objects: immutable, compressed, checksummed by the format. The reader checks a copy as if it
came from the network, so this module checks nothing. A copy's name has its object, and the ETag and size that the
bucket gave: a copy from a bucket that was emptied and filled again is not mistaken for the new object.

Eviction is by user, least recently used first, and drops all of a user's objects, because a part of a chain has no
use. Any thread may call. A lock guards the index, and little I/O happens under it. If the disk is full or fails, less
is cached.

The newest small objects are held in memory first, up to ``HELD_BYTES``, and written when newer ones need the room.
Most commits are merged, and dropped here, before that. Making a file is the largest part of the cost of a small
object.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

import cachetools
import msgspec
import xxhash

from vectorpool import names
from vectorpool.commitlog.plan import LogObject
from vectorpool.local_paths import local_segment

_log = logging.getLogger(__name__)
_PARTIAL: Final = ".partial"
HELD_BYTES: Final = 8 * 1024**2
# The largest object that is held.
_SMALL_BYTES: Final = 64 * 1024


class _User(msgspec.Struct):
    """A user's cached files and their sizes in bytes."""

    files: dict[str, int]

    @property
    def size(self) -> int:
        return sum(self.files.values())


class _Users(cachetools.LRUCache[str, _User]):
    """Users by last use. An evicted user is deleted from disk."""

    def __init__(self, root: Path, limit_bytes: int, held: _Held) -> None:
        super().__init__(maxsize=limit_bytes, getsizeof=lambda user: user.size)
        self._root = root
        self._held = held

    def popitem(self) -> tuple[str, _User]:
        """Forget the least recently used user, with the files."""
        segment, user = super().popitem()
        self._held.drop(segment)
        shutil.rmtree(self._root / segment, ignore_errors=True)
        return segment, user


class _Held(cachetools.FIFOCache[tuple[str, str], bytes]):
    """Objects that are not on disk yet, by (segment, name). An evicted object is written to disk."""

    def __init__(self, root: Path) -> None:
        super().__init__(maxsize=HELD_BYTES, getsizeof=len)
        self._root = root

    def popitem(self) -> tuple[tuple[str, str], bytes]:
        """Write the oldest object to disk and forget it."""
        (segment, name), data = super().popitem()
        path = self._root / segment / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # At once under its name: a file that a killed process left short is noticed when it is read.
            path.write_bytes(data)
        except OSError as error:
            _log.warning("an object is not cached: %s", error)
        return (segment, name), data

    def drop(self, segment: str) -> None:
        """Forget a user's objects."""
        for key in [key for key in self if key[0] == segment]:
            del self[key]


class WarmTier:
    """A bounded cache of log objects below ``root``; one process may own the directory, for all its users."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._held = _Held(root)
        self._users = _Users(root, limit_bytes, self._held)
        self._scan()

    def close(self) -> None:
        """Write to disk what is held in memory, so that a next start finds it."""
        with self._lock:
            while self._held:
                self._held.popitem()

    @property
    def total_bytes(self) -> int:
        """Bytes of all cached objects."""
        with self._lock:
            return int(self._users.currsize)

    @property
    def limit_bytes(self) -> int:
        """The bound of ``total_bytes``."""
        return int(self._users.maxsize)

    def user_bytes(self, user_id: str) -> int:
        """Bytes of a user's cached objects."""
        with self._lock:
            user = _peek(self._users, local_segment(user_id))
            return user.size if user else 0

    def read(self, user_id: str, obj: LogObject, start: int, end: int) -> bytes | None:
        """Return bytes ``start .. end`` of a cached object, or None if it is not there."""
        segment, name = local_segment(user_id), _file_name(obj)
        with self._lock:
            user = self._users.get(segment)
            if user is None or name not in user.files:
                return None
            held = self._held.get((segment, name))
        if held is not None:
            return held[start:end]
        try:
            with (self._root / segment / name).open("rb") as file:
                file.seek(start)
                data = file.read(end - start)
        except OSError as error:
            _log.warning("the warm copy %s/%s cannot be read (%s); it is dropped", segment, name, error)
            data = b""
        if len(data) != end - start:
            self._forget(segment, {name})
            return None
        return data

    def put(self, user_id: str, obj: LogObject, data: bytes) -> None:
        """Cache a whole object. Up to 64 KiB it takes no I/O, but now and then that of others."""
        if len(data) > _SMALL_BYTES:
            writer = self.writer(user_id, obj)
            if writer is not None:
                writer.write(data)
                writer.commit()
            return
        segment, name = local_segment(user_id), _file_name(obj)
        with self._lock:
            user = _peek(self._users, segment)
            if obj.size <= self._users.maxsize and (user is None or name not in user.files):
                self._take(self._root / segment, name, obj.size)
                self._held[segment, name] = data

    def writer(self, user_id: str, obj: LogObject) -> WarmWriter | None:
        """Return a place to write an object part by part, or None if it is cached already, or larger than all."""
        segment, name = local_segment(user_id), _file_name(obj)
        with self._lock:
            user = _peek(self._users, segment)
            if obj.size > self._users.maxsize or (user is not None and name in user.files):
                return None
        return WarmWriter(self, self._root / segment, name, obj.size)

    def keep_only(self, user_id: str, objects: list[LogObject], *, above: int) -> None:
        """Drop a user's objects up to number ``above`` except these: the others were superseded."""
        self._keep_only(local_segment(user_id), objects, above)

    def _keep_only(self, segment: str, objects: list[LogObject], above: int) -> None:
        keep = {_file_name(obj) for obj in objects}
        with self._lock:
            user = _peek(self._users, segment)
            stale = {name for name in user.files if name not in keep and _seq(name) <= above} if user else set()
        self._forget(segment, stale)

    def drop(self, user_id: str) -> None:
        """Drop everything of a user."""
        self.keep_only(user_id, [], above=names.MAX_SEQ)

    def segments(self) -> list[str]:
        """Return the names of the users' directories, which tell the users apart (``local_segment``)."""
        with self._lock:
            return list(self._users)

    def drop_deleted(self, segment: str, seq: int) -> None:
        """Drop the objects up to number ``seq`` of the user whose directory has this name: they are deleted."""
        self._keep_only(segment, [], seq)
        # Also what is in no index: a part that a killed process left, or a file that was put there.
        with self._lock:
            if segment not in self._users:
                shutil.rmtree(self._root / segment, ignore_errors=True)

    def drop_all(self) -> None:
        """Drop everything of every user."""
        with self._lock:
            self._held.clear()
            self._users.clear()
            with contextlib.suppress(OSError):
                for directory in self._root.iterdir():
                    shutil.rmtree(directory, ignore_errors=True)

    def _commit(self, directory: Path, partial: Path, name: str, size: int) -> None:
        with self._lock:
            # The directory may have been evicted since the writer made it.
            directory.mkdir(parents=True, exist_ok=True)
            partial.replace(directory / name)
            self._take(directory, name, size)

    def _take(self, directory: Path, name: str, size: int) -> None:
        """Count a file that is there; the lock is held."""
        user = _peek(self._users, directory.name) or _User({})
        known = dict(user.files)
        known[name] = size
        if sum(known.values()) > self._users.maxsize:
            # The newest object alone is more use than a full house of old ones.
            self._held.drop(directory.name)
            for old in user.files:
                (directory / old).unlink(missing_ok=True)
            known = {name: size}
        # Taken out first: room is made at the cost of others, not of this user's own files.
        self._users.pop(directory.name, None)
        self._users[directory.name] = _User(known)

    def _forget(self, segment: str, stale: set[str]) -> None:
        if not stale:
            return
        with self._lock:
            user = _peek(self._users, segment)
            if user is None:
                return
            left = {name: size for name, size in user.files.items() if name not in stale}
            if left:
                self._users[segment] = _User(left)
            else:
                del self._users[segment]
            for name in stale:
                if self._held.pop((segment, name), None) is not None:
                    continue
                with contextlib.suppress(OSError):
                    (self._root / segment / name).unlink()

    def _scan(self) -> None:
        """Take in what an earlier process left, oldest first, so that the order of use is kept roughly."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            directories = sorted((d for d in self._root.iterdir() if d.is_dir()), key=lambda d: d.stat().st_mtime_ns)
            for directory in directories:
                files = {}
                for file in directory.iterdir():
                    if file.name.endswith(_PARTIAL):
                        file.unlink()
                    else:
                        files[file.name] = file.stat().st_size
                user = _User(files)
                if files and user.size <= self._users.maxsize:
                    self._users[directory.name] = user
                else:
                    shutil.rmtree(directory, ignore_errors=True)
        except OSError as error:
            _log.warning("the warm tier %s cannot be read (%s); what it holds is fetched again", self._root, error)


class WarmWriter:
    """One object on its way into the warm tier. After an error it swallows the rest: caching is a courtesy."""

    def __init__(self, tier: WarmTier, directory: Path, name: str, size: int) -> None:
        self._tier = tier
        self._directory = directory
        self._name = name
        self._size = size
        self._written = 0
        self._partial: Path | None = None
        self._file: Any = None
        self._dead = False
        # A cancelled reader discards while a thread may still be writing.
        self._lock = threading.RLock()

    def write(self, data: bytes) -> None:
        """Append a part."""
        with self._lock:
            if not self._dead:
                self._write(data)

    def _write(self, data: bytes) -> None:
        try:
            if self._file is None:
                self._directory.mkdir(parents=True, exist_ok=True)
                handle, path = tempfile.mkstemp(suffix=_PARTIAL, dir=self._directory)
                self._file, self._partial = os.fdopen(handle, "wb", buffering=0), Path(path)
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            self._written += len(data)
        except OSError as error:
            _log.warning("an object is not cached: %s", error)
            self.discard()

    def commit(self) -> None:
        """Give the object its name, if all its bytes came."""
        with self._lock:
            if self._dead or self._file is None or self._partial is None or self._written != self._size:
                self.discard()
                return
            try:
                self._file.close()
                self._tier._commit(self._directory, self._partial, self._name, self._size)
                self._dead = True
            except OSError as error:
                _log.warning("an object is not cached: %s", error)
                self.discard()

    def discard(self) -> None:
        """Remove what was written; harmless after a commit."""
        with self._lock:
            if self._dead:
                return
            self._dead = True
            if self._file is not None:
                self._file.close()
            if self._partial is not None:
                with contextlib.suppress(OSError):
                    self._partial.unlink()


def _file_name(obj: LogObject) -> str:
    tag = xxhash.xxh3_64_hexdigest(f"{obj.etag}/{obj.size}".encode())
    return f"{obj.key.rpartition('/')[2]}.{tag}"


def _seq(file_name: str) -> int:
    """Return the number of a cached object; 0 for a file that is not one, so that it goes first."""
    parsed = names.parse_log_name(file_name.partition(".")[0])
    return parsed[1] if parsed else 0


def _peek(users: _Users, segment: str) -> _User | None:
    """Return a user's entry without counting it as use."""
    if segment not in users:
        return None
    return cachetools.Cache.__getitem__(users, segment)
