"""What counting, timing and logging add to a warm request: ``python -m tests.bench.counting``, in each of two versions.

Three pieces of its path run by themselves, with nothing else in the process: the front's stages around a request that
a router answers at once, with its log line in JSON; a strong count in a pool over a bucket in memory; and the frame of
an answer, both ways. The figure is the least processor time of forty batches, which a busy machine hardly changes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.support.instances import NOTES, Instance
from tests.unit.api.parts import FakeRouter, application
from vectorpool import logs
from vectorpool.answers import Answer
from vectorpool.commands import CountRecords
from vectorpool.context import RequestContext
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.metered import MeteredBucket
from vectorpool.settings import Settings
from vectorpool.shard.protocol import Answered, encode_frame, from_shard_decoder

PARTS = [0.0, 0.0, 0.0, 0.0002, 0.0004, 0.0, 0.00015]
PATH = "/users/42/collections/notes/count"
_BATCHES = 40


async def least_us(work: Callable[[], Awaitable[object]], times: int) -> float:
    """Return the least processor time of one call, in microseconds."""
    took = []
    for _ in range(_BATCHES):
        began_s = time.process_time()
        for _ in range(times):
            await work()
        took.append((time.process_time() - began_s) / times)
    return min(took) * 1e6


class Answering(FakeRouter):
    """A router whose shard has answered."""

    async def execute(self, user_id: str, command: Any, context: RequestContext) -> Answer:
        context.took(PARTS, [], "0", 17)
        return Answer(b'{"count":1}', 17)


async def front_us() -> float:
    """Return the time of the stages around a request."""
    app = application(Answering())
    scope = {
        "type": "http", "method": "GET", "path": PATH, "raw_path": PATH.encode(), "query_string": b"",
        "headers": [(b"host", b"x"), (b"user-agent", b"y")], "scheme": "http", "http_version": "1.1",
        "server": ("x", 80), "client": ("1", 1), "root_path": "", "asgi": {"version": "3.0"}, "extensions": {},
    }  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    return await least_us(lambda: app(dict(scope), receive, send), 300)  # type: ignore[arg-type]


async def pool_us() -> float:
    """Return the time of a strong count in a pool."""
    count = CountRecords(collection="notes")
    with tempfile.TemporaryDirectory() as directory:
        async with Instance(Path(directory), MeteredBucket(MemoryBucket())) as instance:
            await instance.do(NOTES)
            (slot,) = instance.pool.view().slots
            return await least_us(
                lambda: instance.pool.execute(slot.user_id, count, RequestContext("x", timeout_s=30.0)), 200
            )


async def frame_us() -> float:
    """Return the time to encode and decode an answer."""
    answer = Answered(5, b"x" * 200, 17, PARTS)

    async def both() -> None:
        from_shard_decoder.decode(bytes(encode_frame(answer))[4:])

    return await least_us(both, 2000)


async def main() -> None:
    """Print the three figures."""
    with Path(os.devnull).open("w") as nowhere:
        logs.configure(Settings(log_format="json"), stream=nowhere)
        for name, figure in (("stages", front_us), ("pool", pool_us), ("frame", frame_us)):
            print(f"{name:7} {await figure():6.1f} us")
        logging.getLogger().handlers.clear()


if __name__ == "__main__":
    asyncio.run(main())
