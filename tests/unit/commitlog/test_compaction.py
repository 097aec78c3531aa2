"""Compaction on a real log: what it writes, that it is harmless twice, and what it may never do."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

from tests.support.commitlogs import USER, Author, FaultyBucket, contents
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.plan import SLACK_BYTES
from vectorpool.objects.memory import MemoryBucket

BLOCK = 4096


async def touch(author: Author, commits: int, blocks: int = 100, dice: random.Random | None = None) -> None:
    dice = dice or random.Random(3)
    for _ in range(commits):
        author.write("chroma.sqlite3", dice.randbytes(300), offset=dice.randrange(blocks - 1) * BLOCK)
        await author.commit()


async def test_eight_commits_become_one_merged_delta(tmp_path: Path) -> None:
    """At a multiple of the fan-out the commits below it are merged, and hydrates read the merged one."""
    author = Author(tmp_path)
    author.write("chroma.sqlite3", random.Random(1).randbytes(100 * BLOCK))
    await touch(author, 8)
    done = await author.compact()
    # Commit 1 is the base, so the window begins above it.
    assert [item.key.rpartition("/")[2] for item in done.written] == ["999999999991-after-999999999998"]
    assert done.bytes == (await author.objects())["999999999991-after-999999999998"].size
    directory, hydrated = await author.hydrate()
    assert hydrated.fetched_objects == 2
    assert contents(directory) == contents(author.directory)


async def test_compacting_between_multiples_asks_nothing(tmp_path: Path) -> None:
    """Most calls cost no request at all."""
    faulty = FaultyBucket(MemoryBucket())
    author = Author(tmp_path, faulty)
    author.write("chroma.sqlite3", random.Random(1).randbytes(100 * BLOCK))
    await touch(author, 8)
    await author.compact()
    for _ in range(7):
        await touch(author, 1)
        faulty.calls.clear()
        assert (await author.compact()).written == []
        assert faulty.calls == []


async def test_compacting_twice_at_once_is_harmless(tmp_path: Path) -> None:
    """Two compactors of the same number: one object, the same state, and neither fails."""
    author = Author(tmp_path)
    author.write("chroma.sqlite3", random.Random(1).randbytes(100 * BLOCK))
    await touch(author, 16)
    others = [CommitLog(author.bucket, USER, settings=author.settings) for _ in range(2)]
    done = await asyncio.gather(*(log.compact(author.position) for log in others))
    again = await CommitLog(author.bucket, USER, settings=author.settings).compact(author.position)
    assert again.written == []
    assert sorted(item.key for each in done for item in each.written) == sorted(
        {item.key for each in done for item in each.written}
    )
    assert len([name for name in await author.objects() if "after" in name]) == 2
    directory, _ = await author.hydrate()
    assert contents(directory) == contents(author.directory)


async def test_missed_compactions_are_made_up_for(tmp_path: Path) -> None:
    """A log that nobody compacted for 70 commits gets the large window at once, not eight small ones."""
    author = Author(tmp_path, fanout=8)
    author.write("chroma.sqlite3", random.Random(1).randbytes(1000 * BLOCK))
    await touch(author, 73, blocks=1000)
    log = CommitLog(author.bucket, USER, settings=author.settings)
    done = await log.compact(author.position)
    assert [item.key.rpartition("/")[2] for item in done.written] == [
        "999999999935-after-999999999998",
        "999999999927-after-999999999935",
    ]
    directory, hydrated = await author.hydrate()
    assert hydrated.fetched_objects == 4
    assert contents(directory) == contents(author.directory)


async def test_a_rewritten_store_gets_a_new_base(tmp_path: Path) -> None:
    """When a hydrate would read too much beyond the live bytes, one new base holds the state alone."""
    author = Author(tmp_path)
    dice = random.Random(1)
    for _ in range(6):
        author.write("chroma.sqlite3", dice.randbytes(200 * BLOCK))
        await author.commit()
        await author.compact()
        directory, hydrated = await author.hydrate()
        assert hydrated.read_bytes <= 1.5 * 200 * BLOCK * 1.02 + SLACK_BYTES + 200 * BLOCK
        assert contents(directory) == contents(author.directory)
    assert [name for name in await author.objects() if name.endswith("-base")]


async def test_whoever_reads_too_much_compacts_at_its_next_look(tmp_path: Path) -> None:
    """A hydrate of more than the bound makes a compaction due, between the multiples of the fan-out too."""
    author = Author(tmp_path)
    dice = random.Random(1)
    author.write("index.bin", dice.randbytes(200 * BLOCK))
    for _ in range(3):
        author.write("chroma.sqlite3", dice.randbytes(200 * BLOCK))
        await author.commit()
    reader = CommitLog(author.bucket, USER, settings=author.settings)
    hydrated = await reader.hydrate(tmp_path / "read")
    assert hydrated is not None and hydrated.read_bytes > 1.5 * hydrated.image.size
    done = await reader.compact(hydrated.position)
    assert [item.key.rpartition("/")[2].endswith("-base") for item in done.written] == [True]
    again = await reader.hydrate(tmp_path / "again")
    assert again is not None and again.read_bytes < 1.1 * again.image.size
    assert (await reader.compact(again.position)).written == []


async def test_a_base_carries_the_hash_on_which_the_next_commit_rests(tmp_path: Path) -> None:
    """A replica hydrated from a base stands where one hydrated from commits stands, and commits on it."""
    author = Author(tmp_path)
    dice = random.Random(1)
    while not any(name.endswith("-base") for name in await author.objects()):
        author.write("chroma.sqlite3", dice.randbytes(200 * BLOCK))
        await author.commit()
        await author.compact()
    _, hydrated = await author.hydrate()
    assert hydrated.fetched_objects == 1
    assert (hydrated.position, hydrated.image) == (author.position, author.image)
    author.position, author.image = hydrated.position, hydrated.image
    await touch(author, 2)
    directory, _ = await author.hydrate()
    assert contents(directory) == contents(author.directory)
    assert (await author.log.scrub()).problems == []


async def test_deleted_and_cut_files_survive_merging(tmp_path: Path) -> None:
    """Files that come, shrink, go and come back inside one window are what they are at its end."""
    author = Author(tmp_path, fanout=4)
    author.write("chroma.sqlite3", random.Random(1).randbytes(100 * BLOCK))
    author.write("a", b"a" * 5 * BLOCK)
    author.write("b", b"b" * 5 * BLOCK)
    await author.commit()
    (author.directory / "a").unlink()
    author.write("c", b"c" * 9000)
    await author.commit()
    author.write("a", b"A" * 2 * BLOCK)
    author.write("b", b"b" * (2 * BLOCK))
    await author.commit()
    (author.directory / "c").unlink()
    author.write("b", b"b" * (2 * BLOCK) + b"new" * 3000)
    await author.commit()
    done = await author.compact()
    assert len(done.written) == 1
    directory, hydrated = await author.hydrate()
    assert hydrated.fetched_objects == 2
    assert contents(directory) == contents(author.directory)
    assert (await author.log.scrub()).problems == []


async def test_compaction_leaves_no_scratch(tmp_path: Path) -> None:
    """Whether it succeeds or the store fails it, the scratch directory is empty afterwards."""
    faulty = FaultyBucket(MemoryBucket())
    author = Author(tmp_path, faulty)
    author.write("chroma.sqlite3", random.Random(1).randbytes(100 * BLOCK))
    await touch(author, 8)
    faulty.plan("create", "lost")
    failed = False
    try:
        await author.compact()
    except Exception as error:
        failed = "did not answer" in str(error)
    assert failed
    assert list((tmp_path / "replicas" / "scratch").iterdir()) == []
    assert len((await author.compact()).written) == 1
    assert list((tmp_path / "replicas" / "scratch").iterdir()) == []


async def test_scratch_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    """What a killed process left in the scratch directory goes with the next use; a living one's stays."""
    scratch = tmp_path / "replicas" / "scratch"
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    for name in (f"{gone.pid}-dead", f"{os.getpid()}-alive", "notes"):
        (scratch / name).mkdir(parents=True)
        (scratch / name / "file").write_bytes(b"x")
    author = Author(tmp_path, fanout=2)
    author.write("chroma.sqlite3", random.Random(1).randbytes(100 * BLOCK))
    await touch(author, 4)
    assert (await author.compact()).written
    assert sorted(path.name for path in scratch.iterdir()) == sorted([f"{os.getpid()}-alive", "notes"])
