"""Tar streams of directories: written without holding a file, read from strangers by the rule of ``platform.trees``.

Python's own reader holds headers of any announced length in memory, follows what an archive says of links, and needs a
file to read from. So the reader here takes bytes as they come, holds one header at most, and takes regular files and
directories alone: each path is checked, bounds come before bytes, no path comes twice, and an archive without its end
is none. Headers themselves are parsed and made by ``tarfile``.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from vectorpool.errors import InvalidRequest, LimitExceeded
from vectorpool.platform.trees import open_directory, open_file

BLOCK: Final = 512
CHUNK_BYTES: Final = 1024**2
_END: Final = bytes(BLOCK)
# Records of names and of other attributes, which are held in memory.
_MAX_RECORD_BYTES: Final = 64 * 1024
_MOST_LEVELS: Final = 32
_GNU_LONG_NAME: Final = tarfile.GNUTYPE_LONGNAME
_FILES: Final = (tarfile.REGTYPE, tarfile.AREGTYPE)


# --- Writing -----------------------------------------------------------------------------------------


def _header(path: str, size: int, time_s: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.mtime, info.mode = size, time_s, 0o600
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> int:
    return -size % BLOCK


def tar_size(sizes: dict[str, int], time_s: int) -> int:
    """Return how many bytes the archive of these files has."""
    files = (len(_header(path, size, time_s)) + size + _padding(size) for path, size in sizes.items())
    return sum(files) + 2 * BLOCK


def tar_chunks(root: Path, sizes: dict[str, int], time_s: int) -> Iterator[bytes]:
    """Yield the archive of files below ``root``, 1 MiB at most at a time. Blocking.

    Raises OSError if a file is gone, or shorter than its size.
    """
    for path, size in sizes.items():
        yield _header(path, size, time_s)
        with open_directory(root, *Path(path).parts[:-1]) as parent:
            descriptor = open_file(parent, Path(path).name)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
            left = size
            while left:
                data = file.read(min(left, CHUNK_BYTES))
                if not data:
                    raise OSError(f"{path} is shorter than it was")
                left -= len(data)
                yield data
        yield bytes(_padding(size))
    yield _END * 2


# --- Reading -----------------------------------------------------------------------------------------


class TarReader:
    """Unpacks an archive into an empty directory, from bytes as they come. Blocking; belongs to one thread at a time.

    ``check`` returns what is wrong with a path, or None. Raises InvalidRequest, LimitExceeded and OSError from
    ``feed``; nothing more is to be fed then.
    """

    def __init__(self, root: Path, *, max_files: int, max_bytes: int, check: Callable[[str], str | None]) -> None:
        self._root = root
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._check = check
        self.sizes: dict[str, int] = {}
        self._folders: set[str] = set()
        self._entries = 0
        self._total = 0
        self._held = bytearray()
        # What the present entry still has: bytes of content, then of padding.
        self._left = self._padding = 0
        self._file: IO[bytes] | None = None
        self._record: bytes | None = None
        self._collected = bytearray()
        self._pax: dict[str, str] = {}
        self._long_name: str | None = None
        self._ends = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._held += data
        view = memoryview(bytes(self._held))
        at = 0
        while at < len(view):
            if self._left:
                part = view[at : at + self._left]
                self._take(part)
                at += len(part)
                if not self._left:
                    self._close_entry()
            elif self._padding:
                step = min(self._padding, len(view) - at)
                self._padding -= step
                at += step
            elif len(view) - at < BLOCK:
                break
            else:
                self._take_header(bytes(view[at : at + BLOCK]))
                at += BLOCK
        del self._held[:at]

    def finish(self) -> dict[str, int]:
        """Return the sizes in bytes of all files by their paths; raise InvalidRequest if the archive has no end."""
        if self._left or self._padding or self._held or not self._ends:
            raise InvalidRequest("The archive breaks off before its end, so nothing is imported. Send the whole of it.")
        return self.sizes

    def close(self) -> None:
        """Close the file that is open, if one is."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take_header(self, block: bytes) -> None:
        if block == _END:
            self._ends += 1
            return
        if self._ends:
            raise InvalidRequest("The archive goes on behind its end. Send one archive, uncompressed.")
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as error:
            raise InvalidRequest(
                f"A header of the archive cannot be read ({error}). Send an uncompressed tar of a Chroma directory."
            ) from None
        if info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, _GNU_LONG_NAME):
            self._begin_record(info)
            return
        path = self._long_name or self._pax.get("path") or info.name
        size = self._size(info)
        has_sparse = any(name.startswith("GNU.sparse") for name in self._pax)
        self._pax, self._long_name = {}, None
        self._count()
        if (info.type == tarfile.DIRTYPE and not size) or (info.type in _FILES and path.endswith("/") and not size):
            self._folder(_plain(path))
        elif info.type in _FILES and not has_sparse:
            self._begin_file(_plain(path), size)
        else:
            raise InvalidRequest(
                f"{path[:200]!a} is neither a plain file nor a directory; links, devices and sparse files are not "
                "taken. Put the file itself there."
            )

    def _count(self) -> None:
        self._entries += 1
        if self._entries > 2 * self._max_files:
            raise LimitExceeded(f"The archive holds more than {self._max_files} files.")

    def _size(self, info: tarfile.TarInfo) -> int:
        told = self._pax.get("size")
        if told is None:
            size = info.size
        elif told.isascii() and told.isdigit() and len(told) < 20:
            size = int(told)
        else:
            raise InvalidRequest("The archive tells a size that is no number. Write it anew with `tar`.")
        if size < 0:
            raise InvalidRequest("The archive tells a negative size. Write it anew with `tar`.")
        return size

    def _begin_record(self, info: tarfile.TarInfo) -> None:
        if not 0 <= info.size <= _MAX_RECORD_BYTES:
            raise LimitExceeded(f"A header of the archive has {info.size} bytes; {_MAX_RECORD_BYTES} are allowed.")
        self._count()
        self._record = info.type
        self._left, self._padding = info.size, _padding(info.size)
        if not info.size:
            self._close_entry()

    def _begin_file(self, path: str, size: int) -> None:
        self._check_path(path)
        self._total += size
        if len(self.sizes) >= self._max_files or self._total > self._max_bytes:
            raise LimitExceeded(
                f"The archive holds more than {self._max_files} files or {self._max_bytes} bytes. Import it on the "
                "command line, with --store.",
                extra={"limit": self._max_bytes, "limit_name": "bytes of an import"},
            )
        self.sizes[path] = size
        *folders, name = path.split("/")
        try:
            with open_directory(self._root, *folders, make=True) as parent:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                self._file = os.fdopen(os.open(name, flags, 0o600, dir_fd=parent), "wb", buffering=0)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            # A file system that takes two names for one, by their case for example.
            raise InvalidRequest(f"The archive cannot be imported: the path {path[:200]!a} comes twice.") from None
        self._left, self._padding = size, _padding(size)
        if not size:
            self._close_entry()

    def _folder(self, path: str) -> None:
        if path:
            self._check_path(path, is_folder=True)
            self._folders.add(path)

    def _check_path(self, path: str, *, is_folder: bool = False) -> None:
        wrong = self._check(path)
        if wrong is None and path.count("/") >= _MOST_LEVELS:
            wrong = f"the path {path[:200]!a} lies deeper than {_MOST_LEVELS} directories"
        if wrong is None and any(char < " " or char == "\x7f" for char in path):
            wrong = f"the path {path[:200]!a} holds a control character"
        if wrong is None and (path in self.sizes or (not is_folder and path in self._folders)):
            wrong = f"the path {path[:200]!a} comes twice"
        if wrong is None:
            above = path.split("/")[:-1]
            for end in range(1, len(above) + 1):
                folder = "/".join(above[:end])
                if folder in self.sizes:
                    wrong = f"the path {path[:200]!a} lies below a file"
                    break
                self._folders.add(folder)
        if wrong is not None:
            raise InvalidRequest(f"The archive cannot be imported: {wrong}.")

    def _take(self, part: memoryview) -> None:
        self._left -= len(part)
        if self._record is not None:
            self._collected += part
            return
        assert self._file is not None
        while part:
            part = part[self._file.write(part) :]

    def _close_entry(self) -> None:
        self.close()
        kind, self._record = self._record, None
        if kind is None:
            return
        text, self._collected = bytes(self._collected), bytearray()
        try:
            if kind == _GNU_LONG_NAME:
                self._long_name = text.rstrip(b"\0").decode()
            elif kind != tarfile.XGLTYPE:
                self._pax = _pax_of(text)
        except (ValueError, UnicodeDecodeError):
            raise InvalidRequest("A header of the archive is not valid. Write it anew with `tar`.") from None


def _pax_of(text: bytes) -> dict[str, str]:
    """Return the records of a pax header that matter: each is a length, a space, a name, =, a value, a line end."""
    found: dict[str, str] = {}
    while text.rstrip(b"\0"):
        length, _, _ = text.partition(b" ")
        if not length.isdigit() or not 4 < int(length) <= len(text) or text[int(length) - 1 : int(length)] != b"\n":
            raise ValueError("a record of a wrong length")
        name, equals, value = text[len(length) + 1 : int(length) - 1].partition(b"=")
        if not equals:
            raise ValueError("a record without a value")
        if name in (b"path", b"size") or name.startswith(b"GNU.sparse"):
            found[name.decode()] = value.decode()
        text = text[int(length) :]
    return found


def _plain(path: str) -> str:
    """Return a path as others write it (``./chroma.sqlite3``) in its plain form; one that leads elsewhere stays."""
    return path.removeprefix("./").removesuffix("/") if path not in (".", "./") else ""
