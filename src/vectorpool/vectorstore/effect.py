"""What a write command changed, and the error of one that failed after its first effect."""

from __future__ import annotations

import msgspec

from vectorpool.errors import VectorpoolError


class HalfApplied(Exception):
    """A command failed after its first effect: the replica must be built again. ``cause`` is for the caller."""

    def __init__(self, cause: VectorpoolError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Effect(msgspec.Struct):
    """What a command changed, for the commit's summary. ``touched`` False means that nothing changed."""

    touched: bool = False
    written: int = 0
    deleted: int = 0
    collections: set[str] = msgspec.field(default_factory=set)
    # The id of the collection that the command made; it stays if the command is applied again.
    made: str | None = None

    def touch(self, collection: str | None = None) -> None:
        """Note that something changed, and of which collection."""
        self.touched = True
        if collection is not None:
            self.collections.add(collection)
