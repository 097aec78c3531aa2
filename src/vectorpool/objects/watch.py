"""Whether the store answers, asked now and then, so that an instance can say so before a request fails.

One small listing each time. A store that refuses twice in a row is ``refuses``: credentials that have expired, or a
bucket that is gone, do not mend by themselves. One that does not answer is ``silent``: that may pass with the next
request.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal

from vectorpool.names import audit_prefix
from vectorpool.objects.bucket import Bucket, BucketDenied, BucketUnavailable
from vectorpool.objects.refusals import refusal_of
from vectorpool.sources import Sources
from vectorpool.supervision import rest

EVERY_S: Final = 30.0
# After a refusal the second question follows sooner.
_AGAIN_S: Final = 5.0
_WAIT_S: Final = 10.0


class StoreWatch:
    """What the last questions to a store gave. Belongs to one event loop."""

    def __init__(self, bucket: Bucket, sources: Sources) -> None:
        self._bucket = bucket
        self._sources = sources
        self._refusals = 0
        self.state: Literal["answers", "refuses", "silent", "unknown"] = "unknown"
        # What the store said, as sentences, while it does not answer.
        self.reason = ""

    async def run(self) -> None:
        """Ask at an interval until cancelled: a supervised loop."""
        while True:
            await self.ask()
            await rest(self._sources, EVERY_S if self.state == "answers" else _AGAIN_S)

    async def ask(self) -> None:
        """Ask once."""
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._bucket.list_objects(audit_prefix(), limit=1)
        except BucketDenied as error:
            self._refusals += 1
            self.reason = f"The object store refuses: {refusal_of(self._bucket.url, error)}"
            if self._refusals > 1:
                self.state = "refuses"
        except (BucketUnavailable, TimeoutError) as error:
            self._refusals = 0
            self.state, self.reason = "silent", f"The object store does not answer: {error or 'no answer in time'}."
        else:
            self._refusals = 0
            self.state, self.reason = "answers", ""
