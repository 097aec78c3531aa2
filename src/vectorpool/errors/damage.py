"""Errors that call for an operator: what is stored is not what it should be."""

from __future__ import annotations

from vectorpool.errors.base import VectorpoolError


class Damaged(VectorpoolError):
    """Stored bytes are not what they should be. ``vectorpool scrub`` says more."""

    code = "damaged"
    title = "Stored data is damaged"


class CorruptObject(Damaged):
    """An object of the log is truncated, altered or foreign."""

    code = "corrupt-object"
    title = "An object of the commit log is corrupt"


class NewerFormat(Damaged):
    """An object of the log was written by a later version, in a format that this one cannot read."""

    code = "newer-format"
    title = "The commit log is of a newer format"


class BrokenLog(Damaged):
    """The log's objects are intact, but do not lead to a state: a gap, or no base."""

    code = "broken-log"
    title = "The commit log has a gap"


class BrokenReplica(Damaged):
    """Chroma cannot open or answer from a freshly built replica."""

    code = "broken-replica"
    title = "The vectorstore cannot be opened"
