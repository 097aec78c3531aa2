"""The virtual loop of a fleet: Chroma's calls take their time, other threads none."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, cast

from tests.simulation.loop import VirtualLoop

# How long a call of Chroma takes in virtual time: a small write, the middle of what was measured.
CHROMA_S = 0.008
# The threads that call Chroma, as far as the loop tells them from others.
WORKERS = cast(Executor, "chroma")
SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


class FleetLoop(VirtualLoop):
    """See the module. Its bound on steps is one on steps without any time passing. ``dice`` come from the seed."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.dice = random.Random(seed)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except BaseException as error:
                if not future.done():
                    future.set_exception(error)
                return
            if not future.done():
                future.set_result(result)

        if executor is WORKERS:
            self.call_later(CHROMA_S, work)
        else:
            self.call_soon(work)
        return future

    def _jump(self) -> None:
        self.steps = 0
        super()._jump()
