"""A write that its caller was told is refused is gone: no later event commits it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.instances import NOTES, Instance, upsert
from tests.support.scripted_s3 import CUT, DEAF, ScriptedS3
from vectorpool.commands import DeleteRecords, Evict, Flush
from vectorpool.errors import OutcomeUnknown
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.faulty import Faults, FaultyBucket

DELETE = DeleteRecords(collection="notes", ids=["a"])
CREATE = frozenset({"create"})
REST = frozenset({"create", "head", "get", "get_range", "list_objects"})


@pytest.mark.parametrize("then", ["write", "evict", "flush"])
@pytest.mark.parametrize("operations", [CREATE, REST], ids=["puts", "everything"])
async def test_a_refused_write_is_gone(tmp_path: Path, bucket: Bucket, operations: frozenset[str], then: str) -> None:
    """After a refusal the right is restored; the next write, flush or eviction commits nothing of what was refused."""
    faulty = FaultyBucket(bucket, Faults())
    async with Instance(tmp_path, faulty) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))
        before = await instance.commit()
        faulty.faults = Faults(denied=1, operations=operations)
        refusal = await instance.refusal(DELETE)
        assert refusal.code == "store-unavailable"
        assert "AccessDenied" in refusal.detail
        faulty.faults = Faults()
        await instance.do({"write": upsert("b"), "evict": Evict(), "flush": Flush()}[then])
        assert set(await instance.records()) == ({"a", "b"} if then == "write" else {"a"})
        assert await instance.commit() == before + (then == "write")
        assert not any(entry.summary.deleted for entry in await instance.history())


async def test_a_refusal_after_a_lost_answer_is_an_unknown_outcome(tmp_path: Path, bucket: Bucket) -> None:
    """The delete landed without an answer and the right was withdrawn then: its caller hears that it is not known."""
    faulty = FaultyBucket(bucket, Faults())
    async with Instance(tmp_path, faulty) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))
        faulty.faults = Faults(after=1, operations=REST)
        assert isinstance(await instance.refusal(DELETE), OutcomeUnknown)
        faulty.faults = Faults(denied=1, operations=REST)
        # What is in doubt stays in doubt under a refusal: it may be there already.
        assert (await instance.refusal(upsert("b"))).code == "store-unavailable"
        faulty.faults = Faults()
        await instance.do(upsert("c"))
        assert set(await instance.records()) == {"c"}


async def test_what_was_acknowledged_outlives_a_refusal(tmp_path: Path, bucket: Bucket) -> None:
    """Under write-back a write was acknowledged before the store refused it: it is committed once it may be."""
    faulty = FaultyBucket(bucket, Faults())
    async with Instance(tmp_path, faulty, durability="write-back", write_back_interval_s=3600) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))
        faulty.faults = Faults(denied=1, operations=CREATE)
        assert (await instance.refusal(Flush())).code == "store-unavailable"
        faulty.faults = Faults()
        await instance.do(upsert("b"))
        await instance.do(Flush())
        assert set(await instance.records()) == {"a", "b"}


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([(403, "AccessDenied")], "store-unavailable"),
        ([(400, "ExpiredToken")], "store-unavailable"),
        ([(404, "NoSuchBucket")], "store-unavailable"),
        ([(507, "XMinioStorageFull")], "store-full"),
        ([(503, "SlowDown"), (403, "AccessDenied")], "outcome-unknown"),
        ([(500, "InternalError"), (400, "ExpiredToken")], "outcome-unknown"),
        ([CUT, (403, "AccessDenied")], None),
        ([(409, "ConditionalRequestConflict")], None),
        ([(503, "SlowDown")] * 3, None),
    ],
    ids=str,
)
async def test_every_answer_of_s3_to_a_commit(tmp_path: Path, answers: list[tuple[int, str]], code: str | None) -> None:
    """Each sequence of answers ends as written, refused or unknown, and what was refused never happens."""
    async with ScriptedS3() as s3, Instance(tmp_path, s3.bucket()) as instance:
        s3.plan("PUT", *answers)
        if code is not None:
            s3.always["PUT"] = answers[-1]
        if code is None:
            await instance.do(NOTES)
        else:
            refusal = await instance.refusal(NOTES)
            assert refusal.code == code
            assert answers[-1][1] in refusal.detail
        assert len(s3.objects) == (code is None)


async def test_a_deaf_store_keeps_a_write_no_longer_than_its_time_limit(tmp_path: Path) -> None:
    """Create, reading back and repeats share one limit; the caller then hears that the outcome is unknown."""
    async with ScriptedS3() as s3:
        options = {"store_timeout_s": 1.0, "store_retries": 20}
        async with Instance(tmp_path, s3.bucket(**options), **options) as instance:
            await instance.do(NOTES)
            for method in ("PUT", "GET", "HEAD"):
                s3.always[method] = DEAF
            started_s = time.monotonic()
            assert isinstance(await instance.refusal(upsert("a")), OutcomeUnknown)
            assert (await instance.refusal(upsert("b"))).code == "store-unavailable"
            assert time.monotonic() - started_s < 10
            s3.always.clear()
            await instance.do(upsert("c"))
            assert len(s3.objects) == 3
