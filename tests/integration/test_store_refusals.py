"""What a store's errors mean: what was refused is gone, what may still happen is said to be unknown."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from tests.support.scripted_s3 import CUT, DEAF, ScriptedS3
from vectorpool.objects.bucket import BucketDenied, BucketFull, BucketMissing, BucketUnavailable, ObjectExists
from vectorpool.objects.metered import MeteredBucket

REFUSALS = [
    (400, "ExpiredToken"),
    (400, "InvalidToken"),
    (403, "RequestTimeTooSkewed"),
    (403, "AccessDenied"),
    (403, "SignatureDoesNotMatch"),
    (401, "Unauthorized"),
]
AGAIN = [
    (409, "ConditionalRequestConflict"),
    (409, "OperationAborted"),
    (400, "RequestTimeout"),
    (429, "TooManyRequests"),
    (500, "InternalError"),
    (503, "SlowDown"),
    CUT,
]


@pytest.mark.parametrize(("status", "code"), REFUSALS)
async def test_a_refusal_is_told_in_the_words_of_the_store(status: int, code: str) -> None:
    """Each operation that is refused says the store's code and message, at once and as a refusal."""
    async with ScriptedS3() as s3:
        bucket = s3.bucket()
        await bucket.create("k", b"v")
        for method in ("PUT", "GET", "HEAD", "POST"):
            s3.always[method] = (status, code)
        s3.requests.clear()
        for call in (
            lambda: bucket.create("c", b"v"),
            lambda: bucket.put("k", b"w"),
            lambda: bucket.get("k"),
            lambda: bucket.get_range("k", 0, 1),
            lambda: bucket.head("k"),
            lambda: bucket.list_objects("p/", limit=1),
            lambda: bucket.delete("k"),
        ):
            with pytest.raises(BucketDenied, match=f"{code}: The words of {code}"):
                await call()
        assert list(s3.objects) == ["k"]


async def test_a_missing_bucket_is_told_as_such() -> None:
    """A bucket that was deleted under a running instance is named."""
    async with ScriptedS3() as s3:
        bucket = s3.bucket()
        s3.always["PUT"] = (404, "NoSuchBucket")
        with pytest.raises(BucketMissing, match="the bucket does not exist"):
            await bucket.create("k", b"v")


@pytest.mark.parametrize("answer", [(507, "XMinioStorageFull"), (403, "QuotaExceeded")])
async def test_a_full_store_is_told_as_such(answer: tuple[int, str]) -> None:
    """A store without room says so at once, in its own words."""
    async with ScriptedS3() as s3:
        bucket = s3.bucket()
        s3.always["PUT"] = answer
        with pytest.raises(BucketFull, match=f"The words of {answer[1]}"):
            await bucket.create("k", b"v")


@pytest.mark.parametrize("answer", AGAIN, ids=str)
async def test_a_store_that_says_again_is_asked_again(answer: tuple[int, str]) -> None:
    """An answer that asks for another attempt is no lost race: the second attempt writes, or meets the first."""
    async with ScriptedS3() as s3:
        bucket = s3.bucket()
        s3.plan("PUT", answer)
        try:
            await bucket.create("k", b"v")
        except ObjectExists:
            assert answer == CUT
        assert s3.objects == {"k": b"v"}
        assert s3.requests == ["PUT", "PUT"]


@pytest.mark.parametrize("first", AGAIN, ids=str)
async def test_a_refusal_after_an_attempt_without_an_answer_is_no_certainty(first: tuple[int, str]) -> None:
    """The first attempt may have its effect, so the refusal of the second does not say that nothing was written."""
    async with ScriptedS3() as s3:
        bucket = s3.bucket()
        s3.plan("PUT", first, (403, "AccessDenied"))
        with pytest.raises(BucketUnavailable, match="after an attempt without an answer"):
            await bucket.create("k", b"v")
        assert s3.objects == ({"k": b"v"} if first == CUT else {})


@pytest.mark.parametrize("answer", [DEAF, (503, "SlowDown")], ids=str)
async def test_one_time_limit_covers_all_attempts(answer: tuple[int, str]) -> None:
    """A deaf or failing store keeps an operation no longer than store_timeout_s, whatever the number of retries."""
    async with ScriptedS3() as s3:
        bucket = s3.bucket(store_timeout_s=1.0, store_retries=20)
        for method in ("PUT", "GET", "HEAD", "POST"):
            s3.always[method] = answer
        started_s = time.monotonic()
        calls = [
            bucket.create("k", b"v"),
            bucket.put("k", b"v"),
            bucket.get("k"),
            bucket.get_range("k", 0, 1),
            bucket.head("k"),
            bucket.list_objects("p/", limit=1),
            bucket.delete("k"),
        ]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, BucketUnavailable) for error in errors), errors
        # Twice the limit, so that a busy machine does not fail it; 20 retries alone would take much longer.
        assert time.monotonic() - started_s < 10


class _Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def monotonic_s(self) -> float:
        return self.at_s


async def test_refusals_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A refusal is logged at ERROR in the store's words; those of the next minute are counted in the next line."""
    clock = _Clock()
    async with ScriptedS3() as s3:
        bucket = MeteredBucket(s3.bucket(), clock)  # type: ignore[arg-type]
        s3.always["PUT"] = (400, "ExpiredToken")
        with caplog.at_level(logging.ERROR, logger="vectorpool.objects"):
            for at_s in (0.0, 1.0, 59.0, 61.0):
                clock.at_s = at_s
                with pytest.raises(BucketDenied):
                    await bucket.create("k", b"v")
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 2
    assert all("ExpiredToken: The words of ExpiredToken." in line for line in lines)
    assert "2 refusals before this one" in lines[1]
