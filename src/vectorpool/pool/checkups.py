"""Checks of one user's health in a shard: the log's new objects, the newest commit opened beside the slot, records.

One check at a time in a shard. It reads from the store what no check read before, at ``verify_bytes_per_s``, and
builds the newest state in a scratch directory, from the warm tier where that has it: no slot is opened or closed for
it. A state larger than a quarter of ``open_bytes`` is not opened.

What is found here is what one look found. The caller looks twice before it believes damage.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from vectorpool.commands import CheckHealth
from vectorpool.commitlog.care import top_of, verify_new
from vectorpool.commitlog.fetch import Reader, Vanished
from vectorpool.commitlog.hydrate import CUT_TO_A_GRAVE, list_log
from vectorpool.commitlog.outcomes import Hydrated
from vectorpool.engine.checkup import EngineCheckup
from vectorpool.errors import BrokenReplica, Damaged, NewerEngine, NewerFormat, StoreUnavailable, UserNotFound
from vectorpool.operating import CheckName, Checkup, HealthCheck
from vectorpool.pool.residency import Residency
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings
from vectorpool.sources import Sources

_SAMPLES: Final = 5
_LOOKS: Final = 3
_RECOVER: Final = "Look at POST /admin/users/{user_id}/recover?dry_run=true, then recover."
_HEAL: Final = "Read from the vectorstore: a replica that Chroma cannot use is built anew, and salvaged. Else recover."


class Checkups:
    """The checks of one pool. Belongs to one event loop."""

    def __init__(self, stores: StoreFactory, residency: Residency, settings: Settings, sources: Sources) -> None:
        self._stores = stores
        self._residency = residency
        self._settings = settings
        self._sources = sources
        self._one_at_a_time = asyncio.Semaphore(1)

    async def check(self, user_id: str, command: CheckHealth) -> Checkup:
        """Return what a look finds. Raises UserNotFound (deleted users too), StoreUnavailable, LocalDiskFailed."""
        async with self._one_at_a_time:
            for _ in range(_LOOKS):
                try:
                    return await self._look(user_id, command)
                except Vanished:
                    # Garbage was removed, or the log ended, between the listing and a read.
                    continue
        raise StoreUnavailable("The log moved on under every look. Check it again later.")

    async def _look(self, user_id: str, command: CheckHealth) -> Checkup:
        held = self._held(user_id)
        listing, found = await list_log(self._stores.bucket, user_id)
        if not listing.objects and not listing.graves:
            if max(held, command.since):
                fault = f"nothing is left of the log; commit {max(held, command.since)} was there"
                return Checkup(0, 0, 0, 0, [_failed("log", fault, _RECOVER)], [])
            raise UserNotFound("Nothing is stored for this user, so there is nothing to check.")
        newest = listing.newest
        checkup = Checkup(newest, 0, 0, 0, [], [])
        fault = ""
        if top_of(listing) > newest:
            fault = CUT_TO_A_GRAVE
        elif newest < max(held, command.since):
            fault = f"commit {max(held, command.since)} was there, and the newest is {newest} now"
        elif found is None:
            fault = f"nothing leads to commit {newest}"
        else:
            verified = await verify_new(
                self._stores.bucket, user_id, listing, found, command.known, command.since, self._pause
            )
            checkup.known, checkup.read_bytes, fault = verified
            if not fault and newest in listing.commits:
                header = (await Reader(self._stores.bucket, user_id, None).header(listing.commits[newest])).header
                if header.tombstone:
                    raise UserNotFound("The vectorstore was deleted, so there is nothing to check.")
                checkup.state_bytes = header.state_bytes
        checkup.checks.append(_failed("log", fault, _RECOVER) if fault else HealthCheck("log", "ok"))
        if checkup.state_bytes > self._settings.open_bytes // 4:
            reason = "The state is larger than a quarter of open_bytes, so it is not opened a second time."
            checkup.checks += [HealthCheck(name, "skipped", reason) for name in _OPENED]
            return checkup
        await self._open(user_id, checkup)
        return checkup

    async def _pause(self, size: int) -> None:
        await self._sources.sleep(size / self._settings.verify_bytes_per_s)

    def _held(self, user_id: str) -> int:
        """Return the commit of the open replica; 0 if there is none."""
        slot = self._residency.slots.get(user_id)
        return 0 if slot is None or slot.store is None or slot.store.is_absent else slot.store.commit_seq

    async def _open(self, user_id: str, checkup: Checkup) -> None:
        """Build the newest state in a scratch directory, and ask Chroma about it."""
        async with self._stores.scratch() as directory:
            try:
                hydrated = await self._stores.log(user_id).hydrate(directory / "state")
                if hydrated is None or hydrated.tombstone:
                    raise UserNotFound("The vectorstore was deleted while it was checked.")
                told = await self._stores.run(user_id, self._look_into, user_id, directory / "state", hydrated)
            except NewerEngine as error:
                checkup.checks += [HealthCheck(name, "skipped", error.detail) for name in _OPENED]
                return
            except (BrokenReplica, Damaged, NewerFormat) as error:
                remedy = _HEAL if isinstance(error, BrokenReplica) else _RECOVER
                checkup.checks.append(_failed("opens", error.detail, remedy))
                unseen = "The newest commit cannot be opened."
                checkup.checks += [HealthCheck(name, "skipped", unseen) for name in _OPENED[1:]]
                return
        checkup.records = told.records
        checkup.commit = max(checkup.commit, hydrated.position.seq)
        checkup.checks += [
            HealthCheck("opens", "ok"),
            _failed("counts", told.count_fault, _HEAL) if told.count_fault else HealthCheck("counts", "ok"),
            _failed("samples", told.sample_fault, _HEAL) if told.sample_fault else HealthCheck("samples", "ok"),
        ]

    def _look_into(self, user_id: str, directory: Path, hydrated: Hydrated) -> EngineCheckup:
        replica = self._stores.open_replica(user_id, directory, hydrated.position, hydrated.image)
        try:
            return replica.engine.check_up(_SAMPLES, self._sources.random)
        finally:
            replica.close()


_OPENED: Final[tuple[CheckName, ...]] = ("opens", "counts", "samples")


def _failed(check: CheckName, reason: str, remedy: str) -> HealthCheck:
    return HealthCheck(check, "failed", reason, remedy)
