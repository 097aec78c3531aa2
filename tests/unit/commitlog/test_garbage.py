"""Collection: what goes, what stays, that numbers stay taken, and that nothing is lost when it is cut short."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from tests.support.commitlogs import USER, Author, FaultyBucket, contents, overwrite
from vectorpool import names
from vectorpool.commitlog import entries, garbage
from vectorpool.commitlog import hydrate as hydrating
from vectorpool.commitlog.floor import newest_floor, raise_floor
from vectorpool.commitlog.format import GRAVE, is_grave_content
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import LostRace, Removal
from vectorpool.errors import BrokenLog, CommitNotFound, CorruptObject, StoreUnavailable
from vectorpool.objects.memory import MemoryBucket

PREFIX = f"users/{USER}/vectorstore/"
LOG = PREFIX + "log/"
BLOCK = 4096
WEEK_S = 604_800.0


def author_of(root: Path, bucket: MemoryBucket | FaultyBucket | None = None) -> Author:
    """An author whose bucket stamps objects by the author's own clock."""
    author = Author(root, bucket or MemoryBucket(), fanout=4)
    inner = author.bucket.inner if isinstance(author.bucket, FaultyBucket) else author.bucket
    assert isinstance(inner, MemoryBucket)
    inner._sources = author.sources
    return author


async def write(author: Author, commits: int, *, apart_s: float = 3600.0, blocks: int = 60) -> dict[int, dict]:
    """Commit small changes, so far apart; return the files at each number."""
    dice = random.Random(author.position.seq)
    then = {}
    for _ in range(commits):
        if not (author.directory / "chroma.sqlite3").exists():
            author.write("chroma.sqlite3", dice.randbytes(blocks * BLOCK))
        author.write("chroma.sqlite3", dice.randbytes(300), offset=dice.randrange(blocks - 1) * BLOCK)
        position = await author.commit()
        then[position.seq] = contents(author.directory)
        author.sources.slept_s += apart_s
    return then


async def kinds(author: Author) -> dict[str, list[int]]:
    """The numbers of the log's commits, graves, bases and merged deltas."""
    found: dict[str, list[int]] = {"commit": [], "grave": [], "base": [], "merged": []}
    for name, info in (await author.objects()).items():
        parsed = names.parse_log_name(name)
        if parsed is not None:
            grave = parsed[0] == "commit" and info.size == len(GRAVE)
            found["grave" if grave else parsed[0]].append(parsed[1])
    return {kind: sorted(seqs) for kind, seqs in found.items()}


async def check(author: Author, then: dict[int, dict], seqs: list[int]) -> None:
    for seq in seqs:
        directory, hydrated = await author.hydrate(at=seq)
        assert hydrated.position.seq == seq
        assert contents(directory) == then[seq]
    assert (await author.log.scrub()).problems == []


async def test_young_commits_stay(tmp_path: Path) -> None:
    """Within the retention time nothing is deleted, and nothing is written."""
    author = author_of(tmp_path)
    then = await write(author, 10)
    before = await author.objects()
    assert await author.log.remove_garbage() == Removal()
    assert await author.objects() == before
    await check(author, then, list(then))


async def test_old_commits_go_and_their_numbers_stay_taken(tmp_path: Path) -> None:
    """All but the young commits and the one before them are buried, above a base; these hydrate as before."""
    author = author_of(tmp_path)
    then = await write(author, 12)
    author.sources.slept_s += WEEK_S
    young = await write(author, 3)
    done = await author.log.remove_garbage()
    assert (done.buried, done.deleted_objects, done.complete) == (11, 0, True)
    assert done.bytes > 60 * BLOCK
    assert await kinds(author) == {
        "commit": [12, 13, 14, 15],
        "grave": list(range(1, 12)),
        "base": [12],
        "merged": [],
    }
    await check(author, then | young, [12, 13, 14, 15])
    for seq in range(1, 12):
        with pytest.raises(CommitNotFound):
            await author.hydrate(at=seq)
    assert await author.log.remove_garbage() == Removal()
    assert [info.seq for info in await author.log.entries(limit=50)] == [15, 14, 13, 12]


async def test_an_idle_log_keeps_its_newest_state(tmp_path: Path) -> None:
    """Years after the last write the newest commit is there, alone with its base."""
    author = author_of(tmp_path)
    then = await write(author, 9)
    await author.compact()
    author.sources.slept_s += 1000 * WEEK_S
    await author.log.remove_garbage()
    assert await kinds(author) == {"commit": [9], "grave": list(range(1, 9)), "base": [9], "merged": []}
    await check(author, then, [9])
    await write(author, 5)
    _, hydrated = await author.hydrate()
    assert hydrated.position == author.position


