"""Restore and fork: an old state comes back as a new commit, whatever the newest is like, and goes to other users."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.commitlogs import USER, Author, FaultyBucket, contents, overwrite
from tests.unit.commitlog.test_ending import plain_directory, upload
from tests.unit.commitlog.test_garbage import BLOCK, LOG, WEEK_S, author_of, write
from vectorpool import names
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.warm import WarmTier
from vectorpool.errors import (
    CommitConflict,
    CommitNotFound,
    CorruptObject,
    InvalidId,
    OutcomeUnknown,
    UserNotFound,
    VectorstoreExists,
)
from vectorpool.objects.memory import MemoryBucket


async def test_an_edit_is_part_of_the_restored_and_the_forked_commit(tmp_path: Path) -> None:
    """What it changes in the files is committed with the state, whole; an edit that changes nothing changes nothing."""
    author = author_of(tmp_path)
    then = await write(author, 6)
    (name, before), *_ = then[3].items()
    edits: list[Path] = []

    def edit(directory: Path) -> bool:
        edits.append(directory)
        (directory / name).write_bytes(before[:-1] + b"!")
        (directory / "note").write_bytes(b"restored")
        return True

    edited = then[3] | {name: before[:-1] + b"!", "note": b"restored"}
    await author.log.restore(3, edit=edit)
    await author.log.fork("43", at=3, edit=edit)
    other = Author(tmp_path / "other", author.bucket, user_id="43")
    for each in (author, other):
        directory, _ = await each.hydrate()
        assert contents(directory) == edited
        assert (await each.log.scrub()).problems == []
    await author.log.restore(3, edit=lambda directory: False)
    directory, _ = await author.hydrate()
    assert contents(directory) == then[3]
    assert len(edits) == 2


async def test_a_restored_state_is_a_new_commit(tmp_path: Path) -> None:
    """The number goes up by one, the files are those of then, and the history says where they came from."""
    author = author_of(tmp_path)
    then = await write(author, 6)
    author.write("more/data.bin", random.Random(1).randbytes(9000))
    await author.commit()
    position = await author.log.restore(3)
    assert position.seq == 8
    directory, hydrated = await author.hydrate()
    assert contents(directory) == then[3]
    assert hydrated.position == position
    newest, before = await author.log.entries(limit=2)
    assert (newest.restored_from, newest.summary.restored_from, before.restored_from) == (3, 3, None)
    assert newest.size < 20 * BLOCK
    assert not newest.self_contained
    assert (await author.log.scrub()).problems == []


async def test_a_large_difference_stands_alone(tmp_path: Path) -> None:
    """Where most of the state differs the commit needs nothing below it."""
    author = author_of(tmp_path)
    then = await write(author, 2)
    author.write("chroma.sqlite3", random.Random(4).randbytes(70 * BLOCK))
    await author.commit()
    await author.log.restore(2)
    directory, _ = await author.hydrate()
    assert contents(directory) == then[2]
    assert (await author.log.entries(limit=1))[0].self_contained
    assert (await author.log.scrub()).problems == []


async def test_writing_goes_on_after_a_restore(tmp_path: Path) -> None:
    """Replicas of before lose; those that hydrate write on the restored state; and a restore can be undone."""
    author = author_of(tmp_path)
    then = await write(author, 4)
    before = author.position
    await author.log.restore(2)
    assert not await author.log.is_newest(before)
    _, hydrated = await author.hydrate()
    author.position, author.image = hydrated.position, hydrated.image
    for path, data in then[2].items():
        author.write(path, data)
    author.write("chroma.sqlite3", b"on top", offset=0)
    await author.commit()
    await author.log.restore(4)
    directory, _ = await author.hydrate()
    assert contents(directory) == then[4]
    assert (await author.log.scrub()).problems == []


async def test_restoring_the_newest_changes_nothing(tmp_path: Path) -> None:
    """It is a commit without changes."""
    author = author_of(tmp_path)
    then = await write(author, 2)
    assert (await author.log.restore(2)).seq == 3
    directory, _ = await author.hydrate()
    assert contents(directory) == then[2]


@pytest.mark.parametrize("harm", ["header", "body", "middle"])
async def test_a_damaged_newest_entry_is_restored_over(tmp_path: Path, harm: str) -> None:
    """Scrub names the newest intact commit, and restore gets there: above the damage, needing nothing of it."""
    author = author_of(tmp_path, FaultyBucket(MemoryBucket()))
    then = await write(author, 6)
    key = LOG + names.commit_name(5 if harm == "middle" else 6)
    data = bytearray((await author.bucket.get(key)).data)
    data[40 if harm == "header" else -1] ^= 1
    await overwrite(author.bucket, key, bytes(data))
    with pytest.raises(CorruptObject):
        await author.hydrate()
    report = await author.log.scrub()
    assert report.newest_intact_seq == (4 if harm == "middle" else 5)
    assert (await author.log.restore(report.newest_intact_seq)).seq == 7
    directory, hydrated = await author.hydrate()
    assert contents(directory) == then[report.newest_intact_seq]
    assert hydrated.position.seq == 7
    after = await author.log.scrub()
    assert (after.newest_intact_seq, after.newest_seq) == (7, 7)
    assert [problem.key for problem in after.problems] == [key]
    author.position, author.image = hydrated.position, hydrated.image
    author.write("chroma.sqlite3", contents(directory)["chroma.sqlite3"])
    author.write("chroma.sqlite3", b"again", offset=0)
    await author.commit()
    await author.hydrate()


async def test_a_race_is_run_again(tmp_path: Path) -> None:
    """Another's commit in between does not stop a restore, which then comes after it; but not for ever."""
    faulty = FaultyBucket(MemoryBucket())
    author = author_of(tmp_path, faulty)
    then = await write(author, 3)
    rival = Author(tmp_path / "rival", faulty.inner, writer="rival")
    create = faulty.inner.create
    races = 1

    async def raced(key: str, data: bytes) -> str:
        nonlocal races
        if races:
            races -= 1
            faulty.inner.create = create  # type: ignore[method-assign]
            await rival.log.restore(1)
            faulty.inner.create = raced  # type: ignore[method-assign]
        return await create(key, data)

    faulty.inner.create = raced  # type: ignore[method-assign]
    assert (await author.log.restore(2)).seq == 5
    directory, _ = await author.hydrate()
    assert contents(directory) == then[2]
    races = 100
    with pytest.raises(CommitConflict):
        await author.log.restore(2)


