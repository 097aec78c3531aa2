"""Errors that call for an operator: what is stored is not what it should be."""

from __future__ import annotations

from vectorpool.errors.base import VectorpoolError


class Damaged(VectorpoolError):
    """Stored bytes are not what they should be.

    To do: scrub the user's log, and follow the page about disaster.
    """

    code = "damaged"
    title = "Stored data is damaged"


class CorruptObject(Damaged):
    """An object of the log is truncated, altered or foreign.

    To do: bring the object back from the bucket's versions, or restore the newest intact commit, which the scrub
    names.
    """

    code = "corrupt-object"
    title = "An object of the commit log is corrupt"


class NewerFormat(Damaged):
    """An object of the log was written by a later version, in a format that this one cannot read.

    To do: upgrade this instance. Nothing was touched.
    """

    code = "newer-format"
    title = "The commit log is of a newer format"


class BrokenLog(Damaged):
    """The log's objects are intact, but do not lead to a state: a gap, or no base.

    To do: stop all instances if the bucket was put back, and start them again. Otherwise restore the newest intact
    commit.
    """

    code = "broken-log"
    title = "The commit log has a gap"


class BrokenReplica(Damaged):
    """Chroma cannot open or answer from a freshly built replica.

    To do: evict the user and try again. If it stays, restore an earlier commit, and report it with the log.
    """

    code = "broken-replica"
    title = "The vectorstore cannot be opened"
