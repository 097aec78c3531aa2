"""Operations on a whole vectorstore: show its residency, open and close it, restore and delete it.

Operations on the log alone are in ``log_operations``; a slot's uncommitted writes are committed before each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vectorpool import answers
from vectorpool.answers import Answer
from vectorpool.commands import (
    CheckHealth,
    Command,
    DeleteVectorstore,
    Evict,
    FindSources,
    Flush,
    Hydrate,
    Inspect,
    KeepOpen,
    LogOperation,
    Recover,
    Restore,
)
from vectorpool.commands.handlers import handlers_of, handles
from vectorpool.context import AS_SET
from vectorpool.errors import Damaged, NewerEngine, PoolBusy, UserNotFound
from vectorpool.pool.checkups import Checkups
from vectorpool.pool.erasures import Erasures
from vectorpool.pool.log_operations import LogOperations
from vectorpool.pool.recoveries import Recoveries
from vectorpool.pool.residency import Residency
from vectorpool.pool.slot import Slot
from vectorpool.pool.stores import StoreFactory
from vectorpool.pool.writer import SlotWriter
from vectorpool.settings import Settings
from vectorpool.sources import Sources

_encode = msgspec.json.Encoder().encode


class Operations:
    """Answers operations of one pool. ``describe`` returns the residency of a user's vectorstore."""

    def __init__(
        self,
        stores: StoreFactory,
        residency: Residency,
        writer: SlotWriter,
        erasures: Erasures,
        settings: Settings,
        sources: Sources,
        describe: Callable[[str], answers.Residency],
    ) -> None:
        self._stores = stores
        self._residency = residency
        self._writer = writer
        self._erasures = erasures
        self._settings = settings
        self._sources = sources
        self._describe = describe
        self._checkups = Checkups(stores, residency, settings, sources)
        self._recoveries = Recoveries(stores, residency, writer, settings, sources)
        self._handlers = handlers_of(self)

    async def execute(self, user_id: str, command: Command) -> Answer:
        """Answer one operation. Raises VectorpoolError."""
        if isinstance(command, LogOperation):
            await self._flush(user_id)
            return await LogOperations(self._stores.log(user_id)).execute(command)
        answer: Answer = await self._handlers[type(command)](user_id, command)
        return answer

    def _where(self, user_id: str) -> Answer:
        residency = self._describe(user_id)
        return Answer(_encode(residency), residency.commit)

    @handles(Inspect)
    async def _inspect(self, user_id: str, command: Inspect) -> Answer:
        return self._where(user_id)

    @handles(Hydrate)
    async def _hydrate(self, user_id: str, command: Hydrate) -> Answer:
        arrived_s = self._sources.monotonic_s()
        async with self._residency.lease(user_id, create=False) as (slot, store):
            if not await store.is_fresh_enough(AS_SET, arrived_s):
                await self._writer.catch_up(slot)
        return self._where(user_id)

    @handles(Flush)
    async def _flush_and_show(self, user_id: str, command: Flush) -> Answer:
        await self._flush(user_id)
        return self._where(user_id)

    async def _flush(self, user_id: str) -> None:
        slot = self._residency.pin(user_id)
        try:
            await self._writer.flush(slot)
        finally:
            self._residency.unpin(slot)

    @handles(Evict)
    async def _evict(self, user_id: str, command: Evict) -> Answer:
        deadline_s = self._sources.monotonic_s() + self._settings.slot_wait_s
        await self._flush(user_id)
        self._residency.keeping.end(user_id)
        slot = self._residency.pin(user_id)
        try:
            await self._erasures.erase(slot)
            while slot.store is not None and not await self._residency.evict(slot):
                if self._sources.monotonic_s() >= deadline_s:
                    raise PoolBusy("The vectorstore is in use all the time, it was not evicted. Try again later.")
                await self._sources.sleep(0.02)
        finally:
            self._residency.unpin(slot)
        return self._where(user_id)

    @handles(KeepOpen)
    async def _keep_open(self, user_id: str, command: KeepOpen) -> Answer:
        if not command.for_s:
            self._residency.keeping.end(user_id)
            return self._where(user_id)
        self._residency.keeping.check(user_id)
        async with self._residency.lease(user_id, create=False) as (slot, store):
            if store.is_absent:
                raise UserNotFound("Nothing is stored for this user, so nothing can be kept open.")
            self._residency.keeping.begin(slot, command.for_s)
        return self._where(user_id)

    @handles(Restore)
    async def _restore(self, user_id: str, command: Restore) -> Answer:
        seq = command.commit
        if command.backup is not None:
            seq = (await self._stores.log(user_id).get_tag(command.backup)).seq
        elif seq is None:
            seq = await self._stores.log(user_id).seq_at(command.time_ms or 0)
        slot = self._residency.pin(user_id)
        try:
            restored = await self._writer.restore(slot, seq)
        finally:
            self._residency.unpin(slot)
        return Answer(_encode(answers.Restored(commit=restored, restored_from=seq)), restored)

    @handles(CheckHealth)
    async def _check_health(self, user_id: str, command: CheckHealth) -> Answer:
        await self._flush(user_id)
        checkup = await self._checkups.check(user_id, command)
        return Answer(_encode(checkup), checkup.commit)

    @handles(FindSources)
    async def _find_sources(self, user_id: str, command: FindSources) -> Answer:
        await self._flush(user_id)
        found = await self._recoveries.find(user_id)
        return Answer(_encode(found), found.over)

    @handles(Recover)
    async def _recover(self, user_id: str, command: Recover) -> Answer:
        await self._flush(user_id)
        done = await self._recoveries.recover(user_id, command)
        return Answer(_encode(done), done.commit)

    @handles(DeleteVectorstore)
    async def _delete(self, user_id: str, command: DeleteVectorstore) -> Answer:
        slot = self._residency.pin(user_id)
        try:
            deleted = await self._end(slot, command)
        finally:
            self._residency.unpin(slot)
        return Answer(_encode(answers.Deleted(deleted=deleted)), 0)

    async def _end(self, slot: Slot, command: DeleteVectorstore) -> int:
        try:
            await self._residency.open(slot, create=False)
        except UserNotFound:
            # A user that does not exist gets no tombstone. An earlier deletion that was cut short is finished.
            log = self._stores.log(slot.user_id)
            seal = command.seal or bool(command.documents)
            deleted = await log.end(seal=seal, documents=command.documents)
            if not deleted and not seal:
                raise
            return deleted
        except (Damaged, NewerEngine):
            # A vectorstore that cannot be opened can still be deleted.
            return await self._stores.make(slot.user_id).end(command.documents)
        return await self._writer.end(slot, command.documents)
