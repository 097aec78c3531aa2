"""Copies between vectorstores and other places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from vectorpool.errors import TargetRefused
from vectorpool.export.directory import DirectoryBuilder, DirectorySource
from vectorpool.export.shapes import CollectionShape, Increment, Sink, Source, digests_of, pick

Told = Callable[[str, int], None]


class Copied(msgspec.Struct):
    """What a copy did. ``commit`` is the one that the target holds now; ``unchanged`` records were there already."""

    commit: int
    collections: int = 0
    written: int = 0
    deleted: int = 0
    unchanged: int = 0


def export_directory(directory: Path, user_id: str, commit: int, sink: Sink, told: Told | None = None) -> Copied:
    """Bring a user's copy in a target up to a commit, whose state is in ``directory``. Blocking.

    ``told`` is called after each batch with the collection's name and the records that were looked at. Raises
    TargetUnavailable, TargetRefused.
    """
    done = Copied(commit)
    source = DirectorySource(directory)
    try:
        with sink.increment(user_id, commit) as increment:
            known = increment.collections()
            for shape in source.collections():
                there = known.pop(shape.key, None)
                # One that was dropped and made anew, or has other vectors now, is another collection.
                if there is not None and (there.source_id, there.dimension or shape.dimension) != (
                    shape.source_id,
                    shape.dimension,
                ):
                    increment.drop(shape.key)
                    there = None
                if there != shape:
                    increment.create(shape)
                _copy_records(source, shape, increment, done, told)
                done.collections += 1
            for key in known:
                increment.drop(key)
    finally:
        source.close()
    return done


def _copy_records(
    source: Source, shape: CollectionShape, increment: Increment, done: Copied, told: Told | None
) -> None:
    left = dict(increment.digests(shape))
    for batch in source.batches(shape):
        digests = digests_of(batch)
        changed = np.array(
            [left.pop(record_id, None) != digest for record_id, digest in zip(batch.ids, digests, strict=True)]
        )
        if changed.any():
            chosen = [digest for digest, is_changed in zip(digests, changed, strict=True) if is_changed]
            increment.put(shape, batch if changed.all() else pick(batch, changed), chosen)
        done.written += int(changed.sum())
        done.unchanged += int((~changed).sum())
        if told is not None:
            told(shape.name, len(batch.ids))
    if left:
        increment.delete(shape, list(left))
        done.deleted += len(left)


def build_directory(source: Source, directory: Path, told: Told | None = None) -> Copied:
    """Make an empty directory a plain Chroma directory of what a source holds. Blocking.

    Raises TargetUnavailable, and TargetRefused if Chroma does not take what is there, or nothing is.
    """
    done = Copied(0)
    shapes = source.collections()
    if not shapes:
        raise TargetRefused("There are no collections at the source. Check its URL, and the user that it names.")
    builder = DirectoryBuilder(directory)
    try:
        for shape in shapes:
            collection_id = builder.create(shape)
            for batch in source.batches(shape):
                builder.put(collection_id, shape, batch)
                done.written += len(batch.ids)
                if told is not None:
                    told(shape.name, len(batch.ids))
            done.collections += 1
    finally:
        builder.close()
    return done
