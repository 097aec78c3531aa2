"""The local working copy of a vectorstore: a directory, Chroma and the sidecar open on it.

Everything here blocks and belongs in a worker thread. A replica knows the commit it was built from
(``position``, ``image``); what it holds beyond that is not committed yet.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import msgspec
import numpy as np

from vectorpool.commands import ChromaRead, Read, RecordWrite, Write
from vectorpool.commitlog.image import Capture, Image, Stamps, capture
from vectorpool.commitlog.outcomes import Position
from vectorpool.commitlog.stamp import EngineStamp
from vectorpool.engine.version import Schema, installed_version, is_tested, learn_migrations, read_schema
from vectorpool.errors import BrokenReplica, ChromaRefusal, InternalError, NotFound
from vectorpool.names import CHROMA_DATABASE_FILE, SIDECAR_FILE
from vectorpool.settings import Settings
from vectorpool.vectorstore import compatibility
from vectorpool.vectorstore.chroma import Chroma
from vectorpool.vectorstore.collection_ids import find_id, meant, place_of, rewrite_id
from vectorpool.vectorstore.direct import Direct
from vectorpool.vectorstore.direct_writes import DirectWriter
from vectorpool.vectorstore.hnsw_files import is_cut
from vectorpool.vectorstore.protocol_reads import ProtocolReader
from vectorpool.vectorstore.reads import Reader
from vectorpool.vectorstore.sidecar import Sidecar
from vectorpool.vectorstore.sidecar_schema import version_of as sidecar_version_of
from vectorpool.vectorstore.writes import Effect, HalfApplied, Writer

# Records of one page of an examination; bounds what it holds in memory.
_EXAMINED_AT_ONCE = 500

_encode = msgspec.json.Encoder().encode


class ReplicaClosed(Exception):
    """There is no open replica at the moment; the vectorstore's ``catch_up`` builds one."""


class ReplicaLost(Exception):
    """The working directory was removed or replaced behind our back; what is left of it may not be committed."""


