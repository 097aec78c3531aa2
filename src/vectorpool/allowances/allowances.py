"""The allowances of all users on this instance: which limits are in force for each, and what of the rates it has used.

A user's requests are counted for the user. Those of a token whose claim narrows the limits are counted for the tokens
of that name too. The state of a user without limits is nothing, and so is the work for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from vectorpool.allowances.rates import Rate
from vectorpool.allowances.stored import LimitStore, StoredLimits
from vectorpool.allowances.usage import DocumentCounts
from vectorpool.context import RequestContext
from vectorpool.errors import RateLimited, VectorpoolError
from vectorpool.limits import NO_LIMITS, Given, InForce, Limits, Quota, default_limits, in_force
from vectorpool.names import MAX_ID_BYTES
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.supervision import Supervisor

# Users, and tokens with claims, whose rates are remembered. One that rested is forgotten first.
MAX_REMEMBERED: Final = 50_000
_FORGOTTEN: Final = 1000
_MINUTE_S: Final = 60.0
# A refusal within this time after another one waits so long before it is sent.
_REFUSED_S: Final = 1.0
PAUSE_S: Final = 0.1
# How long a caller waits before it asks for one of its places again: it cannot be known when one ends.
_PLACE_S: Final = 1.0


class Spending:
    """What one user, or one token of it, takes at the moment. ``kind`` is "" or "token-", for names in answers."""

    __slots__ = ("claimed", "generation", "in_force", "kind", "policy", "refused_s", "requests", "tokens", "under_way")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.claimed: Given | None = None
        self.generation = -1
        self.under_way = 0
        # When a request was refused last.
        self.refused_s = -_REFUSED_S
        self.requests: Rate | None = None
        self.tokens: Rate | None = None
        self.in_force = InForce(NO_LIMITS, {})
        self.policy: list[bytes] = []

    def set(self, found: InForce, now_s: float) -> None:
        """Set the limits that are in force."""
        self.in_force, limits = found, found.limits
        self.requests = _rate(self.requests, limits.requests_per_s, limits.most_at_once, now_s)
        tokens = limits.embedding_tokens_per_min
        self.tokens = _rate(self.tokens, None if tokens is None else tokens / _MINUTE_S, tokens or 0, now_s)
        self.policy = []
        if self.requests is not None:
            window_s = max(1, round(limits.most_at_once / self.requests.per_s))
            self.policy.append(b'"%srequests";q=%d;w=%d' % (self.kind.encode(), limits.most_at_once, window_s))
        if limits.concurrent_requests is not None:
            shape = b'"%sconcurrent";q=%d;qu="concurrent-requests"'
            self.policy.append(shape % (self.kind.encode(), limits.concurrent_requests))

    def is_idle(self, now_s: float) -> bool:
        """Whether nothing is lost by forgetting it."""
        return not self.under_way and all(r is None or r.is_rested(now_s) for r in (self.requests, self.tokens))

    def refusal(self, now_s: float) -> VectorpoolError | None:
        """Return the error of a further request, None if it may be served."""
        limits = self.in_force.limits
        if limits.concurrent_requests is not None and self.under_way >= limits.concurrent_requests:
            return self._refused("concurrent_requests", limits.concurrent_requests, "requests at once", _PLACE_S)
        if self.requests is not None and (wait_s := self.requests.wait_s(now_s)) > 0.0:
            return self._refused("requests_per_s", self.requests.per_s, "requests a second", wait_s)
        return None

    def token_refusal(self, now_s: float) -> VectorpoolError | None:
        """Return the error of texts that are to be embedded, None if they may be."""
        if self.tokens is None or (wait_s := self.tokens.wait_s(now_s, min(1.0, self.tokens.capacity))) <= 0.0:
            return None
        limit = self.in_force.limits.embedding_tokens_per_min
        assert limit is not None
        return self._refused("embedding_tokens_per_min", limit, "tokens to embed a minute", wait_s)

    def _refused(self, name: str, limit: float, what: str, wait_s: float) -> RateLimited:
        whose = "The token" if self.kind else "The user"
        return RateLimited(
            f"{whose} is allowed {limit:g} {what} on this instance ({name}). Send the request again in {wait_s:.3g} s.",
            retry_after_s=wait_s,
            extra={
                "limit_name": name,
                "limit": limit,
                "limit_source": self.in_force.sources.get(name),
                "violated-policies": [self.kind + name],
            },
        )

    def headers(self, now_s: float) -> tuple[list[bytes], list[bytes]]:
        """Return the members of RateLimit-Policy and of RateLimit."""
        states = []
        kind = self.kind.encode()
        if self.requests is not None:
            left = max(0, int(self.requests.left(now_s)))
            more_s = int(-(-self.requests.wait_s(now_s, min(left + 1, self.requests.capacity)) // 1))
            states.append(b'"%srequests";r=%d;t=%d' % (kind, left, more_s))
        if (most := self.in_force.limits.concurrent_requests) is not None:
            states.append(b'"%sconcurrent";r=%d' % (kind, max(0, most - self.under_way)))
        return self.policy, states


def _rate(rate: Rate | None, per_s: float | None, capacity: float, now_s: float) -> Rate | None:
    if per_s is None:
        return None
    if rate is None:
        return Rate(per_s, capacity)
    if (rate.per_s, rate.capacity) != (per_s, capacity):
        rate.change(per_s, capacity, now_s)
    return rate


class RatesState(msgspec.Struct, frozen=True):
    """What is left of a user's rates on this instance; None where there is no limit."""

    requests_left: int | None = None
    requests_under_way: int | None = None
    embedding_tokens_left: int | None = None


