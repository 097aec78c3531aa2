"""The wrappers of a bucket: counting, failing on purpose, and the probe that refuses a store."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.seeded import SeededSources
from vectorpool.errors import StoreRefused
from vectorpool.objects.bucket import BucketDenied, BucketUnavailable, ObjectExists, ObjectMissing
from vectorpool.objects.clocked import ClockedBucket
from vectorpool.objects.faulty import Faults, FaultyBucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.metered import MeteredBucket, OperationCount
from vectorpool.objects.probe import PROBE_PREFIX, probe
from vectorpool.telemetry.parts import StoreClock


async def test_requests_and_bytes_are_counted_by_operation() -> None:
    """Each call counts once; bytes are those of bodies; a taken or missing key is an answer, not an error."""
    bucket = MeteredBucket(MemoryBucket())
    await bucket.create("a/k", b"12345")
    with pytest.raises(ObjectExists):
        await bucket.create("a/k", b"123")
    await bucket.put("a/l", b"1")
    await bucket.get("a/k")
    await bucket.get_range("a/k", 1, 3)
    with pytest.raises(ObjectMissing):
        await bucket.head("a/none")
    await bucket.list_objects("a/", limit=3)
    await bucket.list_prefixes("")
    await bucket.delete("a/k")
    counts = bucket.counts()
    assert counts["create"] == OperationCount(requests=2, bytes_sent=8)
    assert counts["put"] == OperationCount(requests=1, bytes_sent=1)
    assert counts["get"] == OperationCount(requests=1, bytes_received=5)
    assert counts["get_range"] == OperationCount(requests=1, bytes_received=2)
    for name in ("head", "list_objects", "list_prefixes", "delete"):
        assert counts[name] == OperationCount(requests=1)
    assert bucket.total() == OperationCount(requests=9, errors=0, bytes_sent=9, bytes_received=7)
    traffic = bucket.traffic()
    assert traffic.requests == {name: count.requests for name, count in counts.items() if count.requests}
    assert (traffic.failed, traffic.bytes_sent, traffic.bytes_received) == (0, 9, 7)


async def test_what_is_seen_at_once_counts_as_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that shows that a key is free is a HEAD in the counts and on the clock; one that says nothing is none."""
    inner, sources = MemoryBucket(), SeededSources()
    metered, clock = MeteredBucket(inner), StoreClock(sources)
    bucket = ClockedBucket(metered, clock, sources)
    assert not bucket.is_surely_absent("k")
    assert metered.counts()["head"] == OperationCount()
    monkeypatch.setattr(inner, "is_surely_absent", lambda key: True)
    assert bucket.is_surely_absent("k")
    assert metered.counts()["head"] == OperationCount(requests=1)
    assert [(call.name, call.outcome) for call in clock.calls] == [("store head", "missing")]
    assert not FaultyBucket(inner, Faults(), sources=sources).is_surely_absent("k"), "the question itself may fail"


async def test_lost_answers_are_counted_as_errors() -> None:
    """A call that ends without an answer counts as a request and as an error."""
    bucket = MeteredBucket(FaultyBucket(MemoryBucket(), Faults(before=1), sources=SeededSources()))
    with pytest.raises(BucketUnavailable):
        await bucket.get("k")
    assert bucket.counts()["get"] == OperationCount(requests=1, errors=1)


async def test_a_fault_before_the_effect_leaves_no_trace() -> None:
    """Refused and throttled writes do not happen."""
    inner = MemoryBucket()
    for faults in (Faults(before=1), Faults(throttled=1)):
        with pytest.raises(BucketUnavailable):
            await FaultyBucket(inner, faults, sources=SeededSources()).create("k", b"1")
    assert await inner.list_objects("", limit=1) == []


async def test_a_fault_after_the_effect_loses_only_the_answer() -> None:
    """The write happened and its writer does not know: a second create meets the first."""
    inner = MemoryBucket()
    faulty = FaultyBucket(inner, Faults(after=1, operations=frozenset({"create"})), sources=SeededSources())
    with pytest.raises(BucketUnavailable):
        await faulty.create("k", b"1")
    assert (await faulty.get("k")).data == b"1"
    with pytest.raises(ObjectExists):
        await faulty.create("k", b"2")


