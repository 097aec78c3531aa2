"""Files that stand for Chroma's: a journal of the applied writes, and pages that change with it, in one directory.

The journal has the tokens of the applied writes, in order. As with Chroma, most reads and writes do without it; some
open it, and from then on every read dirties the files, so that the directory is not the commit that it came from.
Patches and undos are the real ones. What was read of the journal is kept in memory, as an index is. Commands are the
real ones too; a write's token travels as its document, or as ``where`` of a deletion.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from vectorpool.answers import Deleted, Written
from vectorpool.commands import AddRecords, DeleteRecords, Read, UpsertRecords, Write
from vectorpool.commitlog.image import Capture, Image, capture
from vectorpool.commitlog.next_commits import NextCommit, Patch, Unpatchable, plan_patch
from vectorpool.commitlog.outcomes import Position
from vectorpool.commitlog.stamp import EngineStamp
from vectorpool.engine.deletions import Remains
from vectorpool.engine.directory_state import DirectoryState, NotPristine
from vectorpool.errors import BrokenReplica, NewerEngine, RecordExists
from vectorpool.limits import Quota
from vectorpool.vectorstore.effect import Effect, HalfApplied
from vectorpool.vectorstore.patcher import Patcher

JOURNAL = "journal"
PAGES = "pages"
SCHEMA = "schema"
DELETED = "deleted"
PAGE_BYTES = 4096
PAGE_COUNT = 6
LINE_BYTES = 240
POISON = "poison"

# Where each page has the number of Chroma's last change. Chroma changes all pages at once, so the numbers are equal in
# every state, and differ where pages of two states are mixed.
_CHANGE = slice(64, 72)
# A byte of each page that an erasure changes.
_ERASED = 100
# Where a page has the token of the last write that changed it.
_WRITTEN = slice(8, 24)


def _padded(token: str) -> bytes:
    return token.encode().ljust(_WRITTEN.stop - _WRITTEN.start)


def _noise() -> bytes:
    """Return pages that are incompressible, so that objects have realistic sizes, and that Chroma never changed."""
    dice = random.Random(0)
    pages = [bytearray(dice.randbytes(PAGE_BYTES)) for _ in range(PAGE_COUNT)]
    for page in pages:
        page[_CHANGE] = bytes(8)
    return b"".join(pages)


_NOISE = _noise()


def _page_of(record: str) -> int:
    """Return the page that a write of a record changes."""
    return 1 + sum(record.encode()) % (PAGE_COUNT - 1)


def is_torn(pages: bytes | bytearray, lines: list[Line]) -> bool:
    """Return whether the pages are of different states, or of another state than the journal."""
    parts = [bytes(pages[at : at + PAGE_BYTES]) for at in range(0, len(pages), PAGE_BYTES)]
    newest = {_page_of(line.record): line.token for line in lines}
    written = all(parts[page][_WRITTEN] == _padded(token) for page, token in newest.items())
    return not written or len({part[_CHANGE] for part in parts}) > 1


_encode = msgspec.json.Encoder().encode


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One applied write: its kind, its record, and its token."""

    what: str
    record: str
    token: str


class Seen(msgspec.Struct, frozen=True):
    """The answer of a fake replica to a read: the tokens of all its writes, in order."""

    tokens: list[str]


_lines = msgspec.json.Decoder(Line)
decode_seen = msgspec.json.Decoder(Seen).decode


def parse_journal(data: bytes) -> list[Line]:
    """Return the lines of a journal."""
    return [_lines.decode(data[at : at + LINE_BYTES]) for at in range(0, len(data), LINE_BYTES)]


def token_of(command: Write) -> str:
    """Return the token of a write."""
    if isinstance(command, DeleteRecords):
        assert command.where is not None
        return str(command.where["token"])
    assert isinstance(command, AddRecords | UpsertRecords) and command.documents is not None
    return str(command.documents[0])


