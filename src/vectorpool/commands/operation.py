"""Commands of operators: to keep a vectorstore open, to compact its log, to write it out and take one in."""

from __future__ import annotations

from typing import ClassVar

from vectorpool.commands.base import LogOperation, Operation


class KeepOpen(Operation, frozen=True, kw_only=True, tag="keep-open"):
    """Opens the vectorstore, and keeps it from eviction for a time; 0 seconds end that. Answers answers.Residency."""

    for_s: float


class Compact(LogOperation, frozen=True, kw_only=True, tag="compact"):
    """Merges deltas and writes bases that are due. Answers operating.Compacted."""


class ExportTo(LogOperation, frozen=True, kw_only=True, tag="export-to"):
    """Writes a state into an empty directory of this machine, as a plain Chroma directory. Answers operating.Exported.

    Only the front sends it: a caller names no directory.
    """

    directory: str
    commit: int | None = None


class ImportFrom(LogOperation, frozen=True, kw_only=True, tag="import-from"):
    """Commits a directory of this machine as the vectorstore of a user who has none. Answers operating.Imported.

    Only the front sends it: a caller names no directory.
    """

    is_change: ClassVar[bool] = True

    directory: str
