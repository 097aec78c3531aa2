"""Quarantine: users whose commands were in native code at two crashes are served alone, or refused.

A crash of native code ends a shard and the requests of every user in it. The marks of ``platform.native_marks`` say
whose command was in the thread that crashed; if that is not known, whose commands were in native code then. A user who
was there at two crashes within ``quarantine_s`` is a suspect, and returns after as long without a crash. Meanwhile

- the shard that the hash names closes the suspect's slot and keeps the upkeep of its log;
- ``quarantine_processes`` suspects at most are served, each by a process of its own, and the others are refused;
- under write-back, what neighbours were acknowledged is committed before a command of a suspect runs. If the store does
  not take that, the suspect is refused, and not asked to wait.

Counts belong to this instance and are lost with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from vectorpool.answers import QuarantineView
from vectorpool.commands import Evict, Flush
from vectorpool.context import BACKGROUND
from vectorpool.errors import Quarantined, ShardUnavailable, VectorpoolError
from vectorpool.settings import Settings
from vectorpool.shard.client import ShardClient
from vectorpool.sources import Sources
from vectorpool.supervision import rest

logger = logging.getLogger(__name__)

# Crashes that make a suspect.
_CRASHES: Final = 2
# Users whose crashes are remembered; the oldest are forgotten.
_MAX_REMEMBERED: Final = 10_000
# Longest wait for the commits of neighbours, and the time without another attempt after one that failed.
_SETTLE_S: Final = 1.0
_SETTLE_PAUSE_S: Final = 5.0
_TICK_S: Final = 0.5
# How long a suspect's own process may take to commit when its quarantine ends.
_RETURN_S: Final = 8.0


class _Suspect:
    """A user in quarantine. ``client`` is the process that serves it, once there is one."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.crashes = 0
        self.until_s = 0.0
        self.number: int | None = None
        self.client: ShardClient | None = None
        # Held while the process is started or ended.
        self.changing = asyncio.Lock()