class FakeEngine:
    """An engine with the migrations up to ``level``; level 0 has no schema and makes no stamps."""

    def __init__(self, level: int) -> None:
        self.level = level

    def stamp_of(self, directory: Path) -> EngineStamp | None:
        file = directory / SCHEMA
        return self.stamp(int(file.read_text())) if file.exists() else None

    def stamp(self, level: int) -> EngineStamp | None:
        return EngineStamp(f"{level}", bytes(16), {"fake": level}) if level else None

    def check(self, stamp: EngineStamp | None) -> None:
        if stamp is not None and stamp.migrations["fake"] > self.level:
            raise NewerEngine(f"The state is of level {stamp.migrations['fake']}, and this engine of {self.level}.")


class FakeReplica:
    """One open working directory, with the interface of ``vectorstore.replica.Replica``.

    ``breaks`` returns, at each read, whether the replica stops working now, as Chroma sometimes does. ``opens``
    returns, at each read and write, whether it needs Chroma, and at each capture, whether Chroma is closed.
    """

    schema_state = "tested"
    chroma_use = None

    def __init__(
        self,
        directory: Path,
        position: Position,
        image: Image,
        breaks: Callable[[], bool],
        opens: Callable[[], bool],
        engine: FakeEngine,
    ) -> None:
        self.directory = directory
        self.state = DirectoryState()
        self.may_lose = False
        self._opens = opens
        self._patcher = Patcher(directory, self.state)
        self._captured: tuple[int | None, Image] | None = None
        self.is_migrated = self._migrate(engine.level)
        self.stamp = engine.stamp(engine.level)
        self.position = position
        self.image = image
        self._breaks = breaks
        self._journal = directory / JOURNAL
        self.lines: list[Line] = []
        # Once it was built, patched or undone; the next read says so.
        self._was_torn = False
        self._records: dict[str, str] = {}
        self._load()

    def _load(self) -> None:
        """Read the journal into memory."""
        self.lines = parse_journal(self._journal.read_bytes())
        self._records = {}
        for line in self.lines:
            self._note(line)
        self._was_torn |= is_torn((self.directory / PAGES).read_bytes(), self.lines)

    def _open_chroma(self) -> None:
        """Open Chroma, which changes all pages at once."""
        if not self.state.is_chroma_open:
            self.state.chroma_opens()
            self._change()

    def _change(self) -> None:
        with (self.directory / PAGES).open("r+b") as file:
            number = int.from_bytes(file.read(_CHANGE.stop)[_CHANGE], "little") + 1
            for page in range(PAGE_COUNT):
                file.seek(page * PAGE_BYTES + _CHANGE.start)
                file.write(number.to_bytes(8, "little"))

    def _migrate(self, level: int) -> bool:
        """Bring the schema to the engine's level; return whether it was older."""
        file = self.directory / SCHEMA
        before = int(file.read_text()) if file.exists() else 0
        assert before <= level, "a newer state was opened"
        if before < level:
            self.state.untracked_write()
            file.write_text(str(level))
        return before < level

    def _note(self, line: Line) -> None:
        if line.what == "delete":
            self._records.pop(line.record, None)
        else:
            self._records[line.record] = line.token

    def _dirty(self, page: int, content: bytes = b"") -> None:
        with (self.directory / PAGES).open("r+b") as file:
            file.seek(page * PAGE_BYTES)
            count = int.from_bytes(file.read(8), "little") + 1
            file.seek(page * PAGE_BYTES)
            file.write(count.to_bytes(8, "little") + content)

    def size_bytes(self) -> int:
        return self.image.size

    @property
    def remains(self) -> Remains:
        """Say that something deleted is left from the first deletion until an erasure."""
        return Remains(1 if (self.directory / DELETED).exists() else None)

    def read_at_once(self, command: Read) -> bytes | None:
        """Return None: the simulation examines reads in threads."""
        return None

    def read(self, command: Read) -> bytes:
        if self._breaks():
            raise BrokenReplica("The fake replica stopped working.")
        if self._opens():
            self._open_chroma()
        if self.state.is_chroma_open:
            self._change()
        self._was_torn |= is_torn((self.directory / PAGES).read_bytes(), self.lines)
        assert not self._was_torn, "the files are, or were, of two states"
        return _encode(Seen([line.token for line in self.lines]))

    def write(
        self, command: Write, collection_id: str | None = None, quota: Quota | None = None, is_again: bool = False
    ) -> tuple[bytes, Effect]:
        token = token_of(command)
        assert isinstance(command, AddRecords | UpsertRecords | DeleteRecords) and command.ids is not None
        (record,) = command.ids
        if self.may_lose:
            self._patcher.keep(self.image)
        if self._opens():
            self._open_chroma()
        if isinstance(command, AddRecords) and record in self._records:
            raise RecordExists(f"There is a record {record!r} already.")
        if isinstance(command, DeleteRecords):
            if record not in self._records:
                return _encode(Deleted(deleted=0)), Effect()
            self._append(Line("delete", record, token))
            self.state.tracked_write()
            (self.directory / DELETED).write_bytes(b"1")
            return _encode(Deleted(deleted=1)), Effect(touched=True, deleted=1)
        self._append(Line("add" if isinstance(command, AddRecords) else "upsert", record, token))
        if record == POISON:
            raise HalfApplied(BrokenReplica("The command broke the fake replica."))
        return _encode(Written(written=1)), Effect(touched=True, written=1, collections={command.collection})

    def _append(self, line: Line) -> None:
        self.state.tracked_write()
        self.lines.append(line)
        self._note(line)
        with self._journal.open("ab") as file:
            file.write(_encode(line).ljust(LINE_BYTES - 1) + b"\n")
        self._dirty(_page_of(line.record), _padded(line.token))

    def capture(self) -> Capture:
        if self.state.is_chroma_open and self._opens():
            self.state.chroma_closed()
        mark = self.state.capturing()
        captured = capture(self.directory, self.image)
        self._captured = mark, captured.image
        return captured

    def advance(self, position: Position, image: Image) -> None:
        mark, captured = self._captured or (None, None)
        self._captured = None
        if captured is image:
            self._patcher.follow(self.image, image)
            self.state.committed(mark)
        self.position, self.image = position, image
        self.is_migrated = False

    def plan(self, commits: Sequence[NextCommit]) -> Patch:
        if any(commit.header.stamp != self.stamp for commit in commits):
            raise Unpatchable("another engine wrote a commit")
        return plan_patch(self.image, commits)

    def patch(self, patch: Patch) -> None:
        self._patcher.patch(self.image, patch)
        self.position, self.image, self._captured = patch.position, patch.image, None
        self._load()

    def undo(self, lost: Image) -> None:
        mark, captured = self._captured or (None, None)
        if captured is not lost:
            raise NotPristine
        self._patcher.undo(self.image, lost, mark)
        self._captured = None
        self._load()

    def examine(self) -> None:
        """Do nothing: such a replica cannot be damaged."""

    def discard(self) -> None:
        self._patcher.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def fake_erase(directory: Path) -> bool:
    """Write the pages of a closed directory anew if something was deleted; the journal stays."""
    if not (directory / DELETED).exists():
        return False
    (directory / DELETED).unlink()
    pages = bytearray((directory / PAGES).read_bytes())
    for at in range(0, len(pages), PAGE_BYTES):
        pages[at + _ERASED] ^= 1
    (directory / PAGES).write_bytes(pages)
    return True


class FakeTemplate:
    """The files of an empty replica, as an engine of a level makes them."""

    def __init__(self, level: int) -> None:
        self._level = level

    def copy_to(self, directory: Path) -> None:
        if self._level:
            (directory / SCHEMA).write_text(str(self._level))
        (directory / JOURNAL).touch()
        (directory / PAGES).write_bytes(_NOISE)
