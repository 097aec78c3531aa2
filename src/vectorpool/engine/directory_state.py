"""What a working directory holds, compared with the image of its commit. Only a pristine directory is ever patched.

    PRISTINE  byte for byte the image of the commit
    OURS      the image, and since then writes of tracked writers only: fast writes, rows of the sidecar, marks
    UNKNOWN   anything may differ: Chroma is or was open, or another writer was at work

A directory becomes pristine in four ways, and no other: a verified hydrate after which nothing wrote; a commit that is
acknowledged and whose capture read all of the directory that may differ, if nothing wrote since the capture began and
Chroma was closed; a patch, and an undo, that ended without an error. Every writer says so *before* its first byte:
Chroma's client before it opens, since opening changes the files at once. A write that is not tracked makes the
directory unknown, until a commit of all of it is acknowledged.

All transitions are here. Each write has a number, so that a claim made before a write cannot be honoured after it.

``changed`` says which blocks of Chroma's database may differ from the image, so that a capture need not read the
others. A tracked write makes them unknown before its first byte; only a transaction that ended well and whose journal
was read (``journal``) makes them known again, and only if they were known before it.
"""

from __future__ import annotations

import enum
import threading
from typing import Final

import msgspec

from vectorpool.engine.journal import ChangedPages, FileMark

# Blocks that are remembered; a capture of more reads the whole file.
MAX_CHANGED: Final = 8192


class Kind(enum.Enum):
    """See the module."""

    PRISTINE = "pristine"
    OURS = "ours"
    UNKNOWN = "unknown"


class NotPristine(Exception):
    """The directory may hold something else than what the change rests on: it may not be changed in place."""


class ChangedBlocks(msgspec.Struct, frozen=True):
    """The blocks of Chroma's database that may differ from the image, by number from 0.

    Those in ``zeroed``, and not in ``numbers``, are as in the image, or hold zeros. All other files but the sidecar are
    as in the image. ``mark`` is the database's after the last recorded transaction; None if there was none.
    """

    numbers: frozenset[int] = frozenset()
    mark: FileMark | None = None
    zeroed: frozenset[int] = frozenset()


class DirectoryState:
    """The state of one directory. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kind = Kind.UNKNOWN
        self._writes = 0
        self._is_chroma_open = False
        # None: not known. What it was before the last write, and the number of that write, are for ``recorded``.
        self._changed: ChangedBlocks | None = None
        self._changed_before: ChangedBlocks | None = None

    @property
    def kind(self) -> Kind:
        """What is known of the directory."""
        return self._kind

    @property
    def is_pristine(self) -> bool:
        """Whether the directory is the image of its commit."""
        return self._kind is Kind.PRISTINE

    @property
    def is_chroma_open(self) -> bool:
        """Whether Chroma may still write."""
        return self._is_chroma_open

    @property
    def changed(self) -> ChangedBlocks | None:
        """What may differ from the image; None if anything may."""
        return self._changed

    # --- Before a writer's first byte ----------------------------------------------------------------

    def chroma_opens(self) -> None:
        """Note that Chroma's client is about to open."""
        with self._lock:
            self._write(Kind.UNKNOWN)
            self._is_chroma_open = True

    def tracked_write(self) -> int:
        """Note that a tracked writer is about to write; return the write's number."""
        with self._lock:
            changed = self._changed
            self._write_tracked()
            self._changed_before = changed
            return self._writes

    def sidecar_write(self) -> None:
        """Note that the sidecar, and nothing else, is about to be written."""
        with self._lock:
            changed = self._changed
            self._write_tracked()
            self._changed = changed

    def recorded(self, number: int, pages: ChangedPages | None) -> None:
        """Note what the tracked write of a number changed in Chroma's database, if that is known."""
        with self._lock:
            before, self._changed_before = self._changed_before, None
            if pages is None or before is None or number != self._writes or self._kind is not Kind.OURS:
                return
            numbers = before.numbers | pages.numbers
            if len(numbers) <= MAX_CHANGED:
                self._changed = ChangedBlocks(numbers, pages.mark, before.zeroed | pages.zeroed)

    def untracked_write(self) -> None:
        """Note that another writer is about to write."""
        with self._lock:
            self._write(Kind.UNKNOWN)

    def _write_tracked(self) -> None:
        self._write(Kind.UNKNOWN if self._kind is Kind.UNKNOWN else Kind.OURS)

    def _write(self, kind: Kind) -> None:
        self._writes += 1
        self._kind = kind
        self._changed = self._changed_before = None

    def _become_pristine(self) -> None:
        self._kind = Kind.PRISTINE
        self._changed, self._changed_before = ChangedBlocks(), None

    # --- What makes a directory pristine -------------------------------------------------------------

    def chroma_closed(self) -> None:
        """Note that Chroma was closed, and that none of its files is open any more. The directory stays unknown."""
        with self._lock:
            self._is_chroma_open = False

    def hydrated(self) -> None:
        """Note that the directory was built from verified frames. It is pristine if nothing ever wrote to it."""
        with self._lock:
            if self._writes == 0:
                self._become_pristine()

    def capturing(self) -> int | None:
        """Return the mark of a capture that begins now and reads all that may differ; None while Chroma may write."""
        with self._lock:
            return None if self._is_chroma_open else self._writes

    def committed(self, mark: int | None) -> None:
        """Note that the commit of a capture is acknowledged."""
        with self._lock:
            if mark == self._writes and not self._is_chroma_open:
                self._become_pristine()

    def begin_patch(self) -> int:
        """Note that a patch is about to write its first byte; return its mark. Raises NotPristine."""
        with self._lock:
            if self._kind is not Kind.PRISTINE:
                raise NotPristine
            self._write(Kind.UNKNOWN)
            return self._writes

    def begin_undo(self, mark: int | None) -> int:
        """Note that the writes up to the capture of ``mark`` are about to be undone; return the undo's mark.

        Raises NotPristine if anything wrote since that capture, or if anything but tracked writers wrote before it.
        """
        with self._lock:
            if self._kind is not Kind.OURS or mark != self._writes:
                raise NotPristine
            self._write(Kind.UNKNOWN)
            return self._writes

    def ended(self, mark: int) -> None:
        """Note that the patch or undo of a mark wrote its last byte."""
        with self._lock:
            if mark == self._writes and not self._is_chroma_open:
                self._become_pristine()