async def test_a_large_state_is_not_written_again_for_little(tmp_path: Path) -> None:
    """Beyond the small, the floor is a base that compaction made, until what a new one frees is worth its bytes."""
    author = author_of(tmp_path)
    await write(author, 4, blocks=800)
    author.sources.slept_s += WEEK_S
    assert await author.log.remove_garbage() == Removal()
    for seed in (8, 9):
        author.write("chroma.sqlite3", random.Random(seed).randbytes(800 * BLOCK))
        await author.commit()
        author.sources.slept_s += WEEK_S
    assert (await author.log.remove_garbage()).buried == 5
    assert (await kinds(author))["base"] == [6]


async def test_a_sleeping_writer_loses_and_a_sleeping_reader_knows(tmp_path: Path) -> None:
    """Who stands at a removed number finds the next one taken, at each of them."""
    author = author_of(tmp_path)
    sleepers = []
    for _ in range(8):
        await write(author, 1)
        author.write("chroma.sqlite3", b"asleep", offset=0)
        sleepers.append((author.position, author.prepare()))
    author.sources.slept_s += WEEK_S
    await author.log.remove_garbage()
    for position, pending in sleepers[:-1]:
        assert not await author.log.is_newest(position)
        with pytest.raises(LostRace):
            await author.log.append(pending)
    assert await author.log.is_newest(sleepers[-1][0])


async def test_a_writer_that_slept_through_its_own_commits_collection_has_committed(tmp_path: Path) -> None:
    """A commit whose answer was lost, removed since: its grave says whose it was, so it is not applied again."""
    author = author_of(tmp_path)
    await write(author, 2)
    author.write("chroma.sqlite3", b"mine", offset=0)
    mine = author.prepare()
    await author.log.append(mine)
    author.position, author.image = mine.position, mine.image
    await write(author, 2)
    author.sources.slept_s += WEEK_S
    await author.log.remove_garbage()
    assert 3 in (await kinds(author))["grave"]
    assert await author.log.append(mine) == mine.position
    other = msgspec.structs.replace(mine, writer="another")
    with pytest.raises(LostRace):
        await author.log.append(other)


async def test_tagged_commits_stay_with_a_base_of_their_own(tmp_path: Path) -> None:
    """Backups below the floor hydrate, whatever else is gone; once deleted, they are removed too."""
    author = author_of(tmp_path)
    then = await write(author, 12)
    await author.log.tag("five", 5)
    await author.log.tag("six", 6)
    await author.log.tag("first", 1)
    author.sources.slept_s += WEEK_S
    await author.log.remove_garbage()
    assert await kinds(author) == {
        "commit": [1, 5, 6, 12],
        "grave": [2, 3, 4, 7, 8, 9, 10, 11],
        "base": [5, 12],
        "merged": [],
    }
    await check(author, then, [1, 5, 6, 12])
    await author.log.delete_tag("five")
    done = await author.log.remove_garbage()
    assert (done.buried, done.deleted_objects) == (1, 1)
    assert (await kinds(author))["base"] == [6, 12]
    await check(author, then, [1, 6, 12])
    await author.log.delete_tag("six")
    await author.log.delete_tag("first")
    await author.log.remove_garbage()
    assert await kinds(author) == {"commit": [12], "grave": list(range(1, 12)), "base": [12], "merged": []}


async def test_foreign_objects_stay(tmp_path: Path) -> None:
    """What is not the log's is not touched, wherever it lies."""
    author = author_of(tmp_path)
    await write(author, 6)
    foreign = [LOG + "999999999998-other", LOG + "notes.txt", PREFIX + "tags/a/b", PREFIX + "chroma.sqlite3"]
    for key in foreign:
        await author.bucket.put(key, b"theirs")
    author.sources.slept_s += WEEK_S
    assert (await author.log.remove_garbage()).buried == 5
    for key in foreign:
        assert (await author.bucket.get(key)).data == b"theirs"


