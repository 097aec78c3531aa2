"""Parquet as a target: a file of one user, or a folder with a file ``USER.parquet`` for each; local or ``s3://``.

A row is a record: database, collection, id, embedding (list of float32), document, uri, metadata (JSON; ``values``
says how floats survive). The file's own metadata holds user, commit and the collections, those without a record too.
Every export writes the file anew, beside the old one or for S3 in the temporary directory, and replaces the old one at
the end; one of the same commit does nothing. The file that stands for a deleted user says so, and has no rows.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from vectorpool.errors import InvalidTarget, TargetRefused, TargetUnavailable, UserNotFound
from vectorpool.targets.records import Collection, Copy, Float32, Held, Records, State
from vectorpool.targets.urls import Target
from vectorpool.targets.values import from_json, to_json

_KEY: Final = b"vectorpool"
_SUFFIX: Final = ".parquet"
_NEW: Final = ".new"
_COPIED_BYTES: Final = 8 * 1024**2
_SCHEMA: Final = pa.schema(
    [
        ("database", pa.string()),
        ("collection", pa.string()),
        ("collection_id", pa.string()),
        ("id", pa.string()),
        ("embedding", pa.list_(pa.float32())),
        ("document", pa.string()),
        ("uri", pa.string()),
        ("metadata", pa.string()),
    ]
)


class _Head(msgspec.Struct):
    """What the file's metadata says; ``format`` 1."""

    user_id: str
    commit: int
    commit_hash: str
    collections: list[Collection] = []
    deleted: bool = False
    format: int = 1


def open_sink(target: Target) -> ParquetSink:
    """Open a file or folder to write. Raises InvalidTarget, TargetRefused."""
    return ParquetSink(target)


def open_source(target: Target, user_id: str) -> ParquetSource:
    """Open a user's file to read. Raises UserNotFound, InvalidTarget, TargetRefused."""
    return ParquetSource(target, user_id)


class _Place:
    """Where a target is."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.is_local = True
        self._path = target.url
        self.files: fs.FileSystem = fs.LocalFileSystem()
        if target.url.startswith("s3://"):
            self.is_local = False
            with self.told():
                self.files, self._path = fs.FileSystem.from_uri(target.url)
        elif "://" in target.url:
            self._path = unquote(target.parts.netloc + target.parts.path)

    @property
    def is_file(self) -> bool:
        """Whether the target is one file."""
        return self._path.endswith(_SUFFIX)

    def path(self, user_id: str) -> str:
        """Return the path of a user's file."""
        return self._path if self.is_file else f"{self._path.rstrip('/')}/{quote(user_id, safe='')}{_SUFFIX}"

    def head(self, path: str) -> _Head | None:
        """Return what a file says of itself; None if there is none."""
        with self.told():
            if self.files.get_file_info(path).type == fs.FileType.NotFound:
                return None
            with self.files.open_input_file(path) as file:
                metadata = pq.read_metadata(file).metadata or {}
        try:
            head = msgspec.json.decode(metadata[_KEY], type=_Head)
        except (KeyError, msgspec.MsgspecError):
            raise TargetRefused(
                f"{self._target.shown}: a Parquet file is there that vectorpool did not write. Name another one."
            ) from None
        if head.format != 1:
            raise TargetRefused(f"{self._target.shown} has format {head.format}, of a later release.")
        return head

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Raise the errors of files and of Arrow as this project's."""
        try:
            yield
        except pa.ArrowInvalid as error:
            kind = InvalidTarget if "URI" in str(error) else TargetRefused
            raise kind(f"{self._target.shown}: {self._target.clean(str(error))}.") from None
        except OSError as error:
            text = self._target.clean(str(error))
            if self.is_local or "ACCESS_DENIED" in text or "NO_SUCH_BUCKET" in text or "INVALID_ACCESS_KEY" in text:
                raise TargetRefused(f"{self._target.shown} refuses: {text}.") from None
            raise TargetUnavailable(f"{self._target.shown} does not answer: {text}.") from None


