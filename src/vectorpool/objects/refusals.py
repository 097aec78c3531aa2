"""A bucket's errors as the errors of an answer, and as lines of the log; both keep the store's own text."""

from __future__ import annotations

import logging
from typing import Final

from vectorpool.errors import StoreFull, StoreUnavailable
from vectorpool.objects.bucket import BucketDenied, BucketFull, BucketMissing, BucketUnavailable
from vectorpool.sources import Sources

_log = logging.getLogger(__name__)

_QUIET_S: Final = 60.0


def unavailable(url: str, doing: str, error: BucketUnavailable | BucketDenied) -> StoreUnavailable:
    """Return the error of an operation that the store did not do; ``doing`` completes "while ..."."""
    if isinstance(error, BucketUnavailable):
        return StoreUnavailable(
            f"The object store {url} did not answer while {doing}: {error}. Send the request again."
        )
    return refused(url, doing, error)


def refused(url: str, doing: str, error: BucketDenied, *, certainty: str = "") -> StoreUnavailable:
    """Return the error of an operation that the store refused; ``certainty`` is a sentence about its effect."""
    said = f"The object store {url} refused while {doing}: {error}." + (f" {certainty}" if certainty else "")
    if isinstance(error, BucketFull):
        return StoreFull(f"{said} Give it more room.")
    if isinstance(error, BucketMissing):
        return StoreUnavailable(f"{said} Create the bucket, or name another in VECTORPOOL_STORE.")
    return StoreUnavailable(f"{said} Check its credentials and permissions.")


class RefusalLog:
    """Logs what a store refuses, at ERROR, and at most one refusal a minute."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._logged_s: float | None = None
        self._unlogged = 0

    def note(self, operation: str, error: BucketDenied) -> None:
        """Log a refusal, or count it for the next line."""
        now_s = self._sources.monotonic_s()
        if self._logged_s is not None and now_s - self._logged_s < _QUIET_S:
            self._unlogged += 1
            return
        _log.error(
            "the object store refuses to %s: %s (%d refusals before this one were not logged)",
            operation,
            error,
            self._unlogged,
        )
        self._logged_s, self._unlogged = now_s, 0
