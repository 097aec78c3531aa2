"""The collections of one directory added to another under names of their own; neither directory is open.

What is added has new ids, and the values that a client would have read: vectors of a cosine collection are made of
length 1 again, so they may differ in float32's rounding. The embedder of a collection comes along. Documents do not:
the registry of the directory that is added to stays as it is, and the records are records without a document.
"""

from __future__ import annotations

import json
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import numpy as np

from vectorpool.engine.collection_info import CollectionInfo, of_creation
from vectorpool.engine.engine import Engine
from vectorpool.engine.failures import translate
from vectorpool.engine.records import EngineOptions
from vectorpool.engine.rows import Batch
from vectorpool.engine.tables import Operation
from vectorpool.errors import BrokenReplica, VectorpoolError
from vectorpool.names import SIDECAR_FILE
from vectorpool.operating import CollectionPlace, RecoveredCollection
from vectorpool.vectorstore.sidecar import Sidecar

# Records that are in memory at a time.
_AT_ONCE: Final = 500


def add_collections(directory: Path, source: Path, commit: int) -> list[RecoveredCollection]:
    """Add every collection of ``source`` to ``directory``, named for the commit that they become part of.

    Blocking. Raises BrokenReplica if a collection cannot be read or written whole.
    """
    there, found = Engine(directory, EngineOptions()), Engine(source, EngineOptions())
    with closing(Sidecar(source / SIDECAR_FILE)) as old, closing(Sidecar(directory / SIDECAR_FILE)) as new:
        try:
            infos = _collections(found)
            named = RecoveredCollection.named(_places(infos), _places(_collections(there)), commit)
            databases = set(there.catalogue.database_names())
            for info, each in zip(infos, named, strict=True):
                if each.database not in databases:
                    there.catalogue.create_database(each.database)
                    databases.add(each.database)
                made = _add(there, found, info, each.recovered_as)
                if (embedder := old.embedder(info.id)) is not None:
                    new.set_embedder(made.id, embedder)
            there.release_chroma()
        finally:
            with suppress(VectorpoolError):
                found.close()
            there.close()
    return named


def places_of(engine: Engine, most: int) -> list[CollectionPlace]:
    """Return up to ``most`` of the collections of an open directory, by database and name."""
    return _places(_collections(engine))[:most]


def _collections(engine: Engine) -> list[CollectionInfo]:
    catalogue = engine.catalogue
    found = [info for name in catalogue.database_names() for info in catalogue.collections(name)]
    return sorted(found, key=lambda info: (info.database, info.name))


def _places(infos: list[CollectionInfo]) -> list[CollectionPlace]:
    return [CollectionPlace(info.database, info.name) for info in infos]


def _add(there: Engine, found: Engine, info: CollectionInfo, name: str) -> CollectionInfo:
    try:
        made = there.catalogue.create(
            info.database,
            name,
            metadata=info.metadata or None,
            configuration=json.dumps(of_creation(info.configuration)),
        )
        count, wanted = 0, found.records.count(info.id, info.database)
        while True:
            rows = found.records.get(
                info.id,
                info.database,
                limit=_AT_ONCE,
                offset=count,
                include=("embeddings", "documents", "metadatas", "uris"),
            )
            if rows is None or not rows.ids:
                break
            vectors = np.ascontiguousarray(rows.embeddings, np.float32)
            batch = Batch(rows.ids, vectors, rows.metadatas, rows.documents, rows.uris)
            there.records.put(Operation.ADD, made.id, made.database, batch, there.catalogue.forget)
            count += len(rows.ids)
    except Exception as error:
        cause = error if isinstance(error, VectorpoolError) else translate(error)
        raise BrokenReplica(f"The collection {info.name!r} cannot be copied: {cause.detail}") from error
    if count != wanted:
        raise BrokenReplica(f"The collection {info.name!r} counts {wanted} records, and has {count}.")
    return made
