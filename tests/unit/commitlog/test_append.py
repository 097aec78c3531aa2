"""Append: who won a number is known before anything else is offered for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commitlogs import USER, Author, FaultyBucket, contents, overwrite
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import LostRace
from vectorpool.errors import CorruptObject, OutcomeUnknown, StoreUnavailable
from vectorpool.objects.memory import MemoryBucket


@pytest.fixture
def faulty() -> FaultyBucket:
    return FaultyBucket(MemoryBucket())


@pytest.fixture
def author(tmp_path: Path, faulty: FaultyBucket) -> Author:
    made = Author(tmp_path / "one", faulty)
    made.write("chroma.sqlite3", b"first")
    return made


async def test_a_commit_is_one_create(author: Author, faulty: FaultyBucket) -> None:
    """Without trouble an append is one request."""
    position = await author.commit()
    assert position.seq == 1
    assert [method for method, _ in faulty.calls] == ["create"]


async def test_a_lost_answer_is_found_to_be_success(author: Author, faulty: FaultyBucket) -> None:
    """The object was written and the answer lost: reading the writer id back says committed."""
    faulty.plan("create", "done")
    await author.commit()
    assert [method for method, _ in faulty.calls] == ["create", "head", "get"]
    assert list(await author.objects()) == ["999999999998"]


async def test_a_lost_request_is_sent_again(author: Author, faulty: FaultyBucket) -> None:
    """Nothing was written: the same bytes are offered again."""
    faulty.plan("create", "lost", "lost")
    pending = author.prepare()
    position = await author.log.append(pending)
    assert position == pending.position
    assert (await faulty.get(pending.key)).data == pending.data


async def test_the_first_request_may_arrive_late(author: Author, faulty: FaultyBucket) -> None:
    """A request thought lost lands just before the second: "exists" turns out to be one's own."""
    pending = author.prepare()
    inner = faulty.inner
    assert isinstance(inner, MemoryBucket)
    faulty.plan("create", "lost", lambda: inner._store(pending.key, pending.data))
    assert await author.log.append(pending) == pending.position


async def test_another_writer_wins(author: Author, faulty: FaultyBucket, tmp_path: Path) -> None:
    """Of two commits of one number one is stored and the other learns that it lost, whatever answers it got."""
    rival = Author(tmp_path / "two", faulty, writer="rival")
    rival.write("chroma.sqlite3", b"rival")
    mine, theirs = author.prepare(), rival.prepare()
    await rival.log.append(theirs)
    with pytest.raises(LostRace) as lost:
        await author.log.append(mine)
    assert lost.value.seq == 1
    faulty.plan("create", "lost")
    with pytest.raises(LostRace):
        await author.log.append(mine)
    directory, _ = await author.hydrate()
    assert contents(directory) == {"chroma.sqlite3": b"rival"}


async def test_an_unknown_outcome_is_said_and_can_be_resolved(author: Author, faulty: FaultyBucket) -> None:
    """While the store is silent the outcome is unknown, after a bounded time; the same commit succeeds later, once."""
    pending = author.prepare()
    faulty.plan("create", "done", "lost", "lost", "lost")
    faulty.plan("head", "lost", "lost", "lost", "lost")
    with pytest.raises(OutcomeUnknown, match="not known whether commit 1 is durable"):
        await author.log.append(pending)
    assert 0 < author.sources.slept_s < 10
    assert await author.log.append(pending) == pending.position
    assert list(await author.objects()) == ["999999999998"]


async def test_a_refusal_is_certain_only_if_nothing_was_sent(author: Author, faulty: FaultyBucket) -> None:
    """Denied at once means not written; denied after a lost request leaves the outcome unknown."""
    pending = author.prepare()
    faulty.plan("create", "denied")
    with pytest.raises(StoreUnavailable, match="Nothing was written"):
        await author.log.append(pending)
    faulty.plan("create", "lost", "denied")
    with pytest.raises(OutcomeUnknown):
        await author.log.append(pending)


async def test_a_number_taken_by_garbage_is_named(author: Author, faulty: FaultyBucket) -> None:
    """A foreign object under the number is neither one's own nor another's commit: it is reported."""
    pending = author.prepare()
    await overwrite(faulty, pending.key, b"not ours" * 10)
    with pytest.raises(CorruptObject, match="does not begin as a log object"):
        await author.log.append(pending)


async def test_is_newest_asks_for_the_next_number_once(author: Author, faulty: FaultyBucket, tmp_path: Path) -> None:
    """Freshness is one HEAD of n + 1, and an unanswered one is not taken for freshness."""
    first = await author.commit()
    faulty.calls.clear()
    reader = CommitLog(faulty, USER, settings=author.settings)
    assert await reader.is_newest(first)
    assert [method for method, _ in faulty.calls] == ["head"]
    await author.commit()
    assert not await reader.is_newest(first)
    faulty.plan("head", "lost")
    with pytest.raises(StoreUnavailable):
        await reader.is_newest(author.position)
