"""The local working copy of a vectorstore: a directory, the engine and the sidecar open on it.

Every call blocks and belongs in a worker thread. ``position`` and ``image`` are those of the commit that the replica
was built from or made last; later changes are not committed yet.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from vectorpool.answers import ChromaUse, SchemaState
from vectorpool.commands import ChromaRead, Read, RecordWrite, Write
from vectorpool.commitlog.image import Capture, Image
from vectorpool.commitlog.next_commits import NextCommit, Patch, Unpatchable, plan_patch
from vectorpool.commitlog.outcomes import Position
from vectorpool.commitlog.recorded_capture import Captures
from vectorpool.commitlog.stamp import EngineStamp
from vectorpool.engine.deletions import read_remains
from vectorpool.engine.directory_state import DirectoryState, NotPristine
from vectorpool.engine.engine import Engine, migrate
from vectorpool.engine.index_rows import IndexRows
from vectorpool.engine.texts import take_over
from vectorpool.engine.version import Schema, installed_version, is_tested, read_schema
from vectorpool.errors import BrokenReplica, Damaged, LocalDiskFailed
from vectorpool.limits import Quota
from vectorpool.names import CHROMA_DATABASE_FILE, SIDECAR_FILE
from vectorpool.platform.local_disk import as_disk_failure, on_local_disk
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.vectorstore import compatibility
from vectorpool.vectorstore.collection_ids import give_id, made_by, resolve_alias
from vectorpool.vectorstore.effect import Effect, HalfApplied
from vectorpool.vectorstore.engine_options import engine_options
from vectorpool.vectorstore.known_changes import known_changes
from vectorpool.vectorstore.native_reads import NativeReader
from vectorpool.vectorstore.patcher import Patcher
from vectorpool.vectorstore.protocol_reads import ProtocolReader
from vectorpool.vectorstore.quota import bytes_of
from vectorpool.vectorstore.sidecar import Sidecar
from vectorpool.vectorstore.sidecar_schema import version_of as sidecar_version_of
from vectorpool.vectorstore.writer import Writer

# Captures without a call of Chroma, after which it is closed.
_QUIET_CAPTURES: Final = 3

_encode = msgspec.json.Encoder().encode


class ReplicaClosed(Exception):
    """There is no open replica at the moment; the vectorstore's ``catch_up`` builds one."""


class ReplicaLost(Exception):
    """Another program removed or replaced the working directory; the rest of it may not be committed."""


