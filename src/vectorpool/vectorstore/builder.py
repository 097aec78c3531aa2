"""Building a replica: hydrate a new directory from the log and open it, or an empty one for a new user.

A replica that was just built, but whose Chroma does not work, is salvaged. The log's bytes are checked before they are
opened, so a directory that Chroma cannot open or answer from was wedged when it was committed. It is examined, and a
salvaged one takes its place; the result is committed like any other change, as the commit after the wedged one, which
stays in the history.

A replica whose schema the open changed, because an older engine wrote it, is *migrated*. A read does not commit that.
Before the first write is applied, the migration is committed as a commit of its own.

An *edit* changes the files of a directory that is not open yet, and is a commit of its own too: an erasure removes what
was deleted (see ``erasure``), an installation adds indexes that were built elsewhere (see ``engine.index_build``).
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from vectorpool.commitlog.format import Summary
from vectorpool.commitlog.image import Image
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import ORIGIN, Hydrated, PendingCommit, Position
from vectorpool.engine.index_build import install_indexes
from vectorpool.engine.leftovers import forget_mark, sweep_lists
from vectorpool.engine.salvage import SalvageReport, salvage
from vectorpool.errors import BrokenReplica, OutcomeUnknown, UserNotFound, VectorpoolError
from vectorpool.names import SIDECAR_FILE
from vectorpool.platform.local_disk import as_disk_failure
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.telemetry.families import HYDRATE_BYTES, HYDRATE_FAILURES, HYDRATE_TIME
from vectorpool.vectorstore.erasure import erase_directory
from vectorpool.vectorstore.replica import Replica
from vectorpool.vectorstore.sidecar import Sidecar
from vectorpool.vectorstore.template import Template
from vectorpool.vectorstore.ticket import in_doubt

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Attempts to build a replica: one that fails, one that is examined, and lost races of the commit of its salvage.
REBUILDS = 4

# The only commit that may be an unchanged directory of plain Chroma.
_ADOPTION = 1

# By whether objects came from the store, and from the warm tier.
_TIERS: Final = {(True, True): "mixed", (True, False): "store", (False, True): "warm", (False, False): "empty"}

OpenReplica = Callable[[str, Path, Position, Image, Settings], Replica]


@dataclass(frozen=True, slots=True)
class Built:
    """A replica; ``is_absent`` says that nothing is stored for the user, and the replica is empty.

    ``is_edited`` says whether an edit that was asked for changed something.
    """

    replica: Replica
    is_absent: bool
    is_edited: bool = False


class Edit(msgspec.Struct, frozen=True):
    """A change of a closed directory. ``apply`` makes it, blocking, and returns whether anything was done.

    ``summary`` is that of its commit, and ``what`` says it in words: the vectorstore was ...
    """

    apply: Callable[[Path], bool]
    summary: Summary
    what: str


def installation(built: Path) -> Edit:
    """Return the edit that installs the indexes of ``built``."""
    return Edit(partial(install_indexes, built=built), Summary(indexed=True), "given an index")


class Builder:
    """Builds replicas of one user: of the newest commit, or read-only ones of the past commit ``at``.

    ``make_directory`` returns a new, empty directory each time; ``open_replica`` opens it once it is filled. ``erase``
    removes what was deleted from a directory that is not open, and returns whether anything was done.
    """

    def __init__(
        self,
        user_id: str,
        log: CommitLog,
        *,
        make_directory: Callable[[], Path],
        template: Template,
        workers: Executor,
        settings: Settings,
        sources: Sources,
        open_replica: OpenReplica | None = None,
        erase: Callable[[Path], bool] = erase_directory,
        at: int | None = None,
    ) -> None:
        self.at = at
        self._user_id = user_id
        self._log = log
        self._workers = workers
        self._open_replica = open_replica or partial(Replica, sources=sources)
        self._erase = erase
        self._make_directory = make_directory
        self._template = template
        self._settings = settings
        self._sources = sources

    @property
    def erasure(self) -> Edit:
        """The edit that removes what was deleted."""
        return Edit(self._erase, Summary(erased=True), "freed of what was deleted from it")

    async def build(self, *, create: bool, suspect: bool, migrate: bool = False, edit: Edit | None = None) -> Built:
        """Fill a new directory and open it; one that is ``suspect`` is examined, and salvaged if it is damaged.

        With ``migrate``, what opening an older state changed is committed. What ``edit`` changes is committed.

        Raises UserNotFound if nothing is stored and ``create`` is False, BrokenReplica if Chroma cannot work with it,
        LostRace if another instance committed during a salvage or a migration, LocalDiskFailed, and what a hydrate
        raises.
        """
        directory = self._make_directory()
        # Whether the directory may be another than the image that it was built from.
        is_edited = True
        began_s = self._sources.monotonic_s()
        try:
            hydrated = await self._log.hydrate(directory, at=self.at)
            is_absent = hydrated is None or hydrated.tombstone
            if hydrated is None or hydrated.tombstone:
                position = ORIGIN if hydrated is None else hydrated.position
                if not create:
                    raise UserNotFound(
                        "Nothing is stored for this user. A first write creates the vectorstore.",
                        extra={"commit": position.seq},
                    )
                image = Image({})
                await self._run(self._template.copy_to, directory)
            else:
                position, image = hydrated.position, hydrated.image
                is_edited = hydrated.adopted or position.seq == _ADOPTION
                if (hydrated.adopted or position.seq == _ADOPTION) and self.at is None:
                    await self._run(sweep_lists, directory)
                if hydrated.adopted:
                    await self._run(forget_mark, directory)
            if is_absent or (edit is not None and not await self._run(edit.apply, directory)):
                edit = None
            if suspect and self.at is None:
                opened = await self._open_sound(directory, position, image)
            else:
                opened = await self._run(self._open_replica, self._user_id, directory, position, image, self._settings)
            if not is_edited and edit is None:
                opened.state.hydrated()
            if (opened.is_migrated and migrate) or edit is not None:
                await self._commit_upkeep(opened, edit)
            self._count(hydrated, self._sources.monotonic_s() - began_s)
            return Built(opened, is_absent, edit is not None)
        except BaseException as error:
            if isinstance(error, VectorpoolError) and not isinstance(error, UserNotFound):
                self._log.figures.counter(HYDRATE_FAILURES, error.code).add()
            # Checked before the directory is removed, because the removal makes room.
            failure = as_disk_failure(error, directory)
            shutil.rmtree(directory, ignore_errors=True)
            if failure is not None and failure is not error:
                raise failure from error
            raise

    def _count(self, hydrated: Hydrated | None, seconds: float) -> None:
        tier = "empty"
        if hydrated is not None:
            tier = _TIERS[hydrated.fetched_objects > 0, hydrated.warm_objects > 0]
            self._log.figures.counter(HYDRATE_BYTES).add(hydrated.fetched_bytes)
        self._log.figures.histogram(HYDRATE_TIME, tier).observe(seconds)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)

    async def _open_sound(self, directory: Path, position: Position, image: Image) -> Replica:
        """Return a replica that answers: the directory's own, or a salvaged one, which is committed first.

        Raises BrokenReplica if nothing can be salvaged, LostRace if another instance committed meanwhile, and what
        an append raises; there is no replica then, and ``directory`` is for the caller to remove.
        """
        replica, report = await self._run(self._open_or_salvage, directory, position, image)
        if report is None:
            return replica
        try:
            pending = await self._run(self._prepare, replica, _summary(report))
            # No caller waits for this commit by number: if its outcome stays unknown, the next hydrate shows it.
            replica.advance(await self._log.append(pending), pending.image)
        except BaseException:
            await self._run(replica.discard)
            raise
        return replica

    async def _commit_upkeep(self, replica: Replica, edit: Edit | None) -> None:
        """Commit a migration or an edit; the replica is closed if that fails. Raises LostRace, StoreUnavailable."""
        is_migrated, summary = replica.is_migrated, Summary() if edit is None else edit.summary
        try:
            summary = msgspec.structs.replace(summary, migrated=is_migrated)
            pending = await self._run(self._prepare, replica, summary)
            replica.advance(await self._log.append(pending), pending.image)
        except BaseException as error:
            await self._run(replica.discard)
            if isinstance(error, OutcomeUnknown):
                # The write that asked for it was not applied. The next hydrate shows whether the commit landed.
                raise in_doubt(error) from error
            raise
        what = "migrated from an older state" if edit is None else edit.what
        logger.info("a vectorstore was %s, in commit %d", what, replica.position.seq)

    def _prepare(self, replica: Replica, summary: Summary) -> PendingCommit:
        captured = replica.capture()
        return self._log.prepare(replica.position, replica.image, captured, summary, stamp=replica.stamp)

    def _open_or_salvage(
        self, directory: Path, position: Position, image: Image
    ) -> tuple[Replica, SalvageReport | None]:
        replica: Replica | None = None
        try:
            replica = self._open_replica(self._user_id, directory, position, image, self._settings)
            replica.examine()
            return replica, None
        except BrokenReplica as error:
            logger.error("commit %d of a vectorstore does not work, it is salvaged: %s", position.seq, error.detail)
            if replica is not None:
                replica.close()
        fresh = self._make_directory()
        try:
            self._template.copy_to(fresh)
            report = _salvage(directory, fresh, self._sources.now_ms())
            replica = self._open_replica(self._user_id, fresh, position, image, self._settings)
            replica.examine()
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        shutil.rmtree(directory, ignore_errors=True)
        logger.log(
            logging.ERROR if report.lost else logging.WARNING,
            "%d records of a vectorstore were salvaged after commit %d, %d were lost; list them with GET "
            "/users/{user_id}/lost",
            report.salvaged,
            position.seq,
            report.lost,
        )
        return replica, report


def _salvage(broken: Path, fresh: Path, now_ms: int) -> SalvageReport:
    """Fill ``fresh`` with the readable state of ``broken`` and its sidecar; list the losses in the sidecar."""
    if (broken / SIDECAR_FILE).exists():
        shutil.copy2(broken / SIDECAR_FILE, fresh / SIDECAR_FILE)
    sidecar = Sidecar(fresh / SIDECAR_FILE)
    try:
        return salvage(broken, fresh, now_ms, sidecar.add_losses)
    finally:
        sidecar.close()


def _summary(report: SalvageReport) -> Summary:
    """Return the summary of a salvaged replica's commit, for people."""
    return Summary(collections=tuple(sorted(set(report.collections))), salvaged=report.salvaged, lost=report.lost)
