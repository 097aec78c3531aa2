"""Limits of one user: their names, their ranges, and how three sources become the limits in force.

The settings have the defaults of every user. What an operator stores for a user replaces them, name by name, up or
down; None takes a limit away. The claim of a token narrows what results, and never widens it: who issues tokens need
not be who decides what a user may cost, and a token cannot be taken back as quickly as an object in the bucket.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from vectorpool.bounds import Bound
from vectorpool.errors import InvalidRequest
from vectorpool.spelling import meant

Source: TypeAlias = Literal["setting", "stored", "token"]
# Limits by name, as one source gives them. None: no limit.
Given: TypeAlias = Mapping[str, float | None]

# What JSON's numbers hold exactly in every language.
_MOST: Final = 2**53 - 1
RANGES: Final = {
    bound.name: bound
    for bound in (
        Bound("requests_per_s", 0.001, 1_000_000),
        Bound("burst", 1, 1_000_000),
        Bound("concurrent_requests", 1, 1_000_000),
        Bound("request_bytes", 1, _MOST),
        Bound("embedding_tokens_per_min", 1, 1_000_000_000_000),
        Bound("jobs", 0, 1_000_000),
        Bound("collections", 0, _MOST),
        Bound("records", 0, _MOST),
        Bound("documents", 0, _MOST),
        Bound("bytes_stored", 0, _MOST),
    )
}
_NOT_WHOLE: Final = frozenset({"requests_per_s"})


class Quota(msgspec.Struct, frozen=True, array_like=True):
    """The limits on what is stored, as they go with a write to where it is applied. None: no limit."""

    collections: int | None = None
    records: int | None = None
    documents: int | None = None
    bytes_stored: int | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one user. None: no limit.

    ``requests_per_s``, ``burst``, ``concurrent_requests``, ``embedding_tokens_per_min`` and ``jobs`` are counted on
    each instance by itself. ``jobs`` is how many jobs of the user may run at once; what runs jobs asks for it.
    ``bytes_stored`` are those of the vectorstore's files as they are now, without history and source documents.
    """

    requests_per_s: float | None = None
    burst: int | None = None
    concurrent_requests: int | None = None
    request_bytes: int | None = None
    embedding_tokens_per_min: int | None = None
    jobs: int | None = None
    collections: int | None = None
    records: int | None = None
    documents: int | None = None
    bytes_stored: int | None = None

    @property
    def most_at_once(self) -> int:
        """How many requests a rested user may send at once: the burst, or else those of one second."""
        return self.burst if self.burst is not None else max(1, math.ceil(self.requests_per_s or 1))

    @property
    def quota(self) -> Quota | None:
        """The limits on what is stored; None if there are none."""
        quota = Quota(self.collections, self.records, self.documents, self.bytes_stored)
        return None if quota == Quota() else quota

    def named(self) -> dict[str, float]:
        """Return those that are set, by name."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


NO_LIMITS: Final = Limits()


class InForce(msgspec.Struct, frozen=True):
    """The limits in force, and where each one that is set comes from."""

    limits: Limits
    sources: dict[str, Source]


def read_limits(given: Any, *, nulls: bool) -> dict[str, float | None]:
    """Return limits by name from decoded JSON. Raises InvalidRequest, which names what is wrong and what is near.

    ``nulls`` says whether None is allowed, which takes a limit away.
    """
    if not isinstance(given, Mapping):
        raise InvalidRequest(f"Limits are an object of numbers by name. Known are {', '.join(RANGES)}.")
    read: dict[str, float | None] = {}
    for name, value in given.items():
        bound = RANGES.get(name)
        if bound is None:
            raise InvalidRequest(
                f"{str(name)[:40]!a} is no limit.{meant(str(name), RANGES)} Known are {', '.join(RANGES)}."
            )
        if value is None and nulls:
            read[name] = None
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidRequest(f"The limit {name} must be a number{' or null' if nulls else ''}. Send one.")
        bound.check(value)
        if name not in _NOT_WHOLE and value != int(value):
            raise InvalidRequest(f"The limit {name} is {value}, and must be a whole number. Send one.")
        read[name] = value if name in _NOT_WHOLE else int(value)
    return read


def in_force(defaults: Limits, stored: Given | None = None, claimed: Given | None = None) -> InForce:
    """Return the limits of a user: the defaults, replaced by what is stored, narrowed by the claim of a token."""
    values: dict[str, Any] = defaults.named()
    sources: dict[str, Source] = dict.fromkeys(values, "setting")
    for name, value in (stored or {}).items():
        values[name], sources[name] = value, "stored"
    for name, value in (claimed or {}).items():
        before = values.get(name)
        if value is not None and (before is None or value < before):
            values[name], sources[name] = value, "token"
    # Quotas cross to the shards as whole numbers, whatever a source made of them.
    whole = {name: value if value is None or name in _NOT_WHOLE else int(value) for name, value in values.items()}
    limits = Limits(**whole)
    return InForce(limits, {name: sources[name] for name in limits.named()})


def _range(name: str) -> Meta:
    bound = RANGES[name]
    return Meta(ge=bound.least if name in _NOT_WHOLE else int(bound.least), le=int(bound.most))


def _default(text: str) -> Meta:
    return Meta(description=f"For each user, unless stored otherwise for it: {text}")


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of limits: the defaults of every user, and what one instance holds."""

    limit_requests_per_s: Annotated[
        Annotated[float, _range("requests_per_s")] | None,
        _default("requests a second, on this instance, then 429"),
    ] = None
    limit_burst: Annotated[
        Annotated[int, _range("burst")] | None,
        _default("requests at once by a user that rested; without it those of one second"),
    ] = None
    limit_concurrent_requests: Annotated[
        Annotated[int, _range("concurrent_requests")] | None,
        _default("requests under way at once, on this instance, then 429"),
    ] = None
    limit_request_bytes: Annotated[
        Annotated[int, _range("request_bytes")] | None, _default("bytes of a request's body, then 413")
    ] = None
    limit_embedding_tokens_per_min: Annotated[
        Annotated[int, _range("embedding_tokens_per_min")] | None,
        _default("tokens to embed a minute, on this instance, then 429"),
    ] = None
    limit_jobs: Annotated[
        Annotated[int, _range("jobs")] | None, _default("jobs that run at once, on this instance")
    ] = None
    limit_collections: Annotated[
        Annotated[int, _range("collections")] | None, _default("collections, of all avatars, then 507")
    ] = None
    limit_records: Annotated[
        Annotated[int, _range("records")] | None, _default("records, of all collections, then 507")
    ] = None
    limit_documents: Annotated[
        Annotated[int, _range("documents")] | None, _default("documents, of all avatars, then 507")
    ] = None
    limit_bytes_stored: Annotated[
        Annotated[int, _range("bytes_stored")] | None,
        _default("bytes of the vectorstore as it is now, without history and source documents, then 507"),
    ] = None
    limits_refresh_s: Annotated[
        float,
        Meta(
            description="Interval at which the limits stored for users are listed again; 0 is only at the start",
            ge=0,
            le=3600,
        ),
    ] = 30.0
    hydrations: Annotated[
        int,
        Meta(description="Most vectorstores that are being opened at once, per shard; others wait", ge=1, le=10_000),
    ] = 32
    memory_limit_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Memory that the instance may take; without it the container's limit, or else the machine's"),
    ] = None
    memory_high_percent: Annotated[
        float,
        Meta(
            description="Percent of it from which no vectorstore is opened (503) and idle ones are closed; 0 is never",
            ge=0,
            le=100,
        ),
    ] = 85.0
    memory_low_percent: Annotated[
        float, Meta(description="Percent of it below which vectorstores are opened again", gt=0, le=100)
    ] = 75.0


def default_limits(settings: LimitSettings) -> Limits:
    """Return the defaults of every user."""
    return Limits(**{name: getattr(settings, f"limit_{name}") for name in RANGES})