class Quarantine:
    """The suspects of one instance. Belongs to one event loop.

    ``make_client`` returns a process of a number, not started yet, that tells its crashes to the function it is given.
    ``owner_of`` returns the shard that the hash of a user names. ``settle`` has every shard commit what is
    acknowledged, and returns whether all of it is. ``clean`` removes what the process of a number left on disk.
    """

    def __init__(
        self,
        settings: Settings,
        sources: Sources,
        *,
        make_client: Callable[[int, Callable[[set[str]], None]], ShardClient],
        owner_of: Callable[[str], ShardClient],
        settle: Callable[[float], Awaitable[bool]],
        clean: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._make_client = make_client
        self._owner_of = owner_of
        self._settle = settle
        self._clean = clean
        self._crashes: dict[str, list[float]] = {}
        self._suspects: dict[str, _Suspect] = {}
        self._free = set(range(settings.quarantine_processes))
        self._settling: asyncio.Task[bool] | None = None
        self._no_settling_before_s = 0.0

    def __contains__(self, user_id: str) -> bool:
        """Return whether a user is in quarantine."""
        return user_id in self._suspects

    @property
    def clients(self) -> list[ShardClient]:
        """The processes that serve suspects now."""
        return [suspect.client for suspect in self._suspects.values() if suspect.client is not None]

    def view(self) -> list[QuarantineView]:
        """Return every user in quarantine."""
        now_s = self._sources.monotonic_s()
        return [
            QuarantineView(
                user_id=suspect.user_id,
                crashes=suspect.crashes,
                seconds_left=max(0.0, suspect.until_s - now_s),
                process_id=None if suspect.client is None else suspect.client.process_id,
            )
            for suspect in self._suspects.values()
        ]

    # --- Crashes -------------------------------------------------------------------------------------

    def note_crash(self, user_ids: set[str]) -> None:
        """Note that a process died while commands of these users were in native code."""
        now_s = self._sources.monotonic_s()
        for user_id in user_ids:
            before = [at_s for at_s in self._crashes.pop(user_id, []) if now_s - at_s <= self._settings.quarantine_s]
            # The user comes last, so that the oldest are forgotten first.
            self._crashes[user_id] = recent = [*before, now_s][-_CRASHES:]
            suspect = self._suspects.get(user_id)
            if suspect is None and len(recent) >= _CRASHES:
                suspect = self._suspects[user_id] = _Suspect(user_id)
                suspect.crashes = _CRASHES - 1
                logger.error("a user's commands were in native code at %d crashes; it is in quarantine", _CRASHES)
            if suspect is not None:
                suspect.crashes += 1
                suspect.until_s = now_s + self._settings.quarantine_s
        while len(self._crashes) > _MAX_REMEMBERED:
            del self._crashes[next(iter(self._crashes))]

    # --- Suspects ------------------------------------------------------------------------------------

    async def client_of(self, user_id: str) -> ShardClient:
        """Return the process that serves a user in quarantine, started if need be. Raises Quarantined.

        A caller that leaves does not stop the start.
        """
        suspect = self._suspects.get(user_id)
        if suspect is not None:
            await self._settle_neighbours()
            if suspect.client is None:
                work = asyncio.create_task(self._isolate(suspect))
                work.add_done_callback(_read_exception)
                await asyncio.shield(work)
        # Without a process it has returned meanwhile.
        return self._owner_of(user_id) if suspect is None or suspect.client is None else suspect.client

    async def _isolate(self, suspect: _Suspect) -> None:
        async with suspect.changing:
            if suspect.client is not None or self._suspects.get(suspect.user_id) is not suspect:
                return
            if self._free:
                await self._close_slot(suspect.user_id)
            if not self._free:
                raise self._no_place(suspect)
            number = self._free.pop()
            client = self._make_client(number, lambda _: self.note_crash({suspect.user_id}))
            try:
                await client.start()
            except BaseException:
                await client.stop(0.0)
                self._free.add(number)
                raise
            suspect.number, suspect.client = number, client

    def _no_place(self, suspect: _Suspect) -> Quarantined:
        return Quarantined(
            f"Requests of this user were under way when the service crashed, {suspect.crashes} times. At most "
            f"{self._settings.quarantine_processes} such users are served, apart from others (quarantine_processes). "
            "Send the request later.",
            retry_after_s=max(1.0, suspect.until_s - self._sources.monotonic_s()),
        )

    async def _close_slot(self, user_id: str) -> None:
        """Have the shard of the user's hash commit and close its slot. One that is being started again has none."""
        try:
            async with asyncio.timeout(_SETTLE_S):
                await self._owner_of(user_id).execute(user_id, Evict(), BACKGROUND, None)
        except ShardUnavailable:
            return
        except (VectorpoolError, TimeoutError) as error:
            raise Quarantined(
                "Requests of this user were under way when the service crashed. It is served apart from others once "
                "its vectorstore is closed, which the store does not allow at the moment. Send the request later."
            ) from error

    async def _settle_neighbours(self) -> None:
        """Have what others were acknowledged committed. Suspects that ask meanwhile share it. Raises Quarantined."""
        if self._settings.durability != "write-back":
            return
        refused = Quarantined(
            "Requests of this user were under way when the service crashed. Before another one runs, the writes of "
            "other users must be committed, and the store does not take them at the moment. Send the request later."
        )
        if self._sources.monotonic_s() < self._no_settling_before_s:
            raise refused
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._try_to_settle())
        if not await asyncio.shield(self._settling):
            raise refused

    async def _try_to_settle(self) -> bool:
        try:
            is_settled = await self._settle(_SETTLE_S)
        except (VectorpoolError, TimeoutError):
            is_settled = False
        if not is_settled:
            self._no_settling_before_s = self._sources.monotonic_s() + _SETTLE_PAUSE_S
        return is_settled

    # --- The end -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Let suspects return whose time is over; a supervised task."""
        while True:
            await rest(self._sources, _TICK_S)
            now_s = self._sources.monotonic_s()
            for suspect in [each for each in self._suspects.values() if each.until_s <= now_s]:
                await self._return(suspect)

    async def _return(self, suspect: _Suspect) -> None:
        """End a suspect's process once it has committed what it holds; the shard of the hash serves the user again."""
        async with suspect.changing:
            client, number = suspect.client, suspect.number
            if client is not None and number is not None:
                if not await _is_committed(client, suspect.user_id):
                    suspect.until_s = self._sources.monotonic_s() + _SETTLE_PAUSE_S
                    return
                await client.stop(_RETURN_S)
                await asyncio.to_thread(self._clean, number)
                self._free.add(number)
            suspect.client = None
            self._suspects.pop(suspect.user_id, None)
            logger.info("a user returns from quarantine after %d crashes", suspect.crashes)


async def _is_committed(client: ShardClient, user_id: str) -> bool:
    """Have a suspect's process commit; one that is being started again holds nothing."""
    try:
        async with asyncio.timeout(_RETURN_S):
            await client.execute(user_id, Flush(), BACKGROUND, None)
    except ShardUnavailable:
        return True
    except (VectorpoolError, TimeoutError):
        return False
    return True


def _read_exception(work: asyncio.Task[None]) -> None:
    # The caller has it too, unless it left.
    with suppress(asyncio.CancelledError):
        work.exception()