class Allowances:
    """See the module. Belongs to one event loop, but for the constructor."""

    def __init__(self, settings: Settings, sources: Sources = SYSTEM) -> None:
        self._sources = sources
        self._refresh_s = settings.limits_refresh_s
        self.defaults = default_limits(settings)
        self._has_defaults = self.defaults != NO_LIMITS
        self.stored = LimitStore(sources)
        self.documents = DocumentCounts(sources)
        self._spending: dict[str, Spending] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no user has a limit, but by the claim of a token."""
        return not (self._has_defaults or self.stored.known)

    async def open(self, bucket: Bucket) -> None:
        """Read the limits that are stored."""
        self.documents.open(bucket)
        await self.stored.open(bucket)

    def watch(self, supervisor: Supervisor) -> None:
        """Start the background task that keeps them current, after ``open``."""
        if self._refresh_s:
            supervisor.start("limits of users", lambda: self.stored.watch(self._refresh_s))

    # --- Limits --------------------------------------------------------------------------------------

    def in_force(self, user_id: str, claimed: Given | None = None) -> InForce:
        """Return the limits of a user, narrowed by the claim of a token."""
        return in_force(self.defaults, self.stored.given(user_id), claimed)

    def limits_of(self, user_id: str) -> Limits:
        """Return the limits of a user, whatever its tokens say. Who runs jobs in the background asks for ``jobs``."""
        return self.in_force(user_id).limits

    def stored_for(self, user_id: str) -> StoredLimits | None:
        """Return what is stored for a user."""
        return self.stored.find(user_id)

    def quota_of(self, user_id: str, claimed: Given | None) -> Quota | None:
        """Return the limits on what a user stores; None if there are none."""
        if self.is_idle and claimed is None:
            return None
        return self.in_force(user_id, claimed).limits.quota

    @asynccontextmanager
    async def room_for_document(self, user_id: str, context: RequestContext, is_new: bool) -> AsyncIterator[None]:
        """Write a source document in the block. Raises QuotaExceeded for a new one beyond the limit."""
        quota = self.quota_of(user_id, context.claimed) if is_new else None
        if quota is None or quota.documents is None:
            yield
            return
        await context.within(self.documents.take(user_id, quota.documents))
        try:
            yield
        except BaseException:
            self.documents.give_back(user_id)
            raise

    # --- Rates ---------------------------------------------------------------------------------------

    def spendings(self, user_id: str, name: str, claimed: Given | None) -> list[Spending]:
        """Return what to count a request of a user for: the user, and tokens of ``name`` if a claim narrows them."""
        found = []
        if not self.is_idle:
            found.append(self._spent(user_id, "", None))
        if claimed:
            found.append(self._spent(f"{user_id}\n{name}", "token-", claimed))
        return found

    def _spent(self, key: str, kind: str, claimed: Given | None) -> Spending:
        spending = self._spending.get(key)
        if spending is None:
            if len(self._spending) >= MAX_REMEMBERED:
                self._forget()
            spending = self._spending[key] = Spending(kind)
        if claimed is not None:
            # Tokens of one name may differ in their claims; the rates are of the name.
            if spending.claimed is not claimed:
                spending.claimed = claimed
                spending.set(in_force(NO_LIMITS, None, claimed), self._sources.monotonic_s())
        elif spending.generation != self.stored.generation:
            spending.generation = self.stored.generation
            spending.set(self.in_force(key), self._sources.monotonic_s())
        return spending

    def _forget(self) -> None:
        now_s = self._sources.monotonic_s()
        idle = [key for key, spending in self._spending.items() if spending.is_idle(now_s)]
        # In parts, so that the next users need no search.
        for key in idle or [key for key, spending in self._spending.items() if not spending.under_way][:_FORGOTTEN]:
            del self._spending[key]

    def enter(self, spendings: list[Spending]) -> None:
        """Count a request as begun. Raises RateLimited, and counts nothing then."""
        now_s = self._sources.monotonic_s()
        for spending in spendings:
            if (refusal := spending.refusal(now_s)) is not None:
                raise refusal
        for spending in spendings:
            spending.under_way += 1
            if spending.requests is not None:
                spending.requests.take(now_s)

    def pause_s(self, spendings: list[Spending]) -> float:
        """Return how long a refusal should wait before it is sent: not the first one, but those that soon follow it."""
        now_s = self._sources.monotonic_s()
        is_first = all(now_s - spending.refused_s >= _REFUSED_S for spending in spendings)
        for spending in spendings:
            spending.refused_s = now_s
        return 0.0 if is_first else PAUSE_S

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._sources.sleep(seconds)

    @staticmethod
    def leave(spendings: list[Spending]) -> None:
        """Count a request as ended."""
        for spending in spendings:
            spending.under_way -= 1

    def headers(self, spendings: list[Spending]) -> list[tuple[bytes, bytes]]:
        """Return the response headers that tell the policies and what is left of them."""
        now_s = self._sources.monotonic_s()
        told = [spending.headers(now_s) for spending in spendings]
        policies = [policy for policies, _ in told for policy in policies]
        if not policies:
            return []
        states = [state for _, states in told for state in states]
        return [(b"ratelimit-policy", b", ".join(policies)), (b"ratelimit", b", ".join(states))]

    def limits_tokens(self, spendings: list[Spending]) -> bool:
        """Whether texts have to be counted before they are embedded."""
        return any(spending.tokens is not None for spending in spendings)

    def take_tokens(self, spendings: list[Spending], count: int) -> None:
        """Take tokens to embed. Raises RateLimited while a user owes what it took before.

        A call may take more than is left: it is owed, and the next call waits for that.
        """
        now_s = self._sources.monotonic_s()
        for spending in spendings:
            if (refusal := spending.token_refusal(now_s)) is not None:
                raise refusal
        for spending in spendings:
            if spending.tokens is not None:
                spending.tokens.take(now_s, count)

    def give_tokens_back(self, spendings: list[Spending], count: int) -> None:
        """Undo a taking of tokens that were not embedded."""
        now_s = self._sources.monotonic_s()
        for spending in spendings:
            if spending.tokens is not None:
                spending.tokens.give_back(now_s, count)

    def rates_of(self, user_id: str) -> RatesState:
        """Return what is left of a user's rates here."""
        if self.is_idle:
            return RatesState()
        now_s, spending = self._sources.monotonic_s(), self._spent(user_id, "", None)
        has_places = spending.in_force.limits.concurrent_requests is not None
        return RatesState(
            requests_left=None if spending.requests is None else max(0, int(spending.requests.left(now_s))),
            requests_under_way=spending.under_way if has_places else None,
            embedding_tokens_left=None if spending.tokens is None else int(spending.tokens.left(now_s)),
        )


def counted_as(user_id: str | None, caller: str) -> str:
    """Return for whom a request is counted: the user of its path, or else its caller."""
    if user_id is None or len(user_id) > MAX_ID_BYTES:
        # No id begins with a line break, so it is no user's.
        return f"\n{caller}"
    return user_id
