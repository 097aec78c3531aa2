"""What targets hold, as far as the record of jobs knows: the commit of each user's last finished export.

A user who was deleted at a target has the number of the deleting commit, below zero. The record saves questions, and
decides nothing: an export asks the target itself, and what is noted here is doubted after ``DOUBTED_S``, because a
target may be put back or emptied. A database of jobs that was lost costs one such question a user and target. All
functions block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

import sqlalchemy as sa

from vectorpool.commitlog.deletions import LOOK_WITHIN_MS
from vectorpool.jobs.tables import exports as _exports
from vectorpool.sources import Sources

DOUBTED_S: Final = 24 * 3600.0


class ExportRecord:
    """The table of exports. ``begin`` opens a transaction, and raises JobsUnavailable."""

    def __init__(self, begin: Callable[[], AbstractContextManager[sa.Connection]], sources: Sources) -> None:
        self._begin = begin
        self._sources = sources

    def held(self, target: str, user_ids: Sequence[str]) -> dict[str, int]:
        """Return the commit that a target holds of each of at most a thousand users, where that is not in doubt."""
        return self._noted(target, user_ids, DOUBTED_S)

    def _noted(self, target: str, user_ids: Sequence[str], within_s: float) -> dict[str, int]:
        since_ms = self._sources.now_ms() - int(within_s * 1000)
        wanted = sa.select(_exports.c.user_id, _exports.c.commit).where(
            _exports.c.target == target, _exports.c.user_id.in_(list(user_ids)), _exports.c.exported_ms > since_ms
        )
        with self._begin() as db:
            return {row.user_id: row.commit for row in db.execute(wanted).all()}

    def forgotten(self, target: str, user_ids: Sequence[str]) -> dict[str, int]:
        """Return which commit deleted each of at most a thousand users of whom a target has nothing since.

        A receipt says the same and stays, so this is doubted as late as marks of deletions are kept.
        """
        noted = self._noted(target, user_ids, LOOK_WITHIN_MS / 1000)
        return {user_id: -commit for user_id, commit in noted.items() if commit < 0}

    def note(self, target: str, user_id: str, commit: int) -> None:
        """Note that a target holds a commit of a user."""
        there = (_exports.c.target == target) & (_exports.c.user_id == user_id)
        values = {"commit": commit, "exported_ms": self._sources.now_ms()}
        with self._begin() as db:
            if not db.execute(sa.update(_exports).where(there).values(**values)).rowcount:
                db.execute(sa.insert(_exports).values(target=target, user_id=user_id, **values))
