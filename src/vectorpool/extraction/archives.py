"""Archives: zip, and tar with and without compression. Each file in them is read as a document.

Names in an archive are a stranger's: they only become labels. Links, devices and hidden files are passed over, and so
is a file of a format that is not read. All bounds count what was really unpacked, whatever the archive says of itself.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import IO, Any, Final

from vectorpool.bounds import ARCHIVE_BYTES, ARCHIVE_MEMBERS, EXTRACTED_MEMBER_BYTES
from vectorpool.errors import (
    DocumentEncrypted,
    DocumentTooCostly,
    DocumentUnreadable,
    ExtractionNotInstalled,
    InvalidRequest,
)
from vectorpool.extraction.extracts import Composer, Extract

_LABEL: Final = 300
_PART: Final = 256 * 1024
_BROKEN: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    ValueError,
    KeyError,
    zlib.error,
    lzma.LZMAError,
)

ReadMember = Callable[[str, bytes], Extract]


class Budget:
    """What is left to unpack for one document, in all archives inside each other."""

    def __init__(self) -> None:
        self._bytes = ARCHIVE_BYTES
        self._members = ARCHIVE_MEMBERS

    def take_member(self) -> None:
        """Count a file. Raises DocumentTooCostly."""
        self._members -= 1
        if self._members < 0:
            raise DocumentTooCostly(f"The archive holds more than {ARCHIVE_MEMBERS} files. Split it.")

    def take(self, count: int) -> None:
        """Count unpacked bytes. Raises DocumentTooCostly."""
        self._bytes -= count
        if self._bytes < 0:
            raise DocumentTooCostly(f"The archive unpacks to more than {ARCHIVE_BYTES} bytes. Split it.")


def label_of(name: str) -> str:
    """Return a name as a label: segments without dots and control characters, at most 300 characters."""
    shown = "".join(c if c.isprintable() else "�" for c in name.replace("\\", "/"))
    segments = [segment for segment in shown.split("/") if segment.strip() and segment not in (".", "..")]
    return "/".join(segments).encode(errors="replace").decode()[-_LABEL:] or "unnamed"


def _is_hidden(label: str) -> bool:
    return any(segment.startswith(".") or segment == "__MACOSX" for segment in label.split("/"))


def _read(file: IO[bytes], label: str, budget: Budget) -> bytes:
    parts, size = [], 0
    while part := file.read(_PART):
        budget.take(len(part))
        size += len(part)
        if size > EXTRACTED_MEMBER_BYTES:
            raise DocumentTooCostly(
                f"The file {label!r} of the archive has more than {EXTRACTED_MEMBER_BYTES} bytes. Split it."
            )
        parts.append(part)
    return b"".join(parts)


def _zip_members(data: bytes, budget: Budget) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            label = label_of(info.filename)
            if info.is_dir() or _is_hidden(label):
                continue
            budget.take_member()
            if info.flag_bits & 1:
                raise DocumentEncrypted("The archive is encrypted. Pack it without a password, and put it again.")
            with archive.open(info) as file:
                yield label, _read(file, label, budget)


class _Counted(io.RawIOBase):
    """A stream whose bytes the budget counts, those that a reader passes over too."""

    def __init__(self, stream: IO[bytes], budget: Budget) -> None:
        self._stream = stream
        self._budget = budget

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        part = self._stream.read(_PART if size < 0 else size)
        self._budget.take(len(part))
        return part


def _unpacked(data: bytes) -> Any:
    raw = io.BytesIO(data)
    if data.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if data.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if data.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(raw)
    return raw


def _tar_members(data: bytes, budget: Budget) -> Iterator[tuple[str, bytes]]:
    with (
        closing(_unpacked(data)) as stream,
        tarfile.open(fileobj=_Counted(stream, budget), mode="r|", errorlevel=1) as archive,
    ):
        for info in archive:
            budget.take_member()
            label = label_of(info.name)
            if not info.isreg() or _is_hidden(label):
                continue
            file = archive.extractfile(info)
            if file is not None:
                # The stream below counts the bytes.
                yield label, _read(file, label, Budget())


def _extract(members: Iterator[tuple[str, bytes]], read_member: ReadMember) -> Extract:
    composer, refused = Composer(), None
    try:
        for label, data in members:
            try:
                extract = read_member(label, data)
            except DocumentTooCostly:
                raise
            except InvalidRequest as error:
                refused = error if refused is None or isinstance(error, ExtractionNotInstalled) else refused
                composer.skip(label, error.detail)
            else:
                composer.add_extract(extract, member=label)
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise DocumentUnreadable(f"The archive is damaged: {reason}. Pack it again.") from None
    made = composer.extract()
    if not made.sections and refused is not None:
        first = made.skipped[0]
        raise type(refused)(
            f"No file of the archive can be read. The first of {len(made.skipped)}, {first.member!r}: {first.reason}"
        )
    return made


def extract_zip(data: bytes, read_member: ReadMember, budget: Budget) -> Extract:
    """Return the text of the files in a zip archive."""
    return _extract(_zip_members(data, budget), read_member)


def extract_tar(data: bytes, read_member: ReadMember, budget: Budget) -> Extract:
    """Return the text of the files in a tar archive."""
    return _extract(_tar_members(data, budget), read_member)
