"""The changes of a write command, and the error of a command that failed after its first change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vectorpool.errors import VectorpoolError

if TYPE_CHECKING:
    from vectorpool.vectorstore.quota import Admission


class HalfApplied(Exception):
    """A command failed after its first effect: the replica must be built again. ``cause`` is for the caller."""

    def __init__(self, cause: VectorpoolError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Effect(msgspec.Struct):
    """The changes of a command, for the commit's summary. ``touched`` False means that nothing changed."""

    touched: bool = False
    written: int = 0
    deleted: int = 0
    collections: set[str] = msgspec.field(default_factory=set)
    # The id of the collection that the command made; it stays if the command is applied again.
    made: str | None = None
    # The command was acknowledged before: bounds that other writers may have reached meanwhile do not refuse it.
    is_again: bool = False
    # What the write asks before it adds something; None without a quota.
    admission: Admission | None = None

    def touch(self, collection: str | None = None) -> None:
        """Record a change, and the name of its collection."""
        self.touched = True
        if collection is not None:
            self.collections.add(collection)
