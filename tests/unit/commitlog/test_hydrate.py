"""Hydrate: two round trips, bounded parts, an empty directory after any failure, and the warm tier's part in it."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.support.commitlogs import USER, Author, FaultyBucket, contents, overwrite
from vectorpool import names
from vectorpool.commitlog import fetch
from vectorpool.commitlog.format import GRAVE
from vectorpool.commitlog.image import scan
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.warm import WarmTier
from vectorpool.errors import BrokenLog, CommitNotFound, CorruptObject, StoreUnavailable
from vectorpool.objects.bucket import Body, ObjectInfo
from vectorpool.objects.memory import MemoryBucket


class SlowBucket(MemoryBucket):
    """Every request takes a while; ``rounds`` is the longest run of requests of which each began after one ended."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = False
        self.rounds = 0

    async def _wait(self) -> None:
        if self.slow:
            mine = self.rounds + 1
            await asyncio.sleep(0.05)
            self.rounds = max(self.rounds, mine)

    async def get(self, key: str) -> Body:
        await self._wait()
        return await super().get(key)

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        await self._wait()
        return await super().get_range(key, start, end)

    async def head(self, key: str) -> ObjectInfo:
        await self._wait()
        return await super().head(key)

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        await self._wait()
        return await super().list_objects(prefix, limit=limit, after=after)


async def story(author: Author, commits: int, seed: int = 1, size: int = 200_000) -> dict[int, dict[str, bytes]]:
    """Commit and compact; return what the directory held at each number."""
    dice = random.Random(seed)
    author.write("chroma.sqlite3", dice.randbytes(size))
    then = {}
    for _ in range(commits):
        author.write("chroma.sqlite3", dice.randbytes(500), offset=dice.randrange(size))
        author.write("x/data.bin", dice.randbytes(dice.randrange(10_000)))
        position = await author.commit()
        await author.compact()
        then[position.seq] = contents(author.directory)
    return then


async def test_a_user_without_a_log_has_no_vectorstore(tmp_path: Path) -> None:
    """Nothing stored is None, not an error, and leaves an empty directory."""
    author = Author(tmp_path)
    assert await author.log.hydrate(tmp_path / "target") is None
    assert contents(tmp_path / "target") == {}


async def test_a_long_history_hydrates_in_two_round_trips(tmp_path: Path) -> None:
    """However long the history, a hydrate is one listing and then parallel reads."""
    bucket = SlowBucket()
    author = Author(tmp_path, bucket, fanout=4)
    then = await story(author, 150, size=2_000_000)
    bucket.slow = True
    directory, hydrated = await author.hydrate()
    assert contents(directory) == then[150]
    assert bucket.rounds == 2
    assert 2 < hydrated.fetched_objects <= 2 + 3 * 4 + 4


async def test_large_objects_come_in_parallel_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object larger than a part is read by ranges, still in two round trips where the window holds it."""
    monkeypatch.setattr(fetch, "PART_BYTES", 300_000)
    monkeypatch.setattr(fetch, "FIRST_BYTES", 100_000)
    bucket = SlowBucket()
    author = Author(tmp_path, bucket)
    author.write("big", random.Random(1).randbytes(1_000_000))
    await author.commit()
    author.write("big", b"changed", offset=500_000)
    await author.commit()
    bucket.slow = True
    directory, hydrated = await author.hydrate()
    assert contents(directory) == contents(author.directory)
    assert hydrated.fetched_objects == 2
    assert bucket.rounds == 2


async def test_objects_of_many_frames_and_parts_come_whole(tmp_path: Path) -> None:
    """30 MB through real parts and frames, with superseded blocks, equal the directory byte for byte."""
    author = Author(tmp_path)
    author.write("big", random.Random(1).randbytes(30_000_001))
    await author.commit()
    author.write("big", random.Random(2).randbytes(9_000_000), offset=10_000_000)
    await author.commit()
    directory, hydrated = await author.hydrate()
    assert scan(directory) == author.image == hydrated.image
    assert (directory / "big").read_bytes() == (author.directory / "big").read_bytes()


async def test_beginnings_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the beginnings of all objects would be too much to hold, less of each is read at first; nothing is lost."""
    monkeypatch.setattr(fetch, "HOLD_BYTES", 100_000)
    monkeypatch.setattr(fetch, "HEAD_BYTES", 1_000)
    author = Author(tmp_path, fanout=3)
    then = await story(author, 8, size=400_000)
    directory, _ = await author.hydrate()
    assert contents(directory) == then[8]