async def test_a_call_is_bounded_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long past goes in several calls, newest first, and every state between can be had or is cleanly gone."""
    monkeypatch.setattr(garbage, "_PER_CALL", 7)
    author = author_of(tmp_path)
    then = await write(author, 30)
    await author.log.tag("ten", 10)
    author.sources.slept_s += WEEK_S
    calls = 0
    while True:
        done = await author.log.remove_garbage()
        calls += 1
        assert done.buried + done.deleted_objects <= 7
        await check(author, then, [10, 30])
        for seq in range(1, 30):
            try:
                directory, _ = await author.hydrate(at=seq)
            except CommitNotFound:
                continue
            assert contents(directory) == then[seq]
        if done.complete:
            break
    assert calls == 4
    assert (await kinds(author))["commit"] == [10, 30]


async def test_very_many_graves_are_swept_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one call cannot list the whole log, the next goes on below, and a deleted backup down there is found."""
    author = author_of(tmp_path)
    then = await write(author, 40)
    await author.log.tag("three", 3)
    author.sources.slept_s += WEEK_S
    await author.log.remove_garbage()
    await author.log.delete_tag("three")
    monkeypatch.setattr(garbage, "PAGE", 4)
    monkeypatch.setattr(garbage, "_PAGES", 4)
    monkeypatch.setattr(entries, "_PAGE", 4)
    monkeypatch.setattr(hydrating, "PAGE", 4)
    assert [info.seq for info in await author.log.entries(limit=50)] == [40]
    done = [await author.log.remove_garbage() for _ in range(5)]
    assert sum(each.buried for each in done) == 1
    assert (await kinds(author))["commit"] == [40]
    await check(author, then, [40])


async def test_asking_for_a_removed_commit_lists_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is gone is not searched for among all the graves."""
    faulty = FaultyBucket(MemoryBucket())
    author = author_of(tmp_path, faulty)
    await write(author, 40)
    author.sources.slept_s += WEEK_S
    await author.log.remove_garbage()
    monkeypatch.setattr(hydrating, "PAGE", 5)
    for seq in (39, 30):
        faulty.calls.clear()
        with pytest.raises(CommitNotFound, match="retention"):
            await author.hydrate(at=seq)
        assert [method for method, _ in faulty.calls] == ["list_objects"]


async def test_history_shows_backups_below_many_graves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing of commits ends at a page of graves, and goes on with what backups keep."""
    author = author_of(tmp_path)
    await write(author, 40)
    await author.log.tag("three", 3)
    await author.log.tag("nine", 9)
    author.sources.slept_s += WEEK_S
    await author.log.remove_garbage()
    monkeypatch.setattr(entries, "_PAGE", 6)
    assert [info.seq for info in await author.log.entries(limit=50)] == [40, 9, 3]


@pytest.mark.parametrize("after", range(0, 40, 3))
async def test_a_collection_cut_short_loses_nothing(tmp_path: Path, after: int) -> None:
    """Wherever it ends, each retained commit hydrates, scrub is content, and the next call finishes."""
    faulty = FaultyBucket(MemoryBucket())
    author = author_of(tmp_path, faulty)
    then = await write(author, 14)
    await author.log.tag("four", 4)
    await author.log.tag("nine", 9)
    author.sources.slept_s += WEEK_S
    for method in ("create", "put", "delete"):
        faulty.plan(method, *["ok"] * after, *["lost"] * 30)
    writes = {"create": 3, "put": 10, "delete": 0}
    if after < max(writes.values()):
        with pytest.raises(StoreUnavailable):
            await author.log.remove_garbage()
    else:
        await author.log.remove_garbage()
    faulty.script.clear()
    await check(author, then, [4, 9, 14])
    await author.log.remove_garbage()
    await check(author, then, [4, 9, 14])
    assert (await kinds(author))["commit"] == [4, 9, 14]


async def test_a_damaged_floor_deletes_nothing(tmp_path: Path) -> None:
    """Before anything is deleted the base that replaces it is read back; if it is damaged, all stays."""
    author = author_of(tmp_path)
    await write(author, 12)
    author.sources.slept_s += WEEK_S
    await author.log.remove_garbage()
    await write(author, 4)
    await author.compact()
    author.sources.slept_s += WEEK_S
    key = LOG + names.base_name(16)
    faulty = FaultyBucket(author.bucket)

    async def spoiled(key: str, data: bytes) -> str:
        return await author.bucket.create(key, data[:-1] + bytes([data[-1] ^ 1]) if key.endswith("-base") else data)

    faulty.create = spoiled  # type: ignore[method-assign]
    log = CommitLog(faulty, USER, settings=author.settings, sources=author.sources)
    assert await log.remove_garbage() == Removal()
    assert (await kinds(author))["commit"] == [12, 13, 14, 15, 16]
    assert [problem.key for problem in (await author.log.scrub()).problems] == [key]
    assert await newest_floor(author.bucket, USER) == 12
    await author.hydrate(at=15)


