"""Index builds in the background: one at a time in a pool, in a process of its own, while reads and writes go on.

The state of the newest commit is hydrated into a scratch directory, and Chroma builds the indexes that are due there.
What takes the time is done then. A job of the slot's writer puts the finished files into the newest state, commits it,
and opens it: that takes about as long as a hydrate. If another instance commits meanwhile, its commit counts. If the
vectorstore was restored, or has another index by then, nothing is changed. The index is built when it is due again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sys
from pathlib import Path
from typing import Final

from vectorpool.errors import BrokenReplica, LocalDiskFailed, UserNotFound, VectorpoolError
from vectorpool.pool.residency import Residency
from vectorpool.pool.slot import Slot
from vectorpool.pool.states import Ready
from vectorpool.pool.stores import StoreFactory
from vectorpool.pool.writer import SlotWriter
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.supervision import Supervisor

logger = logging.getLogger(__name__)

# The name under which index builds are counted.
INDEX_BUILD: Final = "index build"
# A million vectors take half an hour.
_BUILD_S: Final = 3600.0
# The hydrated state, its index beside the queue, and the state that they are put into.
_ROOM: Final = 4
# Least time between two builds of a shard, and after one that failed or found nothing to build until the next of that
# vectorstore.
_REST_S: Final = 10.0
_PAUSE_S: Final = 300.0
# Vectorstores of which is remembered when they had their turn, and until when they have none.
_MAX_KNOWN: Final = 1000


class IndexBuilds:
    """Starts the builds that are due. Belongs to one event loop."""

    def __init__(
        self,
        stores: StoreFactory,
        residency: Residency,
        writer: SlotWriter,
        settings: Settings,
        sources: Sources,
        supervisor: Supervisor,
    ) -> None:
        self._stores = stores
        self._residency = residency
        self._writer = writer
        self._settings = settings
        self._sources = sources
        self._supervisor = supervisor
        self._current: asyncio.Task[None] | None = None
        self._not_before_s = 0.0
        self._paused_until_s: dict[str, float] = {}
        self._begun_s: dict[str, float] = {}

    def next_slot(self) -> Slot | None:
        """Return a slot with an index that is due; None if there is none, or while one is built."""
        if self._current is not None or self._residency.is_short_of_memory:
            return None
        now_s = self._sources.monotonic_s()
        if now_s < self._not_before_s:
            return None
        due = [
            slot
            for slot in self._residency.slots.values()
            if isinstance(slot.state, Ready)
            and slot.state.store.edits.is_index_due()
            and now_s >= self._paused_until_s.get(slot.user_id, 0.0)
        ]
        # The one that had its turn longest ago.
        return min(due, key=lambda slot: self._begun_s.get(slot.user_id, 0.0), default=None)

    def start(self, slot: Slot) -> None:
        """Begin to build the indexes of a slot's vectorstore."""
        assert slot.store is not None
        slot.store.edits.begin_index()
        _note(self._begun_s, slot.user_id, self._sources.monotonic_s())
        self._current = asyncio.create_task(self._run(slot.user_id, slot.store.size_bytes()))

    async def stop(self, timeout_s: float) -> None:
        """End the build that is under way, of which nothing stays; an installation that has begun ends first."""
        if self._current is not None:
            self._current.cancel()
            await asyncio.wait([self._current], timeout=timeout_s)

    async def _run(self, user_id: str, size: int) -> None:
        try:
            if not await self._build(user_id, size):
                # It would be due again soon, and be built for nothing again.
                self._pause(user_id)
        except UserNotFound:
            # Deleted meanwhile.
            pass
        except Exception as error:
            self._pause(user_id)
            told = error if isinstance(error, VectorpoolError) else repr(error)
            logger.warning("the index of a vectorstore could not be built; searches compare all vectors: %s", told)
            self._supervisor.record_failure(INDEX_BUILD, error)
        finally:
            self._current = None
            self._not_before_s = self._sources.monotonic_s() + _REST_S

    def _pause(self, user_id: str) -> None:
        _note(self._paused_until_s, user_id, self._sources.monotonic_s() + _PAUSE_S)

    async def _build(self, user_id: str, size: int) -> bool:
        """Build and install the indexes of a vectorstore of ``size`` bytes; return False if that led to nothing."""
        async with self._stores.scratch() as directory:
            free = shutil.disk_usage(directory).free
            if free < _ROOM * size:
                raise LocalDiskFailed(
                    f"The replica directory has {free} bytes free, and an index build of this vectorstore needs "
                    f"{_ROOM * size}."
                )
            state = directory / "state"
            hydrated = await self._stores.log(user_id).hydrate(state)
            if hydrated is None or hydrated.tombstone or not await _build_in(state):
                return False
            slot = self._residency.pin(user_id)
            try:
                job = self._writer.install_later(slot, state)
                try:
                    return await asyncio.shield(job.done)
                except asyncio.CancelledError:
                    # The directory stays until the writer does not need it any more.
                    await asyncio.wait([job.done])
                    raise
            finally:
                self._residency.unpin(slot)


def _note(times: dict[str, float], user_id: str, time_s: float) -> None:
    if len(times) >= _MAX_KNOWN and user_id not in times:
        times.clear()
    times[user_id] = time_s


async def _build_in(directory: Path) -> int:
    """Build what is due in a directory; return how many indexes were written. Raises BrokenReplica."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vectorpool.engine.index_process",
        str(directory),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_BUILD_S):
            told = await process.stdout.read()
        return int(told)
    except TimeoutError:
        raise BrokenReplica(f"An index was not built within {_BUILD_S:g} s.") from None
    except ValueError:
        raise BrokenReplica("The process that builds an index died; its error is in the log above.") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