async def test_past_commits_are_there_and_others_are_not(tmp_path: Path) -> None:
    """Any commit by its number; no other number."""
    author = Author(tmp_path, fanout=2)
    then = await story(author, 9)
    for seq in (1, 5, 9):
        directory, hydrated = await author.hydrate(at=seq)
        assert (contents(directory), hydrated.position.seq) == (then[seq], seq)
    for seq in (-1, 0, 10, 10**12):
        with pytest.raises(CommitNotFound, match=str(seq)):
            await author.log.hydrate(tmp_path / "none", at=seq)


async def test_a_hydrate_needs_an_empty_directory(tmp_path: Path) -> None:
    """A state is never built over what is there, and what is there is not removed."""
    author = Author(tmp_path)
    await story(author, 1)
    with pytest.raises(ValueError, match="not empty"):
        await author.log.hydrate(author.directory)
    assert contents(author.directory)


async def test_a_missing_commit_is_named_as_a_gap(tmp_path: Path) -> None:
    """Without commit 3 and a base above it, the newest cannot be had, and the error names the number."""
    author = Author(tmp_path)
    await story(author, 5)
    await author.bucket.delete(f"users/{USER}/vectorstore/log/999999999996")
    with pytest.raises(BrokenLog, match=r"commit 3 .*999999999996.* is missing"):
        await author.log.hydrate(tmp_path / "target")
    assert contents(tmp_path / "target") == {}


async def test_an_object_of_another_log_is_refused(tmp_path: Path) -> None:
    """An intact commit of another user under this user's number is found by its parent's hash."""
    author, other = Author(tmp_path / "a"), Author(tmp_path / "b", writer="other")
    await story(author, 4)
    await story(other, 4, seed=2)
    key = f"users/{USER}/vectorstore/log/999999999996"
    await overwrite(author.bucket, key, (await other.bucket.get(key)).data)
    with pytest.raises(BrokenLog, match="names another parent"):
        await author.hydrate()


async def test_an_object_under_another_number_is_refused(tmp_path: Path) -> None:
    """A commit copied to the next number does not pass for it."""
    author = Author(tmp_path)
    await story(author, 3)
    prefix = f"users/{USER}/vectorstore/log/"
    await author.bucket.put(prefix + "999999999995", (await author.bucket.get(prefix + "999999999996")).data)
    with pytest.raises(CorruptObject, match="not what its name says"):
        await author.hydrate()


async def test_foreign_names_in_the_log_are_left_alone(tmp_path: Path) -> None:
    """A file that some tool dropped into the log is neither read nor mistaken for a commit."""
    author = Author(tmp_path)
    then = await story(author, 2)
    await author.bucket.put(f"users/{USER}/vectorstore/log/.keep", b"")
    await author.bucket.put(f"users/{USER}/vectorstore/log/zzz", b"")
    directory, _ = await author.hydrate()
    assert contents(directory) == then[2]


async def test_a_log_that_moves_is_listed_again(tmp_path: Path) -> None:
    """An object that vanishes between listing and reading means another look, not an error."""
    faulty = FaultyBucket(MemoryBucket())
    author = Author(tmp_path, faulty)
    then = await story(author, 3)
    newest = f"users/{USER}/vectorstore/log/999999999996"
    inner = faulty.inner
    assert isinstance(inner, MemoryBucket)
    faulty.plan("get", lambda: inner._objects.pop(newest))
    directory, hydrated = await author.hydrate()
    assert hydrated.position.seq == 2
    assert contents(directory) == then[2]