async def test_what_cannot_be_restored(tmp_path: Path) -> None:
    """No vectorstore, no such commit, a deleted one, the tombstone itself: each is said, and nothing written."""
    author = author_of(tmp_path)
    with pytest.raises(UserNotFound):
        await author.log.restore(1)
    await write(author, 3)
    for at in (0, -5, 4):
        with pytest.raises(CommitNotFound):
            await author.log.restore(at)
    await author.log.end()
    for at in (2, 4):
        with pytest.raises(CommitNotFound):
            await author.log.restore(at)
    await author.log.adopt(plain_directory(tmp_path / "plain"))
    for at in (2, 4):
        with pytest.raises(CommitNotFound):
            await author.log.restore(at)
    assert max(info.seq for info in await author.log.entries(limit=9)) == 5


async def test_an_end_cut_short_cannot_be_undone(tmp_path: Path) -> None:
    """Once the tombstone stands nothing is restored from below it, even where it is still there."""
    faulty = FaultyBucket(MemoryBucket())
    author = author_of(tmp_path, faulty)
    await write(author, 3)
    faulty.plan("create", "ok", "lost")
    with pytest.raises(OutcomeUnknown):
        await author.log.end()
    with pytest.raises(CommitNotFound):
        await author.log.restore(3)


async def test_a_time_finds_the_commit_of_then(tmp_path: Path) -> None:
    """The newest commit not younger than a time; within the retention time there always is one."""
    author = author_of(tmp_path)
    start_ms = author.sources.now_ms()
    await write(author, 8, apart_s=100.0)
    for at in range(800):
        assert await author.log.seq_at(start_ms + at * 1000) == at // 100 + 1
    with pytest.raises(CommitNotFound):
        await author.log.seq_at(start_ms - 1)
    await overwrite(author.bucket, LOG + names.commit_name(5), b"damaged")
    assert await author.log.seq_at(start_ms + 350_000) == 4
    author.sources.slept_s += WEEK_S - 350.0
    await author.log.remove_garbage()
    cutoff_ms = author.sources.now_ms() - int(WEEK_S * 1000)
    assert await author.log.seq_at(cutoff_ms) >= 1


async def test_a_fork_is_a_vectorstore_of_its_own(tmp_path: Path) -> None:
    """The state of the newest or of an old commit becomes commit 1 of another user, who then goes another way."""
    author = author_of(tmp_path)
    then = await write(author, 4)
    assert (await author.log.fork("43")).seq == 1
    assert (await author.log.fork("44", at=2)).seq == 1
    for user, seq in (("43", 4), ("44", 2)):
        log = CommitLog(author.bucket, user, settings=author.settings)
        target = tmp_path / user
        assert await log.hydrate(target) is not None
        assert contents(target) == then[seq]
        assert (await log.scrub()).problems == []
    await author.log.end()
    log = CommitLog(author.bucket, "43", settings=author.settings)
    assert await log.hydrate(tmp_path / "later") is not None
    with pytest.raises(UserNotFound):
        await author.log.fork("45")


async def test_a_fork_needs_an_empty_place(tmp_path: Path) -> None:
    """A user with a vectorstore, or with a plain directory, keeps it; a deleted one takes the next number."""
    author = author_of(tmp_path)
    await write(author, 2)
    with pytest.raises(VectorstoreExists):
        await author.log.fork(USER)
    await author.log.fork("43")
    with pytest.raises(VectorstoreExists):
        await author.log.fork("43")
    await CommitLog(author.bucket, "43", settings=author.settings).end()
    assert (await author.log.fork("43")).seq == 3
    await author.bucket.put("users/44/vectorstore/chroma.sqlite3", b"plain")
    with pytest.raises(VectorstoreExists):
        await author.log.fork("44")
    with pytest.raises(InvalidId):
        await author.log.fork("../44")
    for at in (0, 9):
        with pytest.raises(CommitNotFound):
            await author.log.fork("45", at=at)
    assert await CommitLog(author.bucket, "45", settings=author.settings).entries(limit=1) == []


async def test_a_plain_directory_is_forked(tmp_path: Path) -> None:
    """What an older tool left can be forked before anybody opened it."""
    author = Author(tmp_path, warm=WarmTier(tmp_path / "warm", 10**8))
    files = await upload(author, plain_directory(tmp_path / "plain"))
    await author.log.fork("43")
    assert await CommitLog(author.bucket, "43", settings=author.settings).hydrate(tmp_path / "out") is not None
    assert contents(tmp_path / "out") == files


async def test_a_fork_of_unknown_outcome_says_so(tmp_path: Path) -> None:
    """If the store never says whether the one create took effect, neither does the fork."""
    faulty = FaultyBucket(MemoryBucket())
    author = author_of(tmp_path, faulty)
    await write(author, 1)
    faulty.plan("create", *["lost"] * 9)
    with pytest.raises(OutcomeUnknown):
        await author.log.fork("43")