class Replica:
    """One open working directory. Opening it raises BrokenReplica if Chroma fails, and NewerEngine before any change.

    ``is_migrated``: opening it changed the schema or mended texts, and no commit holds that yet. ``index_rows`` keeps
    the vectors that are searched exactly, for all replicas of a shard.
    """

    def __init__(
        self,
        user_id: str,
        directory: Path,
        position: Position,
        image: Image,
        settings: Settings,
        sources: Sources = SYSTEM,
        *,
        index_rows: IndexRows | None = None,
    ) -> None:
        self.directory = directory
        self.state = DirectoryState()
        # Whether a commit may lose its number, so that an undo is prepared before each write.
        self.may_lose = False
        self._patcher = Patcher(directory, self.state)
        self._captured: tuple[int | None, Image] | None = None
        self._quiet, self._calls = 0, 0  # Captures since Chroma was called last, and how often it was until then.
        self._index_rows = index_rows
        self.position = position
        self.image = image
        self._user_id = user_id
        self._settings = settings
        self._sources = sources
        self._is_written = False
        self._added_bytes = 0  # Of writes within a quota since the last commit.
        self._captures = Captures(directory)
        with on_local_disk(directory):
            self._schema = read_schema(directory)
            if self._schema is not None and self._schema.strangers:
                raise Damaged(
                    f"The database of the vectorstore holds {self._schema.strangers[0]}, which no version of Chroma "
                    "makes. It is not opened. Restore an earlier commit, or export it and copy the collections."
                )
            self.is_migrated = self._migrate()
            if self.is_schema_tested:
                if read_remains(directory).since_ms == 0:
                    self.state.untracked_write()
                self.is_migrated |= take_over(directory, sources.now_ms())
            self._open()
            # What the files may hold beyond what Chroma answers, as of the last capture.
            self.remains = read_remains(directory)
            self._identity = self._identify()

    def _migrate(self) -> bool:
        """Bring the schema of an older state to this engine's; return whether it was older. Raises NewerEngine."""
        schema, sidecar = self._schema, Sidecar(self.directory / SIDECAR_FILE)
        if schema is None:
            # If SQLite cannot read the file, Chroma's open reports the error.
            return False
        compatibility.check(self._stamp_of(schema, sidecar_version_of(self.directory / SIDECAR_FILE)))
        if not compatibility.is_older(schema, self.directory):
            return False
        self.state.untracked_write()
        sidecar.migrate()
        sidecar.close()
        # Opening migrates. The schema that results is read before the files are opened for use.
        migrate(self.directory)
        self._schema = read_schema(self.directory)
        return True

    def _open(self) -> None:
        settings = self._settings
        options = engine_options(settings, self._schema, self._index_rows)
        self.engine = Engine(self.directory, options, self.state)
        self._sidecar = Sidecar(self.directory / SIDECAR_FILE, self.state.sidecar_write)
        self._native_reader = NativeReader(self._user_id, self.engine, self._sidecar, self.size_bytes, self.live_bytes)
        self._protocol_reader = ProtocolReader(self._user_id, self.engine, settings.max_results)
        self._writer = Writer(
            self._user_id, self.engine, self._sidecar, settings, self.is_new, self.tombstone, self.live_bytes
        )

    @property
    def stamp(self) -> EngineStamp | None:
        """The engine stamp of the state as it is now; None if SQLite cannot read the schema."""
        if self._schema is None:
            return None
        return self._stamp_of(self._schema, self._sidecar.version)

    @staticmethod
    def _stamp_of(schema: Schema, sidecar: int) -> EngineStamp:
        return compatibility.stamp_of(schema, sidecar, version=installed_version())

    @property
    def is_schema_tested(self) -> bool:
        """Whether the fast paths were tested on the schema of this directory."""
        return self._schema is not None and is_tested(self._schema.fingerprint)

    @property
    def schema_state(self) -> SchemaState:
        """``is_schema_tested`` as a word for the pool's view."""
        return "tested" if self.is_schema_tested else "untested"

    @property
    def chroma_use(self) -> ChromaUse | None:
        """Why Chroma is open; None if it is not."""
        return self.engine.chroma_use

    def size_bytes(self) -> int:
        """Return the size of the files as of the last commit, in bytes."""
        return sum(file.size for file in self.image.files.values())

    def live_bytes(self) -> int:
        """Return the bytes of what is stored: the files as of the last commit without free pages, and later writes."""
        return max(0, self.size_bytes() - self.remains.free_bytes) + self._added_bytes

    def is_new(self) -> bool:
        """Whether nothing was ever stored for the user, here or anywhere."""
        # True also after a deletion, whose tombstone has a number but no files.
        return not self.image.files and not self._is_written

    def tombstone(self) -> int:
        """Return the commit that deleted the vectorstore, if nothing was written since, or else 0."""
        return self.position.seq if self.is_new() else 0

    def read(self, command: Read) -> bytes:
        """Return the answer as JSON; raises VectorpoolError, BrokenReplica if the directory is gone."""
        with self._in_place():
            body = self._read(resolve_alias(command, self._sidecar), at_once=False)
        assert body is not None, "a read that may wait has an answer"
        return body

    def read_at_once(self, command: Read) -> bytes | None:
        """Return the answer as JSON if that is short enough for an event loop, else None. Raises as ``read``."""
        with self._in_place():
            return self._read(command, at_once=True)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Raise the error of ``_failure_of_place`` if the replica's directory or disk made the block fail."""
        try:
            yield
        except Exception as error:
            if (failure := self._failure_of_place(error)) is not None and failure is not error:
                raise failure from error
            raise

    def _failure_of_place(self, error: Exception) -> BrokenReplica | LocalDiskFailed | None:
        """Return the error of a request that the directory or its disk made fail; None if the cause is another.

        A failure in a directory that was removed or replaced is no answer. Chroma, SQLite and the system report it with
        different errors, so the directory itself is checked.
        """
        if self._is_lost():
            return BrokenReplica("The working directory was removed while it was open.")
        return as_disk_failure(error, self.directory)

    def _read(self, command: Read, *, at_once: bool) -> bytes | None:
        if isinstance(command, ChromaRead):
            return self._protocol_reader.read(command, at_once=at_once)
        answer = self._native_reader.read(command, at_once=at_once)
        return None if answer is None else _encode(answer)

    def write(
        self, command: Write, collection_id: str | None = None, quota: Quota | None = None, is_again: bool = False
    ) -> tuple[bytes, Effect]:
        """Apply a command; return its answer as JSON and its effect. Raises VectorpoolError or HalfApplied.

        QuotaExceeded if the user would then have more stored than ``quota`` allows; nothing has changed then.

        ``collection_id`` is the id of the collection that the command creates, because a client received that id
        before; no read may run meanwhile. If the collection exists under another id, ``collection_id`` becomes its
        alias. ``is_again``: the command was applied to an earlier state, and may be acknowledged. A write that failed
        because of a removed directory or of the local disk counts as half applied.
        """
        try:
            return self._write(command, collection_id, quota, is_again)
        except Exception as error:
            cause = error.cause if isinstance(error, HalfApplied) else error
            if (failure := self._failure_of_place(cause)) is not None:
                raise HalfApplied(failure) from error
            raise

    def _write(
        self, command: Write, collection_id: str | None, quota: Quota | None, is_again: bool
    ) -> tuple[bytes, Effect]:
        if self.may_lose:
            self._patcher.keep(self.image)
        there = self._made_id(command)
        makes = made_by(command) is not None and there is None
        # Before the write, so that no reader uses an old entry; after it, for readers that cached one meanwhile.
        only_new = isinstance(command, RecordWrite)
        self.engine.catalogue.forget(only_new=only_new)
        try:
            answer, effect = self._writer.write(resolve_alias(command, self._sidecar), quota, is_again=is_again)
        finally:
            self.engine.catalogue.forget(only_new=only_new)
        if there is not None and collection_id is not None and collection_id != there:
            self._sidecar.set_alias(collection_id, there)
            effect.touched = True
        self._is_written = self._is_written or effect.touched
        if quota is not None and quota.bytes_stored is not None and not command.frees:
            self._added_bytes += bytes_of(command)
        body = _encode(answer)
        made = self._made_id(command) if makes else None
        if made is not None and collection_id is not None:
            self._give_id(made, collection_id)
            body = body.replace(made.encode(), collection_id.encode())
        effect.made = collection_id or made
        return body, effect

    def _made_id(self, command: Write) -> str | None:
        """Return the id of the collection that the command creates, or None if it is missing. Raises HalfApplied."""
        key = made_by(command)
        try:
            return None if key is None else self.engine.catalogue.find_id(*key)
        except BrokenReplica as error:
            raise HalfApplied(error) from error

    def _give_id(self, made: str, collection_id: str) -> None:
        self.close()
        self.state.untracked_write()
        try:
            give_id(self.directory, made, collection_id)
            self._open()
        except BrokenReplica as error:
            raise HalfApplied(error) from error

    def capture(self) -> Capture:
        """Return the changes since the last commit. No read or write may run meanwhile.

        Raises ReplicaLost if the directory is not the one that was opened: its commit would commit the loss.
        """
        try:
            self.engine.settle_deletions(self._sources.now_ms())
            self._release_chroma()
            self.engine.zero_free_pages(is_worth_it=self._captures.is_worth_zeroing)
            mark = self.state.capturing()
            captured = self._captures.take(self.image, known_changes(self.state))
            self._captured = mark, captured.image
            self.remains = read_remains(self.directory)
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, OSError) or self._is_lost():
                raise ReplicaLost from error
            raise
        if self._is_lost():
            raise ReplicaLost
        return captured

    def _release_chroma(self) -> None:
        """Close Chroma if nothing needs it any more: then the commit of this capture makes the directory pristine."""
        calls = self.engine.calls_of_chroma
        self._quiet = self._quiet + 1 if calls == self._calls else 0
        self._calls = calls
        is_idle = self.engine.chroma_use in (None, "threshold") or self._quiet >= _QUIET_CAPTURES
        if self.state.is_chroma_open and is_idle:
            self._sidecar.close()
            self.engine.release_chroma()

    def _is_lost(self) -> bool:
        try:
            return self._identify() != self._identity
        except OSError:
            return True

    def _identify(self) -> tuple[int, int]:
        return self.directory.stat().st_ino, (self.directory / CHROMA_DATABASE_FILE).stat().st_ino

    def advance(self, position: Position, image: Image) -> None:
        """Set the commit that now holds the captured changes."""
        self.is_migrated = False
        mark, captured = self._captured or (None, None)
        self._captured = None
        if captured is image:
            self._patcher.follow(self.image, image)
            self.state.committed(mark)
        self._added_bytes = 0
        self.position = position
        self.image = image

    # --- Changes in place ----------------------------------------------------------------------------

    def plan(self, commits: Sequence[NextCommit]) -> Patch:
        """Return the patch that takes in the commits that follow. Raises Unpatchable, CorruptObject."""
        for commit in commits:
            if self._schema is None or not compatibility.is_same(commit.header.stamp, self._schema):
                raise Unpatchable("another engine wrote a commit")
        return plan_patch(self.image, commits)

    def patch(self, patch: Patch) -> None:
        """Bring the files to the patch's image. No read and no write may run meanwhile.

        Raises NotPristine before anything was written. After any other error the replica may not be used.
        """
        self._prepare_change()
        self._patcher.patch(self.image, patch)
        self._end_change(patch.position, patch.image, is_undone=False)

    def undo(self, lost: Image) -> None:
        """Bring the files back to the commit's image, from the capture that found ``lost``; else as ``patch``."""
        mark, captured = self._captured or (None, None)
        if captured is not lost:
            raise NotPristine
        self._prepare_change()
        self._patcher.undo(self.image, lost, mark)
        self._end_change(self.position, self.image, is_undone=True)

    def _prepare_change(self) -> None:
        if self._is_lost():
            raise NotPristine
        self._sidecar.close()
        self.engine.release_files()

    def _end_change(self, position: Position, image: Image, *, is_undone: bool) -> None:
        self._captured, self._added_bytes = None, 0
        self.engine.files_changed(is_undone=is_undone)
        self.remains = read_remains(self.directory)
        self.position, self.image = position, image

    def examine(self) -> None:
        """Read everything once; raise BrokenReplica if Chroma cannot."""
        with self._in_place():
            self.engine.examine()

    def copy_to(self, directory: Path) -> None:
        """Copy the files into an empty directory. No read and no write may run meanwhile."""
        self._sidecar.close()
        self.engine.release_chroma()
        shutil.copytree(self.directory, directory, dirs_exist_ok=True)

    def close(self) -> None:
        """Close the engine and the sidecar; the directory stays."""
        self.engine.close()
        self._sidecar.close()

    def discard(self) -> None:
        """Close the engine and the sidecar and remove the directory."""
        self.close()
        self._patcher.close()
        shutil.rmtree(self.directory, ignore_errors=True)