async def test_an_unavailable_store_leaves_an_empty_directory(tmp_path: Path) -> None:
    """A store that stops answering in the middle is reported as that, and nothing half-built stays."""
    faulty = FaultyBucket(MemoryBucket())
    author = Author(tmp_path, faulty)
    await story(author, 3)
    for method in ("list_objects", "get"):
        faulty.plan(method, "lost")
        with pytest.raises(StoreUnavailable, match="did not answer"):
            await author.log.hydrate(tmp_path / "target")
        assert contents(tmp_path / "target") == {}
    assert await author.log.hydrate(tmp_path / "target") is not None


async def test_a_cancelled_hydrate_leaves_an_empty_directory(tmp_path: Path) -> None:
    """Cancelled at any moment, it cleans up and leaves no request behind."""
    bucket = SlowBucket()
    author = Author(tmp_path, bucket, fanout=3)
    await story(author, 10)
    bucket.slow = True
    for delay in (0.0, 0.02, 0.06, 0.09, 0.1, 0.105):
        target = tmp_path / f"target-{delay}"
        task = asyncio.create_task(author.log.hydrate(target))
        await asyncio.sleep(delay)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not target.exists() or contents(target) == {}
    assert len(asyncio.all_tasks()) == 1


async def test_a_warm_user_downloads_nothing(tmp_path: Path) -> None:
    """What was committed or hydrated once is read from local disk: one listing, no bytes."""
    warm = WarmTier(tmp_path / "warm", 10**8)
    author = Author(tmp_path, warm=warm, fanout=3)
    then = await story(author, 20)
    warm.close()
    for fresh in (warm, WarmTier(tmp_path / "warm", 10**8)):
        target = tmp_path / f"target-{id(fresh)}"
        hydrated = await CommitLog(author.bucket, USER, warm=fresh, settings=author.settings).hydrate(target)
        assert hydrated is not None
        assert (hydrated.fetched_bytes, hydrated.fetched_objects) == (0, 0)
        assert contents(target) == then[20]
    # Only what the newest state needs is kept.
    assert warm.user_bytes(USER) == hydrated.read_bytes == warm.total_bytes

    cold = WarmTier(tmp_path / "cold", 10**8)
    log = CommitLog(author.bucket, USER, warm=cold, settings=author.settings)
    first = await log.hydrate(tmp_path / "first")
    again = await log.hydrate(tmp_path / "again")
    assert first is not None and again is not None
    assert first.fetched_bytes == first.read_bytes == cold.user_bytes(USER)
    assert again.fetched_bytes == 0


async def test_a_damaged_warm_copy_is_fetched_again(tmp_path: Path) -> None:
    """Local disk is a cache: a flipped bit there costs a download, never an answer."""
    warm = WarmTier(tmp_path / "warm", 10**8)
    author = Author(tmp_path, warm=warm)
    then = await story(author, 3)
    for file in (tmp_path / "warm").rglob("99*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    hydrated = await author.log.hydrate(tmp_path / "target")
    assert hydrated is not None
    assert hydrated.fetched_objects == 3
    assert contents(tmp_path / "target") == then[3]


async def test_a_bucket_filled_anew_is_not_confused_with_the_old_one(tmp_path: Path) -> None:
    """Another log under the same keys is read from the bucket, although the warm tier knows objects of these names."""
    warm = WarmTier(tmp_path / "warm", 10**8)
    await story(Author(tmp_path / "old", warm=warm), 3)
    author = Author(tmp_path / "new", writer="other")
    then = await story(author, 3, seed=9)
    log = CommitLog(author.bucket, USER, warm=warm, settings=author.settings)
    hydrated = await log.hydrate(tmp_path / "target")
    assert hydrated is not None
    assert hydrated.warm_objects == 0
    assert contents(tmp_path / "target") == then[3]


@pytest.mark.parametrize("commits", [1, 7])
async def test_a_newest_commit_that_is_cut_to_the_length_of_a_grave_is_damage(tmp_path: Path, commits: int) -> None:
    """The state before it is not served in its place: a grave always has a commit above it."""
    author = Author(tmp_path, MemoryBucket(), fanout=4)
    await story(author, commits)
    key = f"users/{USER}/vectorstore/log/{names.commit_name(author.position.seq)}"
    await overwrite(author.bucket, key, (await author.bucket.get(key)).data[: len(GRAVE)])
    with pytest.raises(CorruptObject, match="length of a grave"):
        await author.hydrate()