class ParquetSink:
    """One file, written anew and put in the old one's place."""

    is_always_whole = True
    may_be_kept = False

    def __init__(self, target: Target) -> None:
        self._target = target
        self._place = _Place(target)
        self._writer: pq.ParquetWriter | None = None
        self._file: Any = None
        self._path = ""
        self._head = _Head("", 0, "")
        self._dropped: list[str] = []

    def close(self) -> None:
        """Remove what is unfinished."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        with contextlib.suppress(Exception):
            writer.close()
        self._file.close()
        if self._place.is_local:
            Path(self._path + _NEW).unlink(missing_ok=True)

    def state(self, user_id: str) -> State | None:
        """Return the commit of the file. Raises TargetRefused if it is another user's."""
        head = self._place.head(self._place.path(user_id))
        if head is None:
            return None
        if head.user_id != user_id:
            raise TargetRefused(f"{self._target.shown} is the file of another user. Name another file, or a folder.")
        return State(head.commit, head.commit_hash)

    def begin(self, user_id: str, commit: int, commit_hash: str) -> None:
        """Open the new file."""
        self._head = _Head(user_id, commit, commit_hash)
        self._open(user_id)

    def _open(self, user_id: str) -> None:
        self._path = self._place.path(user_id)
        with self._place.told():
            if self._place.is_local:
                Path(self._path).parent.mkdir(parents=True, exist_ok=True)
                self._file = Path(self._path + _NEW).open("wb")  # noqa: SIM115
            else:
                # Arrow completes an upload whose stream is dropped, so nothing is uploaded before the file is whole.
                self._file = tempfile.TemporaryFile(prefix="vectorpool-export-")  # noqa: SIM115
            self._writer = pq.ParquetWriter(self._file, _SCHEMA, compression="zstd")

    def put_collection(self, collection: Collection, held: Held) -> None:
        """Note a collection for the file's metadata."""
        self._head.collections.append(collection)

    def put(self, collection: Collection, records: Records, *, is_new: bool) -> None:
        """Write a row group."""
        assert self._writer is not None
        count, dimension = records.vectors.shape
        starts = pa.array(range(0, count * dimension + 1, dimension), pa.int32())
        columns = [
            pa.array([collection.database] * count, pa.string()),
            pa.array([collection.name] * count, pa.string()),
            pa.array([collection.id] * count, pa.string()),
            pa.array(list(records.ids), pa.string()),
            pa.ListArray.from_arrays(starts, pa.array(records.vectors.reshape(-1), pa.float32())),
            pa.array(list(records.documents), pa.string()),
            pa.array(list(records.uris), pa.string()),
            pa.array([to_json(each) for each in records.metadatas], pa.string()),
        ]
        with self._place.told():
            self._writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))

    def count(self, collection: Collection) -> int:
        """Return 0: nothing of an earlier export is in the new file."""
        return 0

    def ids(self, collection: Collection) -> set[str]:
        """Return nothing, as ``count`` does."""
        return set()

    def delete(self, collection: Collection, ids: Sequence[str]) -> None:
        """Delete nothing: what is gone is not written."""

    def drop_collection(self, collection_id: str) -> None:
        """Drop nothing, as ``delete`` does."""

    def note(self, collection: Collection, held: Held) -> None:
        """Note nothing: a file is whole or not there."""

    def finish(self) -> None:
        """Write the metadata, and put the file in its place."""
        assert self._writer is not None
        with self._place.told():
            self._writer.add_key_value_metadata({_KEY: msgspec.json.encode(self._head)})
            self._writer.close()
            self._writer = None
            if self._place.is_local:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                Path(self._path + _NEW).replace(self._path)
                return
            self._file.seek(0)
            with self._file, self._place.files.open_output_stream(self._path) as uploaded:
                shutil.copyfileobj(self._file, uploaded, _COPIED_BYTES)

    def forget(self, user_id: str, commit: int) -> int:
        """Replace the user's file by one without rows that says that the user was deleted."""
        path = self._place.path(user_id)
        with self._place.told(), self._place.files.open_input_file(path) as file:
            count = int(pq.read_metadata(file).num_rows)
        self._head = _Head(user_id, commit, "", deleted=True)
        self._open(user_id)
        self.finish()
        return count


class ParquetSource:
    """A user's file."""

    def __init__(self, target: Target, user_id: str) -> None:
        self._place = _Place(target)
        self._path = self._place.path(user_id)
        head = self._place.head(self._path)
        if head is None or head.deleted:
            raise UserNotFound(f"{target.shown} has nothing of user {user_id}.")
        self._head = head
        with self._place.told():
            self._opened = self._place.files.open_input_file(self._path)
            self._file = pq.ParquetFile(self._opened)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._opened.close()

    def collections(self) -> list[Collection]:
        """Return the collections of the file."""
        return self._head.collections

    def copy(self) -> Copy | None:
        """Return the commit of the file."""
        return Copy(self._head.commit, self._head.commit_hash, self._file.metadata.num_rows)

    def batches(self, collection: Collection, cursor: int = 0) -> Iterator[Records]:
        """Yield the records, a row group at a time: each has one collection's."""
        for group in range(self._file.num_row_groups):
            with self._place.told():
                name = self._file.read_row_group(group, columns=["collection_id"]).column(0)
            if name[0].as_py() != collection.id:
                continue
            with self._place.told():
                table = self._file.read_row_group(group)
            if cursor >= table.num_rows:
                cursor -= table.num_rows
                continue
            table, cursor = table.slice(cursor), 0
            yield Records(
                table.column("id").to_pylist(),
                _vectors(table),
                table.column("document").to_pylist(),
                [from_json(each) for each in table.column("metadata").to_pylist()],
                table.column("uri").to_pylist(),
            )


def _vectors(table: pa.Table) -> Float32:
    column = table.column("embedding").combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    found: Float32 = values.reshape(table.num_rows, -1)
    return found
