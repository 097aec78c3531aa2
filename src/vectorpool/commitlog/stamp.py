"""The engine stamp: which engine wrote a state, and in which schema. The log carries it and does not interpret it.

Each commit carries the stamp of the state after it. A base and a merged delta carry the stamp of their newest commit. A
restore and a fork carry the stamp of the state that they bring. A tombstone has no state, so it carries none. A state
without a stamp was written by chromadb 1.5.9 with the schema of the first release.

``Engine`` is what the log asks about a stamp or a directory. The engine's own package answers; this package imports
nothing of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

import msgspec


class EngineStamp(msgspec.Struct, frozen=True, array_like=True):
    """What wrote a state. Later versions may append fields; readers ignore fields that they do not know.

    ``version`` is the engine's version, empty if the directory does not tell it. ``fingerprint`` is a digest of the
    schema, 16 bytes. ``migrations`` is the highest migration that was applied, by the engine's own groups. ``sidecar``
    is the schema version of the sidecar file, 0 if there is no such file.
    """

    version: str
    fingerprint: bytes
    migrations: dict[str, int]
    sidecar: int = 0


class Engine(Protocol):
    """What the log asks about the states that it carries."""

    def stamp_of(self, directory: Path) -> EngineStamp | None:
        """Return the stamp of a directory, or None if its files do not tell one. Blocking."""
        ...

    def check(self, stamp: EngineStamp | None) -> None:
        """Raise NewerEngine if a later engine wrote a state of this stamp."""
        ...

    def admit(self, directory: Path) -> None:
        """Raise InvalidRequest if a directory that others made holds what the engine never makes. Blocking."""
        ...


class AnyEngine:
    """An engine that makes no stamps and refuses none: for logs whose files are not a vectorstore's."""

    def stamp_of(self, directory: Path) -> EngineStamp | None:
        """Return None."""
        return None

    def check(self, stamp: EngineStamp | None) -> None:
        """Refuse nothing."""

    def admit(self, directory: Path) -> None:
        """Refuse nothing."""


ANY_ENGINE: Final[Engine] = AnyEngine()
