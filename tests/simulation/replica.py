"""Files that stand for Chroma's: a journal of the applied writes, and pages that change with it, in one directory.

The journal has the tokens of the applied writes, in order. As Chroma does, opening and reading
dirty the files, so an open directory is never exactly the commit that it came from. Commands are the real ones; a
write's token travels as its document, or as ``where`` of a deletion.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from vectorpool.answers import Deleted, Written
from vectorpool.commands import AddRecords, DeleteRecords, Read, UpsertRecords, Write
from vectorpool.commitlog.image import Capture, Image, capture
from vectorpool.commitlog.outcomes import Position
from vectorpool.commitlog.stamp import EngineStamp
from vectorpool.engine.deletions import Remains
from vectorpool.errors import BrokenReplica, NewerEngine, RecordExists
from vectorpool.limits import Quota
from vectorpool.vectorstore.effect import Effect, HalfApplied

JOURNAL = "journal"
PAGES = "pages"
SCHEMA = "schema"
DELETED = "deleted"
PAGE_BYTES = 4096
PAGE_COUNT = 6
LINE_BYTES = 240
POISON = "poison"

# Incompressible, so that objects have realistic sizes.
_NOISE = random.Random(0).randbytes(PAGE_COUNT * PAGE_BYTES)

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

    ``breaks`` returns, at each read, whether the replica stops working now, as Chroma sometimes does.
    """

    schema_state = "tested"
    chroma_use = None

    def __init__(
        self,
        directory: Path,
        position: Position,
        image: Image,
        breaks: Callable[[], bool],
        engine: FakeEngine,
    ) -> None:
        self.directory = directory
        self.is_migrated = self._migrate(engine.level)
        self.stamp = engine.stamp(engine.level)
        self.position = position
        self.image = image
        self._breaks = breaks
        self._journal = directory / JOURNAL
        self.lines = parse_journal(self._journal.read_bytes())
        self._records: dict[str, str] = {}
        for line in self.lines:
            self._note(line)
        self._dirty(0)

    def _migrate(self, level: int) -> bool:
        """Bring the schema to the engine's level; return whether it was older."""
        file = self.directory / SCHEMA
        before = int(file.read_text()) if file.exists() else 0
        assert before <= level, "a newer state was opened"
        if before < level:
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
        self._dirty(0)
        return _encode(Seen([line.token for line in self.lines]))

    def write(
        self, command: Write, collection_id: str | None = None, quota: Quota | None = None
    ) -> tuple[bytes, Effect]:
        token = token_of(command)
        assert isinstance(command, AddRecords | UpsertRecords | DeleteRecords) and command.ids is not None
        (record,) = command.ids
        if isinstance(command, AddRecords) and record in self._records:
            raise RecordExists(f"There is a record {record!r} already.")
        if isinstance(command, DeleteRecords):
            if record not in self._records:
                return _encode(Deleted(deleted=0)), Effect()
            self._append(Line("delete", record, token))
            (self.directory / DELETED).write_bytes(b"1")
            return _encode(Deleted(deleted=1)), Effect(touched=True, deleted=1)
        self._append(Line("add" if isinstance(command, AddRecords) else "upsert", record, token))
        if record == POISON:
            raise HalfApplied(BrokenReplica("The command broke the fake replica."))
        return _encode(Written(written=1)), Effect(touched=True, written=1, collections={command.collection})

    def _append(self, line: Line) -> None:
        self.lines.append(line)
        self._note(line)
        with self._journal.open("ab") as file:
            file.write(_encode(line).ljust(LINE_BYTES - 1) + b"\n")
        self._dirty(1 + sum(line.record.encode()) % (PAGE_COUNT - 1), line.token.encode())

    def capture(self) -> Capture:
        return capture(self.directory, self.image)

    def advance(self, position: Position, image: Image) -> None:
        self.position, self.image = position, image
        self.is_migrated = False

    def examine(self) -> None:
        """Do nothing: such a replica cannot be damaged."""

    def discard(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def fake_erase(directory: Path) -> bool:
    """Write the pages of a closed directory anew if something was deleted; the journal stays."""
    if not (directory / DELETED).exists():
        return False
    (directory / DELETED).unlink()
    pages = (directory / PAGES).read_bytes()
    (directory / PAGES).write_bytes(pages[PAGE_BYTES:] + pages[:PAGE_BYTES])
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
