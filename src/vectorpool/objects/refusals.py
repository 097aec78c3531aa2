"""A bucket's errors as the errors of an answer, and as lines of the log; both keep the store's own text."""

from __future__ import annotations

import logging
from typing import Final

from vectorpool.errors import StoreFull, StoreUnavailable
from vectorpool.objects.bucket import (
    BucketDenied,
    BucketElsewhere,
    BucketFull,
    BucketMissing,
    BucketUnavailable,
    KeyTaken,
    KeyTooLong,
)
from vectorpool.sources import Sources

_log = logging.getLogger(__name__)

_QUIET_S: Final = 60.0


def unavailable(url: str, doing: str, error: BucketUnavailable | BucketDenied) -> StoreUnavailable:
    """Return the error of an operation that the store did not do; ``doing`` completes "while ..."."""
    if isinstance(error, BucketUnavailable):
        return StoreUnavailable(
            f"The object store {url} did not answer while {doing}: {_words(url, error)}. Send the request again."
        )
    return refused(url, doing, error)


def refused(url: str, doing: str, error: BucketDenied, *, certainty: str = "") -> StoreUnavailable:
    """Return the error of an operation that the store refused; ``certainty`` is a sentence about its effect."""
    said = f"The object store {url} refused while {doing}: {_words(url, error)}." + (
        f" {certainty}" if certainty else ""
    )
    kind = StoreFull if isinstance(error, BucketFull) else StoreUnavailable
    return kind(f"{said} {remedy(error)}")


def refusal_of(url: str, error: BucketDenied) -> str:
    """Return what the store says, without its own name, and what can be done about it, as sentences."""
    return f"{_words(url, error)}. {remedy(error)}"


def remedy(error: BucketDenied) -> str:
    """Return what an operator can do about a refusal, as a sentence."""
    match error:
        case BucketFull():
            return "Give it more room."
        case BucketMissing():
            return "Create the bucket, or name another in VECTORPOOL_STORE."
        case BucketElsewhere():
            return "Set VECTORPOOL_S3_REGION or AWS_DEFAULT_REGION to the bucket's region."
        case KeyTooLong():
            return "Shorten the name, or use a bucket as store."
        case KeyTaken():
            return "Choose another name, or use a bucket as store."
    return "Check its credentials and permissions: get, list, put and delete."


def capitalised(text: str) -> str:
    """Return a text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def _words(url: str, error: Exception) -> str:
    """Return an error's text without the store's name, which the sentence has already, and without a closing mark."""
    return str(error).removeprefix(f"{url}: ").rstrip(". ")


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
        unlogged = f" ({self._unlogged} refusals before this one were not logged)" if self._unlogged else ""
        _log.error(
            "the object store refuses to %s: %s. %s%s", operation, str(error).rstrip(". "), remedy(error), unlogged
        )
        self._logged_s, self._unlogged = now_s, 0
