"""The tokens file while the service runs: read again when it changes, and when an operator asks for it.

A file that cannot be read, or cannot be meant, changes nothing: the tokens that were known stay, and the log says what
is wrong. So a mistake locks no caller out, and a file that is caught half-written is read again when it is whole.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final, TypeAlias

from vectorpool.api.callers import read_callers
from vectorpool.errors import Misconfigured
from vectorpool.front.identity import IdentityStage
from vectorpool.sources import Sources
from vectorpool.supervision import Supervisor, rest

# A changed file is seen within this time.
LOOK_EVERY_S: Final = 10.0

_Look: TypeAlias = tuple[int, int, int] | None

_logger = logging.getLogger(__name__)


class TokensFile:
    """Keeps the callers of a stage those of a file; without a file it does nothing."""

    def __init__(self, path: str | None, identity: IdentityStage, sources: Sources) -> None:
        self._path = path
        self._identity = identity
        self._sources = sources
        # The caller read the file a while ago, so the first look reads it again.
        self._seen: _Look = None

    def start(self, supervisor: Supervisor) -> None:
        """Watch the file in the background, if there is one."""
        if self._path:
            supervisor.start("tokens file", self.watch)

    async def watch(self) -> None:
        """Read the file again whenever it changed, until cancelled."""
        while True:
            await rest(self._sources, LOOK_EVERY_S)
            if await asyncio.to_thread(self._look) != self._seen:
                await self.reload()

    async def reload(self) -> None:
        """Read the file now; what is under way goes on with the callers that it had."""
        if not self._path:
            _logger.info("there is no tokens file to read again")
            return
        # First, so that a change while it is read is seen at the next look.
        self._seen = await asyncio.to_thread(self._look)
        try:
            callers = await asyncio.to_thread(read_callers, self._path)
        except Misconfigured as error:
            _logger.error("the tokens that were known stay: %s", error.detail)
            return
        is_new = callers != self._identity.callers
        self._identity.callers = callers
        _logger.log(
            logging.INFO if is_new else logging.DEBUG,
            "the tokens file was read again: %d tokens are known",
            callers.count or 0,
        )

    def _look(self) -> _Look:
        """Return what tells one content of the file from another, without reading it; None if it is not there."""
        if not self._path:
            return None
        try:
            found = Path(self._path).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
