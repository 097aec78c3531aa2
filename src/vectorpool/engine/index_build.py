"""Indexes built in a closed directory, and put into a later state of the same vectorstore.

The vectors of a collection wait in its queue until an index pays (``index_needs``). Chroma takes about a millisecond a
vector to build one, in which it would hold the replica. So it does that in a copy of the state at some commit. Later
writes follow in the log meanwhile, and their operations stay in the queue when the finished files are put into the
state at a later commit: they are newer than what the index holds.

That is right only if the later state still has what the index was built from: the index files of then, and each
operation that waited. A digest of both says so. It differs after a squeeze, after another index, and after a restore of
a commit before, and then nothing is changed.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec
import xxhash

from vectorpool.engine.bindings import Client
from vectorpool.engine.closed_queues import ClosedQueue, closed_queues, read_only
from vectorpool.engine.collection_ids import wait_until_closed
from vectorpool.engine.deletions import connect
from vectorpool.engine.index_files import read_labels
from vectorpool.engine.tables import OF_COLLECTION
from vectorpool.errors import BrokenReplica

# Beside the directory's files: what the indexes in it were built from.
_NOTES: Final = "built-from.json"
_PART: Final = 1 << 20


class _Note(msgspec.Struct, frozen=True):
    """What an index was built from: a collection's queue and, as a digest, that and the index files before."""

    queue: ClosedQueue
    digest: str


def write_indexes(directory: Path) -> int:
    """Have Chroma write each index that more waits for than its threshold says; return how many. Blocking.

    A directory in which there is none, or whose schema was not tested, is not opened. Raises BrokenReplica,
    sqlite3.Error, OSError, and what the bindings raise: the directory may not be used then.
    """
    return len(_write(directory))


def build_indexes(directory: Path) -> int:
    """Do the same, and note beside the files what the indexes were built from, for ``install_indexes``."""
    notes = _write(directory)
    (directory / _NOTES).write_bytes(msgspec.json.encode(notes))
    return len(notes)


def _write(directory: Path) -> list[_Note]:
    overdue = [queue for queue in closed_queues(directory) if queue.is_long]
    if not overdue:
        return []
    with closing(read_only(directory)) as db:
        notes = {queue.collection_id: _Note(queue, _digest(db, directory, queue)) for queue in overdue}
    client = Client(directory)
    try:
        written = [each for each in overdue if not client.refuses(each.collection_id)]
        for each in written:
            client.apply_queue(collection_id=each.collection_id, database=each.database, dimension=each.dimension)
    finally:
        client.close()
    wait_until_closed(directory)
    return [notes[each.collection_id] for each in written]


def install_indexes(directory: Path, built: Path) -> bool:
    """Put the indexes of ``built`` into ``directory``, a closed and later state; return whether any fits. Blocking.

    Raises BrokenReplica if an index and the queue do not lead to the records, sqlite3.Error and OSError; ``directory``
    may not be used then.
    """
    notes = msgspec.json.decode((built / _NOTES).read_bytes(), type=list[_Note])
    there = {queue.collection_id: queue for queue in closed_queues(directory)}
    made = {queue.collection_id: queue.persisted for queue in closed_queues(built)}
    fitting: list[ClosedQueue] = []
    with closing(connect(directory)) as db:
        # What is taken out of the queue is overwritten: free pages that hold zeros take no bytes in a commit.
        db.execute("PRAGMA secure_delete = ON")
        db.execute("BEGIN IMMEDIATE")
        for note in notes:
            queue, now = note.queue, there.get(note.queue.collection_id)
            if now is None or (now.vector, now.persisted) != (queue.vector, queue.persisted):
                continue
            # Chroma may have left a part of the queue to a later call.
            if made.get(queue.collection_id) == queue.last and _digest(db, directory, queue) == note.digest:
                fitting.append(queue)
                _install(db, queue, built / queue.vector)
        db.execute("COMMIT")
    for queue in fitting:
        target = directory / queue.vector
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(built / queue.vector, target)
    return bool(fitting)


def _install(db: sqlite3.Connection, queue: ClosedQueue, files: Path) -> None:
    """Have the tables and the queue of a collection say that its index files are those of ``files``."""
    labels = read_labels(files).keys()
    sql = "SELECT embedding_id FROM embeddings WHERE segment_id = ?"
    records = {record_id for (record_id,) in db.execute(sql, (queue.metadata,))}
    sql = f"SELECT id FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION}"
    later = {record_id for (record_id,) in db.execute(sql, (queue.last, queue.collection_id))}
    if differing := len((records ^ labels) - later):
        raise BrokenReplica(f"An index that was built differs in {differing} records that the queue does not name.")
    db.execute("INSERT OR REPLACE INTO max_seq_id (segment_id, seq_id) VALUES (?, ?)", (queue.vector, queue.last))
    # The greatest number stays: it says which one comes next.
    db.execute(
        f"DELETE FROM embeddings_queue WHERE seq_id <= ? AND {OF_COLLECTION} "
        "AND seq_id < (SELECT MAX(seq_id) FROM embeddings_queue)",
        (queue.last, queue.collection_id),
    )


def _digest(db: sqlite3.Connection, directory: Path, queue: ClosedQueue) -> str:
    """Return a digest of a collection's operations after ``persisted`` up to ``last``, and of its index files."""
    digest = xxhash.xxh3_128()
    sql = (
        "SELECT seq_id, operation, id, vector, encoding FROM embeddings_queue "
        f"WHERE seq_id > ? AND seq_id <= ? AND {OF_COLLECTION} ORDER BY seq_id"
    )
    for row in db.execute(sql, (queue.persisted, queue.last, queue.collection_id)):
        digest.update(msgspec.msgpack.encode(row))
    folder = directory / queue.vector
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while part := file.read(_PART):
                digest.update(part)
    return digest.hexdigest()
