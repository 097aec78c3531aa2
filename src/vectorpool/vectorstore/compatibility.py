"""The states that this engine may open: the engine stamp of a directory, and the refusal of newer states.

The stamp joins the migrations in Chroma's file with the schema version of the sidecar. A state is newer if it has a
migration of either that this engine lacks. It is refused before anything is opened or changed, so that an instance of a
later version finds it as that version left it. This module does not import Chroma, because the command line reads
stamps too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from vectorpool.commitlog.stamp import EngineStamp
from vectorpool.engine.admission import check_known, check_passive
from vectorpool.engine.version import Schema, installed_version, read_schema, unknown_migrations
from vectorpool.errors import NewerEngine
from vectorpool.names import SIDECAR_FILE
from vectorpool.platform.trees import check_schema, open_database
from vectorpool.vectorstore import sidecar_schema


def stamp_of(schema: Schema, sidecar: int, *, version: str) -> EngineStamp:
    """Return the stamp of a state; ``sidecar`` is the schema version of its sidecar, 0 if it has none."""
    return EngineStamp(version, schema.fingerprint, schema.migrations, sidecar)


def check(stamp: EngineStamp | None) -> None:
    """Raise NewerEngine if a later engine wrote a state of this stamp. A state without a stamp is not newer."""
    if stamp is None:
        return
    unknown = unknown_migrations(stamp.migrations)
    if stamp.sidecar > sidecar_schema.VERSION:
        unknown.append(f"sidecar {stamp.sidecar}")
    if unknown:
        by = f"chromadb {stamp.version}" if stamp.version else "a later chromadb"
        raise NewerEngine(
            f"A later version wrote this vectorstore ({by}), with migrations that this instance does not know: "
            f"{', '.join(unknown)}. Nothing was read or changed. An upgraded instance can serve it; this one has "
            f"chromadb {installed_version()}.",
            extra={"unknown": unknown},
        )


def is_same(stamp: EngineStamp | None, schema: Schema) -> bool:
    """Whether a state of this stamp has the schema of an open directory, and a sidecar of this version or none."""
    if stamp is None or stamp.sidecar not in (0, sidecar_schema.VERSION):
        return False
    return (stamp.fingerprint, stamp.migrations) == (schema.fingerprint, schema.migrations)


def is_older(schema: Schema, directory: Path) -> bool:
    """Whether opening a directory changes its schema, or that of its sidecar."""
    sidecar = directory / SIDECAR_FILE
    return schema.is_older or (sidecar.exists() and sidecar_schema.version_of(sidecar) < sidecar_schema.VERSION)


class _DirectoryEngine:
    """The ``Engine`` of a commit log whose states are directories of Chroma."""

    def stamp_of(self, directory: Path) -> EngineStamp | None:
        """Return the stamp of a directory that is not open, without a version; None if SQLite cannot read it."""
        schema = read_schema(directory)
        if schema is None:
            return None
        return stamp_of(schema, sidecar_schema.version_of(directory / SIDECAR_FILE), version="")

    def check(self, stamp: EngineStamp | None) -> None:
        """Raise NewerEngine if a later engine wrote a state of this stamp."""
        check(stamp)

    def admit(self, directory: Path) -> None:
        """Raise InvalidRequest unless Chroma's database and the sidecar are what they are called, or NewerEngine."""
        sidecar = directory / SIDECAR_FILE
        check_passive(directory)
        # Before the tables are known: those of a later version are not.
        check(self.stamp_of(directory))
        check_known(directory)
        if sidecar.exists():
            with open_database(sidecar) as db:
                check_schema(db, sidecar_schema.TABLES, {}, name=SIDECAR_FILE)


ENGINE: Final = _DirectoryEngine()