async def test_a_damaged_old_base_stops_the_collection(tmp_path: Path) -> None:
    """If neither a new base can be made nor the old one be read, the call says what is damaged."""
    author = author_of(tmp_path)
    await write(author, 12)
    await author.log.tag("kept", 12)
    author.sources.slept_s += WEEK_S
    await author.log.remove_garbage()
    await author.bucket.put(LOG + names.base_name(11), b"a stray of somebody's")
    await overwrite(author.bucket, LOG + names.base_name(12), b"garbage")
    with pytest.raises(CorruptObject, match="999999999987-base"):
        await author.log.remove_garbage()
    assert LOG + names.base_name(11) in {info.key for info in (await author.objects()).values()}


async def test_a_damaged_backup_keeps_all_that_is_below_it(tmp_path: Path) -> None:
    """Where a backup's base cannot be made, what it could be repaired from stays; above it garbage removal goes on."""
    author = author_of(tmp_path)
    then = await write(author, 12)
    await author.log.tag("five", 5)
    await overwrite(author.bucket, LOG + names.commit_name(4), b"garbage")
    author.sources.slept_s += WEEK_S
    # The newest cannot be had either, so it keeps the old base: nothing goes at all.
    assert (await author.log.remove_garbage()).buried == 0
    await author.log.restore(3)
    then[13] = then[3]
    author.sources.slept_s += WEEK_S
    done = await author.log.remove_garbage()
    assert (done.buried, done.complete) == (7, False)
    assert (await kinds(author))["commit"] == [1, 2, 3, 4, 5, 13]
    directory, _ = await author.hydrate()
    assert contents(directory) == then[3]


async def test_an_unreadable_tag_stops_the_collection(tmp_path: Path) -> None:
    """A tag that cannot be read may keep anything, so nothing is deleted until it is deleted itself."""
    author = author_of(tmp_path)
    await write(author, 6)
    await author.bucket.put(PREFIX + "tags/odd", b"{}")
    author.sources.slept_s += WEEK_S
    with pytest.raises(CorruptObject, match="tags/odd"):
        await author.log.remove_garbage()
    assert (await kinds(author))["grave"] == []
    await author.log.delete_tag("odd")
    assert (await author.log.remove_garbage()).buried == 5


async def test_damaged_commits_are_buried_without_a_name(tmp_path: Path) -> None:
    """A condemned commit that cannot be read is buried all the same."""
    author = author_of(tmp_path)
    await write(author, 6)
    author.sources.slept_s += WEEK_S
    await write(author, 1)
    await author.log.restore(7)
    author.sources.slept_s += WEEK_S
    await author.log.remove_garbage()
    await overwrite(author.bucket, LOG + names.commit_name(3), b"garbage that somebody put over a grave")
    assert (await author.log.remove_garbage()).buried == 1
    assert (await author.bucket.get(LOG + names.commit_name(3))).data == GRAVE
    assert is_grave_content((await author.bucket.get(LOG + names.commit_name(2))).data)


async def test_floors_are_never_lowered(tmp_path: Path) -> None:
    """A late, lower floor says nothing new; a higher one takes the place of those below it."""
    bucket = MemoryBucket()
    assert await newest_floor(bucket, USER) == 0
    for seq in (5, 3, 9, 9, 7):
        await raise_floor(bucket, USER, seq)
    assert await newest_floor(bucket, USER) == 9
    assert len(await bucket.list_objects(names.floors_prefix(USER), limit=9)) == 2


async def test_a_log_with_a_hole_at_its_floor_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the floor's commit itself is gone, somebody else deletes here: nothing more is."""
    author = author_of(tmp_path)
    await write(author, 8)
    author.sources.slept_s += WEEK_S
    await author.log.remove_garbage()
    await author.bucket.put(LOG + names.base_name(3), b"stray")
    await write(author, 1)
    await author.bucket.delete(LOG + names.commit_name(8))
    author.sources.slept_s += WEEK_S
    monkeypatch.setattr(garbage, "_SMALL_STATE", 0)
    with pytest.raises(BrokenLog):
        await author.log.remove_garbage()
    assert (await author.bucket.get(LOG + names.base_name(3))).data == b"stray"