class Replica:
    """One open working directory. Opening it raises BrokenReplica if Chroma cannot, NewerEngine before it tries.

    ``is_migrated`` says that opening it changed the schema, and that no commit holds the change yet.
    """

    def __init__(self, user_id: str, directory: Path, position: Position, image: Image, settings: Settings) -> None:
        self.directory = directory
        self.position = position
        self.image = image
        if is_cut(directory):
            raise BrokenReplica("A file of the vectorstore's index is shorter than it says.")
        self._user_id = user_id
        self._settings = settings
        self._is_written = False
        self._stamps = Stamps()
        self._schema = read_schema(directory)
        self.is_migrated = self._migrate()
        self._open()
        self._identity = self._identify()

    def _migrate(self) -> bool:
        """Bring the schema of an older state to this engine's; return whether it was older. Raises NewerEngine."""
        schema, sidecar = self._schema, Sidecar(self.directory / SIDECAR_FILE)
        if schema is None:
            # Chroma says what is wrong with a file that SQLite cannot read.
            return False
        compatibility.check(self._stamp_of(schema, sidecar_version_of(self.directory / SIDECAR_FILE)))
        if not compatibility.is_older(schema, self.directory):
            return False
        sidecar.migrate()
        sidecar.close()
        # Opening migrates. The schema that results is read before the files are opened for use.
        Chroma(self.directory).close()
        self._schema = read_schema(self.directory)
        return True

    def _open(self) -> None:
        self._chroma = Chroma(self.directory)
        self._sidecar = Sidecar(self.directory / SIDECAR_FILE)
        reading = threading.Lock()
        self._direct = Direct(self.directory, self._chroma.kind, self._settings.exact_bytes, reading)
        self._direct_writer = DirectWriter(self.directory, self._chroma.rust, reading)
        self._reader = Reader(self._user_id, self._chroma, self._direct, self._sidecar, self.size_bytes)
        self._protocol_reader = ProtocolReader(self._user_id, self._chroma, self._direct)
        self._writer = Writer(
            self._user_id, self._chroma, self._direct_writer, self._sidecar, self._settings, self.is_new
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

    def size_bytes(self) -> int:
        """Return the size of the files as of the last commit, in bytes."""
        return sum(file.size for file in self.image.files.values())

    def is_new(self) -> bool:
        """Whether nothing was ever stored for the user, here or anywhere."""
        # Also after a deletion, whose tombstone has a number but no files.
        return not self.image.files and not self._is_written

    def read(self, command: Read) -> bytes:
        """Return the answer as JSON; raises VectorpoolError, BrokenReplica if the directory is not there any more."""
        command = meant(command, self._sidecar)
        try:
            if isinstance(command, ChromaRead):
                return self._protocol_reader.read(command)
            return _encode(self._reader.read(command))
        except (InternalError, ChromaRefusal) as error:
            # Chroma says it in many words, so the directory is asked instead.
            if self._is_lost():
                raise BrokenReplica("The working directory was removed while it was open.") from error
            raise

    def read_at_once(self, command: Read) -> bytes | None:
        """Return the answer as JSON if that takes no longer than an event loop may wait. Raises VectorpoolError."""
        if isinstance(command, ChromaRead):
            return self._protocol_reader.read_directly(command, at_once=True)
        answer = self._reader.read_directly(command, at_once=True)
        return None if answer is None else _encode(answer)

    def write(self, command: Write, collection_id: str | None = None) -> tuple[bytes, Effect]:
        """Apply a command; return its answer as JSON and its effect. Raises VectorpoolError or HalfApplied.

        ``collection_id`` is the id that a collection which the command makes shall have, because it was told before;
        nobody may read meanwhile. If the collection is there already, under another id, the one told becomes its alias.
        """
        there = self._made_id(command)
        makes = place_of(command) is not None and there is None
        # Before, so that no reader keeps what it was told; after, for those who asked while the write was under way.
        only_new = isinstance(command, RecordWrite)
        self._chroma.forget(only_new=only_new)
        try:
            answer, effect = self._writer.write(meant(command, self._sidecar))
        finally:
            self._chroma.forget(only_new=only_new)
        if there is not None and collection_id is not None and collection_id != there:
            self._sidecar.set_alias(collection_id, there)
            effect.touched = True
        self._is_written = self._is_written or effect.touched
        body = _encode(answer)
        made = self._made_id(command) if makes else None
        if made is not None and collection_id is not None:
            self._give_id(made, collection_id)
            body = body.replace(made.encode(), collection_id.encode())
        effect.made = collection_id or made
        return body, effect

    def _made_id(self, command: Write) -> str | None:
        """Return the id of the collection that the command makes, or None if it is not there. Raises HalfApplied."""
        place = place_of(command)
        try:
            return None if place is None else find_id(self._chroma, *place)
        except BrokenReplica as error:
            raise HalfApplied(error) from error

    def _give_id(self, made: str, collection_id: str) -> None:
        self.close()
        try:
            rewrite_id(self.directory, made, collection_id)
            self._open()
        except BrokenReplica as error:
            raise HalfApplied(error) from error

    def capture(self) -> Capture:
        """Return what differs from the last commit. Nobody may read or write meanwhile.

        Raises ReplicaLost if the directory is not the one that was opened: committing what is there instead
        would commit the loss.
        """
        try:
            captured = capture(self.directory, self.image, self._stamps)
            if self._identify() == self._identity:
                return captured
        except OSError as error:
            raise ReplicaLost from error
        raise ReplicaLost

    def _is_lost(self) -> bool:
        try:
            return self._identify() != self._identity
        except OSError:
            return True

    def _identify(self) -> tuple[int, int]:
        return self.directory.stat().st_ino, (self.directory / CHROMA_DATABASE_FILE).stat().st_ino

    def advance(self, position: Position, image: Image) -> None:
        """Note that what was captured is committed."""
        self.is_migrated = False
        self.position = position
        self.image = image

    def examine(self) -> None:
        """Read everything once; raise BrokenReplica if Chroma cannot."""
        try:
            self._examine()
        except BrokenReplica:
            raise
        except (InternalError, NotFound) as error:
            # No filter and no id of a caller was involved, so it is the files.
            raise BrokenReplica(f"Chroma cannot read this replica: {error.detail}") from error

    def _examine(self) -> None:
        for avatar_id in (None, *self._chroma.avatars()):
            for info in self._chroma.collections(avatar_id):
                count = self._chroma.count(info)
                for offset in range(0, count, _EXAMINED_AT_ONCE):
                    page = self._chroma.get(info, limit=_EXAMINED_AT_ONCE, offset=offset, include=["embeddings"])
                    if len(page.ids) != min(_EXAMINED_AT_ONCE, count - offset):
                        raise BrokenReplica(f"A collection counts {count} records and does not return them.")
                if count and info.dimension is not None:
                    self._chroma.query(info, np.ones((1, info.dimension), np.float32), 1)

    def close(self) -> None:
        """Close Chroma and the sidecar; the directory stays."""
        self._direct.close()
        self._direct_writer.close()
        self._sidecar.close()
        self._chroma.close()

    def discard(self) -> None:
        """Close Chroma and the sidecar and remove the directory."""
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class Template:
    """An empty Chroma directory, made once: a new user's store is a copy of it, not 45 ms of migrations."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._making = threading.Lock()

    def _make(self) -> None:
        # The first users of an instance come at the same time: one of them makes it, the others wait for it.
        with self._making:
            if not self._directory.exists():
                making = self._directory.with_name(self._directory.name + ".making")
                shutil.rmtree(making, ignore_errors=True)
                making.mkdir(parents=True)
                Chroma(making).close()
                making.rename(self._directory)

    def learn(self) -> None:
        """Note which migrations the installed Chroma applies to a fresh directory."""
        self._make()
        learn_migrations(self._directory)

    def copy_to(self, directory: Path) -> None:
        """Fill an empty directory. Several threads may, each its own."""
        self._make()
        shutil.copytree(self._directory, directory, dirs_exist_ok=True)
