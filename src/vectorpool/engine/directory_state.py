"""What a working directory holds, compared with the image of its commit. Only a pristine directory is ever patched.

    PRISTINE  byte for byte the image of the commit
    OURS      the image, and since then writes of tracked writers only: fast writes, rows of the sidecar, marks
    UNKNOWN   anything may differ: Chroma is or was open, or another writer was at work

A directory becomes pristine in four ways, and no other: a verified hydrate after which nothing wrote; a commit that is
acknowledged and whose capture read the whole directory, if nothing wrote since the capture began and Chroma was closed;
a patch, and an undo, that ended without an error. Every writer says so *before* its first byte: Chroma's client before
it opens, since opening changes the files at once. A write that is not tracked makes the directory unknown, until a
commit of all of it is acknowledged.

All transitions are here. Each write has a number, so that a claim made before a write cannot be honoured after it.
"""

from __future__ import annotations

import enum
import threading


class Kind(enum.Enum):
    """See the module."""

    PRISTINE = "pristine"
    OURS = "ours"
    UNKNOWN = "unknown"


class NotPristine(Exception):
    """The directory may hold something else than what the change rests on: it may not be changed in place."""


class DirectoryState:
    """The state of one directory. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kind = Kind.UNKNOWN
        self._writes = 0
        self._is_chroma_open = False

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

    # --- Before a writer's first byte ----------------------------------------------------------------

    def chroma_opens(self) -> None:
        """Note that Chroma's client is about to open."""
        with self._lock:
            self._write(Kind.UNKNOWN)
            self._is_chroma_open = True

    def tracked_write(self) -> None:
        """Note that a tracked writer is about to write."""
        with self._lock:
            self._write(Kind.UNKNOWN if self._kind is Kind.UNKNOWN else Kind.OURS)

    def untracked_write(self) -> None:
        """Note that another writer is about to write."""
        with self._lock:
            self._write(Kind.UNKNOWN)

    def _write(self, kind: Kind) -> None:
        self._writes += 1
        self._kind = kind

    # --- What makes a directory pristine -------------------------------------------------------------

    def chroma_closed(self) -> None:
        """Note that Chroma was closed, and that none of its files is open any more. The directory stays unknown."""
        with self._lock:
            self._is_chroma_open = False

    def hydrated(self) -> None:
        """Note that the directory was built from verified frames. It is pristine if nothing ever wrote to it."""
        with self._lock:
            if self._writes == 0:
                self._kind = Kind.PRISTINE

    def capturing(self) -> int | None:
        """Return the mark of a capture that begins now and reads everything; None while Chroma may write."""
        with self._lock:
            return None if self._is_chroma_open else self._writes

    def committed(self, mark: int | None) -> None:
        """Note that the commit of a capture is acknowledged."""
        with self._lock:
            if mark == self._writes and not self._is_chroma_open:
                self._kind = Kind.PRISTINE

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
                self._kind = Kind.PRISTINE
