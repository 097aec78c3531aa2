"""The bodies and answers of limits and usage, their examples, and the problems that limits bring to every operation."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from vectorpool.allowances.allowances import Allowances, RatesState
from vectorpool.allowances.usage import StoredSize
from vectorpool.errors import MemoryShort, QuotaExceeded, RateLimited, VectorpoolError
from vectorpool.kept_documents import KeptSize
from vectorpool.limits import InForce, Source

_Number = Annotated[float | None, Meta(description="null: no limit.")]
_Whole = Annotated[int | None, Meta(description="null: no limit.")]


class LimitsBody(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits of a user. One that is left out has its default, and null is no limit."""

    requests_per_s: _Number = None
    burst: _Whole = None
    concurrent_requests: _Whole = None
    request_bytes: _Whole = None
    embedding_tokens_per_min: _Whole = None
    jobs: _Whole = None
    collections: _Whole = None
    records: _Whole = None
    documents: _Whole = None
    bytes_stored: _Whole = None


class LimitView(msgspec.Struct, frozen=True):
    """A limit in force, and whether a setting, what is stored for the user, or the token sets it."""

    value: float
    source: Source


class LimitsView(msgspec.Struct):
    """What is stored for a user (null: nothing), and the limits in force; those that are not there do not limit.

    ``problem`` says what is wrong with what is stored, and what is in force instead.
    """

    user_id: str
    stored: dict[str, float | None] | None
    changed_at_ms: int | None
    in_force: dict[str, LimitView]
    problem: str | None = None


def shown(found: InForce) -> dict[str, LimitView]:
    """Return the limits in force by name, each with its source."""
    return {name: LimitView(value, found.sources[name]) for name, value in found.limits.named().items()}


def limits_view(allowances: Allowances, user_id: str) -> LimitsView:
    """Return what is stored for a user and what is in force, as far as this process knows it."""
    stored = allowances.stored_for(user_id)
    return LimitsView(
        user_id=user_id,
        stored=None if stored is None or stored.given is None else dict(stored.given),
        changed_at_ms=None if stored is None else stored.changed_at_ms,
        in_force=shown(allowances.in_force(user_id)),
        problem=None if stored is None else stored.problem,
    )


class BytesView(msgspec.Struct):
    """Bytes of a user's vectorstore.

    ``live`` is what ``bytes_stored`` limits: the files without their free pages. ``files`` is their size on disk.
    ``history`` is what the log takes in the bucket, compressed, with every commit that is kept.
    """

    live: int
    files: int
    history: StoredSize


class UsageView(msgspec.Struct):
    """What a user has stored, what it may, and what is left of its rates on this instance.

    ``ingested`` are documents that became records, ``documents`` source documents in the bucket, ``kept`` those that
    were replaced or deleted and are kept for restores. ``limits`` are those for the token of the request. ``problem``
    says what is wrong with the limits that are stored.
    """

    user_id: str
    commit: int
    collections: int
    records: int
    ingested: int
    bytes: BytesView
    documents: StoredSize
    kept: KeptSize
    limits: dict[str, LimitView]
    rates: RatesState
    problem: str | None = None


# Of every operation on a vectorstore.
PROBLEMS: Final[tuple[type[VectorpoolError], ...]] = (RateLimited, QuotaExceeded, MemoryShort)

_IN_FORCE: Final = {"requests_per_s": LimitView(50, "setting"), "records": LimitView(100_000, "stored")}
ANSWERS: Final[dict[type[msgspec.Struct], msgspec.Struct]] = {
    LimitsView: LimitsView("42", {"records": 100_000, "burst": None}, 1_780_000_000_000, _IN_FORCE),
    UsageView: UsageView(
        user_id="42",
        commit=17,
        collections=2,
        records=540,
        ingested=3,
        bytes=BytesView(live=1_245_184, files=1_261_568, history=StoredSize(20, 1_930_112)),
        documents=StoredSize(3, 88_120),
        kept=KeptSize(1, 20_410),
        limits=_IN_FORCE,
        rates=RatesState(requests_left=49),
    ),
}
BODIES: Final[dict[type[msgspec.Struct], Any]] = {LimitsBody: {"records": 100_000, "requests_per_s": 50, "burst": None}}
