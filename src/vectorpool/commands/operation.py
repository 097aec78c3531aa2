"""Commands of operators: to keep a vectorstore open, to compact its log, to write it out and take one in."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

from vectorpool.commands.base import LogOperation, Operation
from vectorpool.settings.words import RecoverInto

# Where a recovered state comes from: this instance's open replica, a commit of the log, a directory with what a target
# had, or nothing but documents.
SourceKind: TypeAlias = Literal["replica", "commit", "copy", "documents"]


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


class CheckHealth(Operation, frozen=True, kw_only=True, tag="check-health"):
    """Verifies what is new in the log, and opens the newest commit beside the slot. Answers operating.Checkup.

    ``known`` are marks of objects that an earlier check verified, ``since`` is the commit that it saw.
    """

    known: list[str]
    since: int


class FindSources(Operation, frozen=True, kw_only=True, tag="find-sources"):
    """What a damaged vectorstore could be recovered from, and what each would lose. Answers operating.Sources."""


class Recover(Operation, frozen=True, kw_only=True, tag="recover"):
    """Makes the state of a source the newest, as a new commit on number ``over``. Answers operating.Recovered.

    ``directory`` has the state of a copy. Only the front sends it: a caller names no directory. With ``into`` new, the
    collections of the source are added, under new names, to the state of commit ``base``; 0 is an empty vectorstore.
    """

    is_change: ClassVar[bool] = True

    kind: SourceKind
    commit: int
    over: int
    directory: str | None = None
    into: RecoverInto = "same"
    base: int = 0
