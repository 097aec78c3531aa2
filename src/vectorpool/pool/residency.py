"""Which slots may be open: the LRU, its bounds in slots and bytes, hydration and eviction.

A request *leases* a slot: it is pinned, hydrated if it is cold (all requests that arrive meanwhile wait for
the same hydrate), and used. Unpinned slots stay open in an LRU; when a slot is needed, the least recently used one is
evicted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cachetools import LRUCache

from vectorpool.errors import Damaged, LocalDiskFailed, MemoryShort, TryAgain, VectorpoolError
from vectorpool.pool.keeping import Keeping
from vectorpool.pool.slot import Slot
from vectorpool.pool.states import Broken, Cold, Committing, Evicting, Hydrating, Ready
from vectorpool.pool.waiting_room import WaitingRoom
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.telemetry.families import EVICTIONS
from vectorpool.telemetry.figures import Figures
from vectorpool.telemetry.parts import HYDRATE, QUEUE, STORE, Timing
from vectorpool.vectorstore.vectorstore import Vectorstore

logger = logging.getLogger(__name__)

# How long every request gets the same error for a vectorstore that cannot be opened, until the next attempt.
BROKEN_RETRY_S = 5.0


class Residency:
    """The slots of one pool. Belongs to one event loop."""

    def __init__(
        self,
        make_store: Callable[[str], Vectorstore],
        settings: Settings,
        sources: Sources,
        figures: Figures | None = None,
    ) -> None:
        self._figures = Figures() if figures is None else figures
        self._make_store = make_store
        self._settings = settings
        self._sources = sources
        self.slots: dict[str, Slot] = {}
        # Open, unpinned slots in the order of their last use. At most as many as there are slots.
        self._idle: LRUCache[str, Slot] = LRUCache(maxsize=settings.open_slots)
        self.keeping = Keeping(settings, sources, self._let_go)
        self._room = WaitingRoom(limit=settings.slot_waiters)
        self._taken = 0
        # Vectorstores that are being opened, beyond the wait for a place.
        self._opening = 0
        # While it is, no further vectorstore is opened beside those that are.
        self.is_short_of_memory = False
        self._evictions: set[asyncio.Task[None]] = set()
        self._hydrates: set[asyncio.Task[None]] = set()
        # Hydrates that wait for a free slot. One ends when no request waits for it any more.
        self._queued: dict[Slot, asyncio.Task[None]] = {}

    # --- Figures -------------------------------------------------------------------------------------

    @property
    def open_slots(self) -> int:
        """Slots in use: those that are open, being opened or being closed."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._room)

    def open_bytes(self) -> int:
        """Bytes of all open working directories."""
        return sum(slot.store.size_bytes() for slot in self.slots.values() if slot.store is not None)

    # --- Lease ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lease(self, user_id: str, *, create: bool) -> AsyncIterator[tuple[Slot, Vectorstore]]:
        """Pin the user's slot, open it if it is cold, and yield it with its vectorstore.

        Raises UserNotFound (without ``create``), PoolBusy, MemoryShort, StoreUnavailable, Damaged.
        """
        slot = self.pin(user_id)
        try:
            yield slot, await self.open(slot, create=create)
        finally:
            self.unpin(slot)

    def pin(self, user_id: str) -> Slot:
        """Return the user's slot and keep it from eviction until ``unpin``."""
        slot = self.slots.get(user_id)
        if slot is None:
            slot = self.slots[user_id] = Slot(user_id)
        slot.pins += 1
        self._idle.pop(user_id, None)
        slot.last_use_s = self._sources.monotonic_s()
        slot.last_use_ms = self._sources.now_ms()
        slot.uses += 1
        return slot

    def touch(self, slot: Slot) -> None:
        """Note the use of an open slot that was not pinned for it, because nothing was waited for."""
        slot.last_use_s = self._sources.monotonic_s()
        slot.last_use_ms = self._sources.now_ms()
        slot.uses += 1
        # A look-up makes it the last one to be evicted.
        self._idle.get(slot.user_id)

    def unpin(self, slot: Slot) -> None:
        """Release a pin. A slot without pins may be evicted; one without a stored vectorstore is evicted at once."""
        slot.pins -= 1
        assert slot.pins >= 0
        if slot.pins:
            self._leave(slot)
            return
        match slot.state:
            case Ready(store) if store.is_absent:
                self.start_eviction(slot, "absent")
            case Ready():
                self._make_idle(slot)
            case Cold():
                self.slots.pop(slot.user_id, None)
            case _:
                pass

    def _make_idle(self, slot: Slot) -> None:
        """Let a slot be evicted that is open and not in use, unless it is kept open."""
        if slot.user_id not in self.keeping:
            self._idle[slot.user_id] = slot
            self._room.call_next()

    def _let_go(self, slot: Slot) -> None:
        if slot.pins == 0 and isinstance(slot.state, Ready) and self.slots.get(slot.user_id) is slot:
            self._make_idle(slot)

    def _leave(self, slot: Slot) -> None:
        """End a hydrate that waits for a free slot if only the hydrate itself still pins its slot."""
        if slot.pins == 1 and (task := self._queued.pop(slot, None)) is not None:
            task.cancel()

    async def open(self, slot: Slot, *, create: bool) -> Vectorstore:
        """Return the vectorstore of a pinned slot, hydrating it if it is cold.

        The hydrate is a task of its own: it goes on if this caller is cancelled, for others and for the next request.
        """
        while True:
            match slot.state:
                case Ready(store) | Committing(store):
                    return store
                case Hydrating(done):
                    if (error := await asyncio.shield(done)) is not None:
                        # There is no slot or no store: another wait would end the same way.
                        raise error
                case Evicting(_, done):
                    await asyncio.wait([done])
                case Broken(error, until_s):
                    if self._sources.monotonic_s() < until_s:
                        raise error
                    slot.become(Cold())
                case Cold():
                    self._check_memory()
                    await asyncio.shield(self._start_hydrate(slot, create=create))

    def _check_memory(self) -> None:
        if self.is_short_of_memory and self._taken:
            raise MemoryShort(
                "The instance is short of memory, and opens no vectorstore for now (memory_high_percent). Send the "
                "request again later, or to another instance."
            )

    def count_wait(self, slot: Slot, timing: Timing, since_s: float) -> None:
        """Count the time since ``since_s`` that a caller waited for a slot that is open now: its hydrate, and a queue.

        The hydrate may be that of another caller, and have begun before.
        """
        now_s = self._sources.monotonic_s()
        began_s = min(max(slot.hydrate_began_s, since_s), now_s)
        ended_s = max(min(slot.hydrate_ended_s, now_s), began_s)
        timing.add(QUEUE, since_s, began_s)
        timing.add(HYDRATE, began_s, ended_s)
        timing.parts[QUEUE] += now_s - ended_s
        timing.parts[STORE] += min(slot.hydrate_store_s, ended_s - began_s)

    def _start_hydrate(self, slot: Slot, *, create: bool) -> asyncio.Task[None]:
        done: asyncio.Future[TryAgain | None] = asyncio.get_running_loop().create_future()
        slot.become(Hydrating(done))
        slot.pins += 1
        task = asyncio.create_task(self._hydrate(slot, done, create=create))
        self._hydrates.add(task)
        self._queued[slot] = task
        task.add_done_callback(self._end_hydrate)
        return task

    def _end_hydrate(self, task: asyncio.Task[None]) -> None:
        self._hydrates.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The requests that wait for it get the error, unless all of them were cancelled.
            logger.debug("a hydrate failed: %s", error)

    async def _hydrate(self, slot: Slot, done: asyncio.Future[TryAgain | None], *, create: bool) -> None:
        has_capacity = False
        shared: TryAgain | None = None
        try:
            try:
                await self._take_capacity()
            finally:
                self._queued.pop(slot, None)
            has_capacity = True
            slot.hydrate_began_s = self._sources.monotonic_s()
            self._opening += 1
            try:
                store = self._make_store(slot.user_id)
                await _open(store, create=create)
            finally:
                self._opening -= 1
                self._room.call_next()
            slot.hydrate_ended_s, slot.hydrate_store_s = self._sources.monotonic_s(), store.clock.busy_s()
        except BaseException as error:
            shared = error if isinstance(error, TryAgain) else None
            if isinstance(error, Damaged):
                slot.become(Broken(error, self._sources.monotonic_s() + BROKEN_RETRY_S))
                logger.error("a vectorstore cannot be opened: %s", error.detail)
            else:
                slot.become(Cold())
            if has_capacity:
                self._release_capacity()
            raise
        else:
            slot.become(Ready(store))
        finally:
            done.set_result(shared)
            self.unpin(slot)

    # --- Capacity --------------------------------------------------------------------------------------

    async def _take_capacity(self) -> None:
        deadline_s = self._sources.monotonic_s() + self._settings.slot_wait_s
        while not self._has_capacity():
            if self._opening < self._settings.hydrations and (victim := self._least_recently_used()) is not None:
                self.start_eviction(victim, "room")
            await self._room.enter(max(deadline_s - self._sources.monotonic_s(), 0.0))
        self._taken += 1

    def _has_capacity(self) -> bool:
        if self._taken >= self._settings.open_slots or self._opening >= self._settings.hydrations:
            return False
        return self._taken == 0 or self.open_bytes() < self._settings.open_bytes

    def _release_capacity(self) -> None:
        self._taken -= 1
        self._room.call_next()

    def _least_recently_used(self) -> Slot | None:
        while self._idle:
            _, slot = self._idle.popitem()
            if isinstance(slot.state, Ready) and slot.pins == 0:
                return slot
        return None

    # --- Eviction ------------------------------------------------------------------------------------

    def evictable(self, idle_s: float) -> list[Slot]:
        """Return the slots unused for ``idle_s`` seconds, and one more if the bound in bytes is exceeded."""
        now_s = self._sources.monotonic_s()
        idle = [slot for slot in self._idle.values() if now_s - slot.last_use_s >= idle_s]
        if not idle and self.open_bytes() > self._settings.open_bytes and self._taken > 1:
            victim = self._least_recently_used()
            if victim is not None:
                idle.append(victim)
        return idle

    def least_used_part(self) -> list[Slot]:
        """Return a quarter of the slots that are not in use, at least one of them, the longest unused first."""
        idle = sorted(self._idle.values(), key=lambda slot: slot.last_use_s)
        return [slot for slot in idle[: -(-len(idle) // 4)] if isinstance(slot.state, Ready) and slot.pins == 0]

    async def evict(self, slot: Slot) -> bool:
        """Evict a slot that only this caller has pinned; return whether it is cold now."""
        if slot.pins <= 1 and isinstance(slot.state, Ready):
            await asyncio.shield(self.start_eviction(slot, "asked"))
        return isinstance(slot.state, Cold)

    def start_eviction(self, slot: Slot, reason: str = "") -> asyncio.Task[None]:
        """Commit, close and drop an open slot that is not in use. Without a ``reason`` it was idle, or too large."""
        # The state changes at once: the next caller that pins the slot finds it Evicting, and waits.
        assert isinstance(slot.state, Ready)
        store = slot.state.store
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        slot.become(Evicting(store, done))
        self._idle.pop(slot.user_id, None)
        if not reason:
            is_idle = self._sources.monotonic_s() - slot.last_use_s >= self._settings.idle_timeout_s
            reason = "idle" if is_idle else "bytes"
        task = asyncio.create_task(self._evict(slot, store, done, reason))
        self._evictions.add(task)
        task.add_done_callback(self._evictions.discard)
        return task

    async def _evict(self, slot: Slot, store: Vectorstore, done: asyncio.Future[None], reason: str) -> None:
        try:
            if store.is_dirty:
                await self._commit(store)
            await store.discard()
        except Exception as error:
            # The working directory holds acknowledged writes: keep it, and try again later.
            level = logging.WARNING if isinstance(error, VectorpoolError) else logging.ERROR
            logger.log(level, "a vectorstore cannot be evicted yet: %s", error)
            slot.become(Ready(store))
            if slot.pins == 0:
                self._make_idle(slot)
        else:
            slot.become(Cold())
            self.keeping.end(slot.user_id)
            self._figures.counter(EVICTIONS, reason).add()
            self._release_capacity()
            if slot.pins == 0:
                self.slots.pop(slot.user_id, None)
        finally:
            done.set_result(None)
            self._room.call_next()

    async def _commit(self, store: Vectorstore) -> None:
        """Commit a vectorstore's uncommitted writes before it is closed.

        Under write-through every acknowledged write is committed, and at most a commit of unknown outcome is left. So
        the slot is freed even if the store does not answer or refuses.
        """
        if self._settings.durability == "write-back":
            await store.commit()
            return
        try:
            async with asyncio.timeout(self._settings.slot_wait_s / 2):
                await store.commit()
        except (VectorpoolError, TimeoutError) as error:
            logger.warning("a vectorstore is closed, and its last commit may be durable or not: %s", error)

    async def end_background(self) -> None:
        """Stop the hydrates that are left, and wait until no eviction is under way."""
        for task in self._hydrates:
            task.cancel()
        while pending := self._hydrates | self._evictions:
            await asyncio.wait(pending)


async def _open(store: Vectorstore, *, create: bool) -> None:
    try:
        await store.open(create=create)
    except OSError as error:
        # The log is in the bucket, so nothing is lost: only the disk for the working copy failed.
        raise LocalDiskFailed(
            f"The working copy cannot be written to the local disk ({error.strerror or error}). Give the replica "
            "directory more room, or lower the bounds on local bytes."
        ) from error
