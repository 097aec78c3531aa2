"""Commits that change a vectorstore's files and not what is stored: erasures, and indexes that were built elsewhere.

Each is made in a directory that is built from the newest commit and is not open yet. The replica that results takes the
place of the present one, in which reads go on until then. If another instance commits first, nothing is changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from vectorpool.commitlog.outcomes import LostRace
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.vectorstore.builder import Builder, Built, Edit, installation
from vectorpool.vectorstore.erasure import ErasureSchedule
from vectorpool.vectorstore.open_replica import OpenReplica


class Edited(Protocol):
    """The vectorstore that is edited."""

    @property
    def is_absent(self) -> bool:
        """Whether nothing is stored."""

    @property
    def has_written(self) -> bool:
        """Whether there was a write."""

    async def open(self, *, create: bool) -> None:
        """Build the replica."""

    async def commit(self) -> None:
        """Commit uncommitted writes."""

    async def replace(self, built: Built, asked_s: float) -> None:
        """Open a replica in place of the present one."""


class Edits:
    """The edits of one vectorstore. ``erase`` and ``install`` are for its writer's task."""

    def __init__(
        self, builder: Builder, replica: OpenReplica, settings: Settings, sources: Sources, vectorstore: Edited
    ) -> None:
        self._builder = builder
        self._open = replica
        self._sources = sources
        self._vectorstore = vectorstore
        self._erasures = ErasureSchedule(settings, sources)

    def is_erasure_due(self, *, is_idle: bool) -> bool:
        """Whether what was deleted should be removed from the files now; ``is_idle``: the vectorstore is not used."""
        if not self._vectorstore.has_written or self._vectorstore.is_absent:
            return False
        return self._erasures.is_due(self._open.replica, is_idle=is_idle)

    async def erase(self) -> None:
        """Commit the state without what was deleted, unless another commits first. Raises what a commit raises."""
        built = await self._edit(self._builder.erasure, self._erasures.begin())
        if built is not None:
            self._erasures.end(built.replica)

    def is_index_due(self) -> bool:
        """Whether an index would spare more than it costs."""
        replica = self._open.replica
        if replica is None or self._builder.at is not None or self._vectorstore.is_absent:
            return False
        return replica.is_schema_tested and replica.engine.index_needs.is_due

    def begin_index(self) -> None:
        """Note that the indexes that are due are being built."""
        if self._open.replica is not None:
            self._open.replica.engine.index_needs.begin()

    async def install(self, directory: Path) -> bool:
        """Commit the state with the indexes of ``directory``, unless another commits first.

        Returns False if none of them fits the state any more. Raises UserNotFound, BrokenReplica if they contradict the
        records, and what a commit raises.
        """
        await self._vectorstore.open(create=False)
        built = await self._edit(installation(directory), self._sources.monotonic_s())
        return built is None or built.is_edited

    async def _edit(self, edit: Edit, asked_s: float) -> Built | None:
        await self._vectorstore.commit()
        try:
            built = await self._builder.build(create=True, suspect=False, migrate=True, edit=edit)
        except LostRace:
            return None
        await self._vectorstore.replace(built, asked_s)
        return built
