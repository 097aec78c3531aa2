"""The virtual loop of a fleet: calls of Chroma take virtual time, other threads none."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, cast

from tests.simulation.loop import VirtualLoop

# The virtual seconds of a call of Chroma: the median of small writes as measured.
CHROMA_S = 0.008
# The mark by which the loop recognises the threads that call Chroma.
WORKERS = cast(Executor, "chroma")
SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


class FleetLoop(VirtualLoop):
    """See the module. Its bound on steps counts steps at one and the same time. ``dice`` come from the seed."""

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
