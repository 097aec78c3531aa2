"""The commit log on every real store that runs here: one story, from the first commit to the end."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec
import pytest

from tests.support.commitlogs import USER, Author, contents
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import LostRace, Position
from vectorpool.objects.bucket import Bucket

BLOCK = 4096


async def test_a_vectorstore_lives_and_ends(bucket: Bucket, tmp_path: Path) -> None:
    """Commit, compact, hydrate now and then, scrub, list, end: the same on every store."""
    author = Author(tmp_path, bucket, fanout=3)
    dice = random.Random(1)
    author.write("chroma.sqlite3", dice.randbytes(3_000_000))
    then = {}
    for at in range(10):
        author.write("chroma.sqlite3", dice.randbytes(5_000), offset=at * 50_000)
        author.write("x/data_level0.bin", dice.randbytes(at * 10_000))
        position = await author.commit()
        await author.compact()
        then[position.seq] = contents(author.directory)
    for seq in (10, 4):
        directory, hydrated = await author.hydrate(at=seq)
        assert contents(directory) == then[seq]
    directory, hydrated = await author.hydrate()
    assert contents(directory) == then[10]
    assert hydrated.fetched_objects < 8
    report = await author.log.scrub()
    assert (report.problems, report.newest_intact_seq) == ([], 10)
    assert [info.seq for info in await author.log.entries(limit=3)] == [10, 9, 8]
    assert await author.log.is_newest(author.position)
    assert await author.log.end() == report.objects
    assert not await author.log.is_newest(author.position)
    _, hydrated = await author.hydrate()
    assert hydrated.tombstone


async def test_a_large_object_comes_in_parts(bucket: Bucket, tmp_path: Path) -> None:
    """20 MB that do not compress, through ranged reads of a real store."""
    author = Author(tmp_path, bucket)
    author.write("data_level0.bin", random.Random(1).randbytes(20_000_000))
    await author.commit()
    directory, hydrated = await author.hydrate()
    assert (directory / "data_level0.bin").read_bytes() == (author.directory / "data_level0.bin").read_bytes()
    assert hydrated.fetched_objects == 1


async def test_of_many_writers_one_wins_each_number(bucket: Bucket, tmp_path: Path) -> None:
    """Eight writers offer the same number at once: one is told that it won, and its bytes are what is stored."""
    for number in range(1, 4):
        authors = []
        for at in range(8):
            author = Author(tmp_path / f"{number}-{at}", bucket, user_id=f"{USER}-{number}", writer=f"w{at}")
            author.write("chroma.sqlite3", f"writer {at}".encode())
            authors.append(author)
        outcomes = await asyncio.gather(
            *(author.log.append(author.prepare()) for author in authors), return_exceptions=True
        )
        winners = [at for at, outcome in enumerate(outcomes) if not isinstance(outcome, LostRace)]
        assert len(winners) == 1
        target = tmp_path / f"result-{number}"
        log = CommitLog(bucket, f"{USER}-{number}", settings=authors[0].settings)
        hydrated = await log.hydrate(target)
        assert hydrated is not None
        assert hydrated.position == outcomes[winners[0]]
        assert contents(target) == {"chroma.sqlite3": f"writer {winners[0]}".encode()}


@pytest.mark.parametrize("user_id", ["a b@example.org", "100%", "ünïcödé-名前", "quo'te\"s"])
async def test_odd_user_ids_are_kept_apart(bucket: Bucket, tmp_path: Path, user_id: str) -> None:
    """Whatever id another system gave, its log is found again under it and nowhere else."""
    author = Author(tmp_path, bucket, user_id=user_id)
    author.write("chroma.sqlite3", user_id.encode())
    await author.commit()
    log = CommitLog(bucket, user_id, settings=author.settings)
    assert await log.hydrate(tmp_path / "target") is not None
    assert contents(tmp_path / "target") == {"chroma.sqlite3": user_id.encode()}
    other = CommitLog(bucket, user_id + "x", settings=author.settings)
    assert await other.hydrate(tmp_path / "other") is None


async def test_a_past_is_removed_and_its_backup_restored(bucket: Bucket, tmp_path: Path) -> None:
    """On every store: what is old is buried, a backup stays, comes back as a new commit, and goes to another user."""
    author = Author(tmp_path, bucket)
    author.settings = msgspec.structs.replace(author.settings, retention_s=0)
    then = {}
    for at in range(6):
        author.write("chroma.sqlite3", f"version {at + 1} ".encode() * 2000)
        then[(await author.commit()).seq] = contents(author.directory)
    log = CommitLog(bucket, USER, settings=author.settings)
    await log.tag("second", 2)
    # The store's clock may be a little ahead of ours; nothing but this waiting depends on it.
    for _ in range(100):
        await log.remove_garbage()
        left = [info.seq for info in await log.entries(limit=10)]
        if left == [6, 2]:
            break
        await asyncio.sleep(0.1)
    assert left == [6, 2]
    assert (await log.scrub()).problems == []
    assert not await log.is_newest(Position(3, b""))
    position = await log.restore((await log.get_tag("second")).seq)
    assert position.seq == 7
    await log.fork(f"{USER}-forked", at=2)
    for user in (USER, f"{USER}-forked"):
        target = tmp_path / f"out-{user}"
        assert await CommitLog(bucket, user, settings=author.settings).hydrate(target) is not None
        assert contents(target) == then[2]
    await log.delete_tag("second")
    assert await log.tags() == []
