"""Revoked tokens: refused on every instance within a minute, also when the store fails now and then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.tokens import SECRET, Clock, claims_with, opened, own_token, said
from vectorpool.errors import LimitExceeded, NoTokenSecret, StoreUnavailable
from vectorpool.identity import revocations as module
from vectorpool.identity.authority import Authority
from vectorpool.identity.caller import Caller
from vectorpool.identity.claims import LEEWAY_S
from vectorpool.identity.revocations import Revocations
from vectorpool.names import parse_revocation_key, revocation_key, revocations_prefix
from vectorpool.objects.bucket import BucketUnavailable, ObjectInfo
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings
from vectorpool.supervision import Supervisor


class FailingBucket(MemoryBucket):
    """A bucket whose listings fail while a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.listings = 0

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        self.listings += 1
        if self.fails:
            raise BucketUnavailable("no answer")
        return await super().list_objects(prefix, limit=limit, after=after)


def token(token_id: Any = "t1", **claims: Any) -> bytes:
    return own_token(claims_with(jti=token_id, exp=4e9, **claims))


async def pass_minute(clock: Clock) -> None:
    began_s = clock.now_s
    while clock.now_s - began_s < 60:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("fails", [False, True])
async def test_another_instance_refuses_within_a_minute(fails: bool) -> None:
    """What one instance revokes, it refuses at once and the other within a minute, with one failure on the way."""
    bucket, clock, other_clock = FailingBucket(), Clock(), Clock()
    one = await opened(clock, bucket, token_secret=SECRET)
    other = await opened(other_clock, bucket, token_secret=SECRET)
    for authority in (one, other):
        assert isinstance(await said(authority, token()), Caller)
    supervisor = Supervisor(other_clock)
    await one.revoke("t1", 4e9)
    assert "revoked" in str(await said(one, token()))
    bucket.fails = fails
    other.watch(supervisor)
    while fails and bucket.listings < 3:
        await asyncio.sleep(0.001)
    bucket.fails = False
    await pass_minute(other_clock)
    await supervisor.stop(1.0)
    assert "revoked" in str(await said(other, token()))
    assert isinstance(await said(other, token("t2")), Caller)
    assert isinstance(await said(other, token(None)), Caller), "a token without an id cannot be revoked"


async def test_a_start_reads_the_list() -> None:
    """An instance that starts later refuses from its first request on, by any spelling of the same token."""
    bucket = MemoryBucket()
    await (await opened(Clock(), bucket, token_secret=SECRET)).revoke("t1", None)
    later = await opened(Clock(), bucket, token_secret=SECRET)
    for each in (token(), token(note="another"), token() + b"==" if len(token()) % 4 else token()):
        assert not isinstance(await said(later, each), Caller)


async def test_a_store_that_fails_keeps_what_was_known() -> None:
    """While the store does not answer, a revoked token stays refused, and others pass."""
    bucket, clock = FailingBucket(), Clock()
    authority = await opened(clock, bucket, token_secret=SECRET)
    await authority.revoke("t1", None)
    revocations = authority._revocations
    assert revocations is not None
    await revocations.load()
    bucket.fails = True
    with pytest.raises(StoreUnavailable):
        await revocations.load()
    assert "revoked" in str(await said(authority, token()))
    assert isinstance(await said(authority, token("t2")), Caller)


async def test_ids_of_any_text_are_revoked() -> None:
    """An id that could be no key, with slashes or half a pair, is revoked like any other, and no other is."""
    bucket = MemoryBucket()
    revocations = Revocations(bucket, Clock())
    for token_id in ("../../users/alice", "a/b", "é" * 200, "\ud800", "x" * 256):
        await revocations.revoke(token_id, None)
        again = Revocations(bucket, Clock())
        await again.load()
        assert again.has(token_id) and not again.has(token_id + " ")
    assert all(info.key.startswith(".vectorpool/revocations/") for info in await bucket.list_objects("", limit=100))


async def test_more_than_a_page_of_revocations(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pages of the list are read; what has expired is left out, and removed a day later."""
    monkeypatch.setattr(module, "_PAGE", 3)
    bucket, clock = MemoryBucket(), Clock()
    revocations = Revocations(bucket, clock)
    for number in range(10):
        await revocations.revoke(f"t{number}", clock.now_s + 100 * number)
    fresh = Revocations(bucket, clock)
    await fresh.load()
    assert all(fresh.has(f"t{number}") for number in range(10))
    clock.now_s += 500 + LEEWAY_S
    await fresh.load()
    assert [fresh.has(f"t{number}") for number in range(10)] == [False] * 5 + [True] * 5
    clock.now_s += 86_400
    for _ in range(4):
        await fresh._remove_expired()
    left = {parse_revocation_key(info.key) for info in await bucket.list_objects(revocations_prefix(), limit=100)}
    assert len(left) == 4 and None not in left, "the sixth expired while the leeway was passing"


async def test_a_listing_under_way_loses_nothing() -> None:
    """A token that is revoked while the list is being read stays revoked when that reading ends without it."""
    bucket, clock = MemoryBucket(), Clock()
    revocations = Revocations(bucket, clock)
    listed = bucket.list_objects

    async def late(prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        page = await listed(prefix, limit=limit, after=after)
        await revocations.revoke("t1", None)
        return page

    bucket.list_objects = late  # type: ignore[method-assign]
    await revocations.load()
    assert revocations.has("t1")


async def test_the_list_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound no token is revoked: the error says to change the key instead."""
    monkeypatch.setattr(module, "MAX_REVOKED", 2)
    revocations = Revocations(MemoryBucket(), Clock())
    await revocations.revoke("a", None)
    await revocations.revoke("b", None)
    with pytest.raises(LimitExceeded, match="key"):
        await revocations.revoke("c", None)


async def test_where_no_signed_token_is_valid_none_is_revoked() -> None:
    """Without a key there is no list of revoked tokens."""
    authority = Authority(Settings(), Clock())
    await authority.open(MemoryBucket())
    with pytest.raises(NoTokenSecret):
        await authority.revoke("t1", None)


def test_a_key_holds_the_time_and_the_hash() -> None:
    """Keys sort by the time of expiry, and a foreign object in the prefix is no revocation."""
    keys = [revocation_key("a", seconds) for seconds in (-5, 0, 5, 1_800_000_000, 10**15)]
    assert keys == sorted(keys)
    for foreign in ("", "x", "12-ab", f"{0:012d}-{'g' * 64}", f"{0:011d}-{'a' * 64}", f"{0:012d}-{'a' * 64}-base"):
        assert parse_revocation_key(revocations_prefix() + foreign) is None
