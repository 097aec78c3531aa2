"""An export to a sink, and an import from a source: what is written, in which order, and what need not be.

A collection is written by increment if the target has it whole as of a commit of the same history: then the rows that
changed since that commit's position are written. If something may have been deleted since, and the counts differ
afterwards, the ids are compared and those that are left over are deleted. Whatever is doubtful is written whole, and
the ids are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec
import numpy as np

from vectorpool.errors import NotExportable, TargetRefused
from vectorpool.targets.directory import DirectorySource, DirectoryWriter
from vectorpool.targets.records import BATCH, Collection, Held, Records, Sink, Source, State
from vectorpool.targets.source_documents import DocumentSink

# Whether nothing but writes led from a commit, by number and hash, to the one that is exported.
Lineage: TypeAlias = Callable[[int, str], bool]
# Called with the records that are done, and all that are to be done.
Progress: TypeAlias = Callable[[int, int], None]

_IDS_AT_ONCE: Final = 1000


class Exported(msgspec.Struct):
    """What an export did. ``commit`` is what the target holds now."""

    commit: int
    collections: int = 0
    written: int = 0
    deleted: int = 0
    dropped: int = 0
    is_current: bool = False


def no_progress(_done: int, _total: int) -> None:
    """Ignore progress."""


def check_order(state: State | None, commit: int, shown: str) -> None:
    """Raise TargetRefused if the target has a later commit than the one that is exported."""
    if state is not None and state.commit > commit:
        raise TargetRefused(
            f"{shown} has commit {state.commit} of this user, and an export of commit {commit} would take it back. "
            "Export the newest commit, or name another target."
        )


def export(
    source: DirectorySource,
    sink: Sink,
    *,
    user_id: str,
    commit: int,
    commit_hash: str,
    lineage: Lineage,
    shown: str,
    progress: Progress = no_progress,
) -> Exported:
    """Bring a target to a commit of a user. Blocking. Raises TargetRefused, TargetUnavailable, NotExportable."""
    state = sink.state(user_id)
    check_order(state, commit, shown)
    done = Exported(commit)
    if state is not None and (state.commit, state.commit_hash) == (commit, commit_hash):
        done.is_current = True
        return done
    sink.begin(user_id, commit, commit_hash)
    held = {} if state is None else state.collections
    collections = source.collections()
    for collection_id in held.keys() - {each.id for each in collections}:
        sink.drop_collection(collection_id)
        done.dropped += 1
    known: dict[tuple[int, str], bool] = {}

    def follows(base: Held) -> bool:
        key = (base.commit, base.commit_hash)
        if key not in known:
            known[key] = bool(base.commit) and lineage(*key)
        return known[key]

    plans = []
    for collection in collections:
        before = held.get(collection.id, Held())
        is_whole = sink.is_always_whole or not before.mark or not follows(before)
        ids = source.ids(collection, 0 if is_whole else before.mark)
        plans.append((collection, before, is_whole, ids))
    total = sum(len(ids) for *_, ids in plans)
    for collection, before, is_whole, ids in plans:
        _collection(source, sink, collection, before, ids, is_whole, commit, commit_hash, done, total, progress)
        done.collections += 1
    if isinstance(sink, DocumentSink):
        sink.put_documents(source.documents())
    sink.finish()
    return done


def _collection(
    source: DirectorySource,
    sink: Sink,
    collection: Collection,
    before: Held,
    ids: list[str],
    is_whole: bool,
    commit: int,
    commit_hash: str,
    done: Exported,
    total: int,
    progress: Progress,
) -> None:
    whole = Held(commit, commit_hash, source.position(collection))
    if (before.commit, before.commit_hash) == (commit, commit_hash):
        # Finished by an export that was cut short later.
        return
    start = before.cursor if before.next_commit == commit else 0
    step = msgspec.structs.replace(before, next_commit=commit, cursor=start)
    sink.put_collection(collection, step)
    is_new = before == Held()
    for at in range(start, len(ids), BATCH):
        records = source.read(collection, ids[at : at + BATCH])
        sink.put(collection, records, is_new=is_new)
        done.written += len(records.ids)
        step = msgspec.structs.replace(step, cursor=at + len(records.ids))
        sink.note(collection, step)
        progress(done.written, total)
    if not sink.is_always_whole and not is_new:
        done.deleted += _delete_left_over(source, sink, collection, 0 if is_whole else before.mark)
    sink.note(collection, whole)


def _delete_left_over(source: DirectorySource, sink: Sink, collection: Collection, since: int) -> int:
    """Delete what the source has no more, if it may be that anything was deleted after a position, 0 for the first.

    All that the source has is in the target now, so equal counts mean equal ids.
    """
    if since and not source.may_have_deleted(collection, since):
        return 0
    if since and sink.count(collection) == source.count(collection):
        return 0
    left = sorted(sink.ids(collection) - set(source.ids(collection)))
    for start in range(0, len(left), _IDS_AT_ONCE):
        sink.delete(collection, left[start : start + _IDS_AT_ONCE])
    return len(left)


def read_all(source: Source, writer: DirectoryWriter, progress: Progress = no_progress) -> tuple[int, int]:
    """Write all that a source has into a new directory; return (collections, records). Blocking."""
    collections, count = source.collections(), 0
    for collection in collections:
        made = writer.create(collection)
        for records in source.batches(collection):
            check(collection, records)
            writer.put(made, records)
            count += len(records.ids)
            progress(count, 0)
    return len(collections), count


def check(collection: Collection, records: Records) -> None:
    """Raise NotExportable for records that no vectorstore holds: vectors of another dimension, or with NaN."""
    shape = records.vectors.shape
    if len(shape) != 2 or shape[0] != len(records.ids):
        raise NotExportable(f"{collection.shown} has records without a vector, or of several dimensions.")
    bad = np.flatnonzero(~np.isfinite(records.vectors).all(axis=1))
    if len(bad):
        raise NotExportable(
            f"The vector of record {records.ids[bad[0]]!r} of {collection.shown} has a NaN or an infinite number. "
            "Repair it at the source."
        )