async def test_a_delayed_write_lands_after_it_was_given_up() -> None:
    """The writer is told nothing; the write lands later, unless the key was taken meanwhile."""
    inner = MemoryBucket()
    faulty = FaultyBucket(inner, Faults(delayed=1, delay_s=3600), sources=SeededSources())
    for key in ("free", "taken"):
        with pytest.raises(BucketUnavailable):
            await faulty.create(key, b"late")
    assert faulty.pending == 2
    await inner.create("taken", b"in time")
    await faulty.settle()
    assert faulty.pending == 0
    assert (await inner.get("free")).data == b"late"
    assert (await inner.get("taken")).data == b"in time"


async def test_a_power_cut_drops_delayed_writes() -> None:
    """Closing the bucket while a write is under way ends the write."""
    inner = MemoryBucket()
    faulty = FaultyBucket(inner, Faults(delayed=1, delay_s=3600))
    with pytest.raises(BucketUnavailable):
        await faulty.put("k", b"late")
    await faulty.close()
    await asyncio.sleep(0)
    assert faulty.pending == 0
    assert await inner.list_objects("", limit=1) == []


async def test_a_truncated_body_is_a_shorter_prefix() -> None:
    """A truncated read returns fewer bytes from the start, and says nothing of it."""
    inner = MemoryBucket()
    data = bytes(range(200))
    await inner.create("k", data)
    faulty = FaultyBucket(inner, Faults(truncated=1), sources=SeededSources())
    for body in [(await faulty.get("k")).data, await faulty.get_range("k", 0, 200)]:
        assert len(body) < 200
        assert data.startswith(body)


async def test_a_seed_replays_its_faults() -> None:
    """The same seed gives the same outcome of each of 300 calls; another seed gives others."""

    async def history(seed: int) -> list[str]:
        faults = Faults(before=0.2, throttled=0.1, delayed=0.2, after=0.2, latency_s=2, delay_s=60)
        bucket = FaultyBucket(MemoryBucket(), faults, sources=SeededSources(seed))
        outcomes = []
        for number in range(300):
            try:
                outcomes.append(await bucket.create(f"k{number % 50}", b"%d" % number))
            except (BucketUnavailable, ObjectExists) as error:
                outcomes.append(str(error))
        await bucket.settle()
        return outcomes

    first = await history(1)
    assert first == await history(1)
    assert first != await history(2)
    assert len({outcome.partition(": ")[2] for outcome in first}) > 3


class Forgetful(MemoryBucket):
    """A store that ignores create's condition."""

    async def create(self, key: str, data: bytes) -> str:
        return await self.put(key, data)


class Lying(MemoryBucket):
    """A store that reports the refusal and overwrites nevertheless."""

    async def create(self, key: str, data: bytes) -> str:
        taken = any(info.key == key for info in await self.list_objects("", limit=100))
        etag = await self.put(key, data)
        if taken:
            raise ObjectExists(key)
        return etag


@pytest.mark.parametrize("kind", [Forgetful, Lying])
async def test_a_store_without_create_if_absent_is_refused(kind: type[MemoryBucket]) -> None:
    """A store that overwrites on create is refused, and the probe's object is gone."""
    bucket = kind()
    with pytest.raises(StoreRefused, match="create-if-absent"):
        await probe(bucket)
    assert await bucket.list_objects(PROBE_PREFIX, limit=5) == []


async def test_a_lost_answer_does_not_fool_the_probe() -> None:
    """A probe whose own first create is retried, and meets itself, still accepts the store."""

    class Retrying(MemoryBucket):
        async def create(self, key: str, data: bytes) -> str:
            await super().create(key, data)
            raise ObjectExists(key)

    await probe(Retrying())


async def test_denied_and_silent_stores_are_refused_in_one_sentence() -> None:
    """What the store says is passed on, together with what to change."""

    class Denied(MemoryBucket):
        async def create(self, key: str, data: bytes) -> str:
            raise BucketDenied("AccessDenied")

    class Silent(MemoryBucket):
        async def create(self, key: str, data: bytes) -> str:
            await asyncio.sleep(3600)
            return ""

    with pytest.raises(StoreRefused, match=r"AccessDenied.*Check the credentials"):
        await probe(Denied())
    with pytest.raises(StoreRefused, match=r"does not answer.*VECTORPOOL_S3_ENDPOINT"):
        await probe(FaultyBucket(MemoryBucket(), Faults(before=1), sources=SeededSources()))
    with pytest.raises(StoreRefused, match=r"within 0.05 s"):
        await probe(Silent(), timeout_s=0.05)
