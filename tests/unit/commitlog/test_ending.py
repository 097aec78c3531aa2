"""The end of a log, and adoption and export: how a vectorstore comes, goes, and comes again."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from tests.support.commitlogs import USER, Author, FaultyBucket, contents, overwrite
from vectorpool import names
from vectorpool.commitlog import hydrate as hydrating
from vectorpool.commitlog.format import GRAVE
from vectorpool.commitlog.image import EMPTY
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import LostRace
from vectorpool.commitlog.warm import WarmTier
from vectorpool.errors import (
    CommitNotFound,
    InvalidRequest,
    OutcomeUnknown,
    UserNotFound,
    VectorstoreExists,
)
from vectorpool.objects.memory import MemoryBucket

PREFIX = f"users/{USER}/"


async def keys(author: Author, prefix: str = PREFIX) -> list[str]:
    """Every key that holds something; graves and floors hold nothing."""
    return [
        i.key
        for i in await author.bucket.list_objects(prefix, limit=5000)
        if i.size != len(GRAVE) and "/floor/" not in i.key
    ]


async def graves(author: Author) -> list[str]:
    found = await author.bucket.list_objects(PREFIX + "vectorstore/log/", limit=5000)
    return [i.key.rpartition("/")[2] for i in found if (await author.bucket.get(i.key)).data == GRAVE]


async def three_commits(author: Author) -> None:
    for at in range(3):
        author.write("chroma.sqlite3", random.Random(at).randbytes(9000))
        await author.commit()


async def test_the_end_leaves_one_tombstone_and_nothing_of_others(tmp_path: Path) -> None:
    """Everything below vectorstore/ but the tombstone goes; what lies beside it, and other users, stay."""
    warm = WarmTier(tmp_path / "warm", 10**8)
    author = Author(tmp_path, warm=warm)
    await three_commits(author)
    others = [PREFIX + "avatars/7/vectorstore_data/a.md", PREFIX + "image/x", "users/421/vectorstore/log/999999999998"]
    for key in [*others, PREFIX + "vectorstore/tags/before", PREFIX + "vectorstore/chroma.sqlite3"]:
        await author.bucket.put(key, b"x")
    assert await author.log.end() == 5
    assert await keys(author) == sorted([*others[:2], PREFIX + "vectorstore/log/999999999995"])
    assert await keys(author, "users/421/") == [others[2]]
    assert warm.user_bytes(USER) == 0
    directory, hydrated = await author.hydrate()
    assert (hydrated.tombstone, hydrated.position.seq, hydrated.image) == (True, 4, EMPTY)
    assert contents(directory) == {}
    with pytest.raises(CommitNotFound):
        await author.hydrate(at=2)


async def test_ending_again_does_nothing(tmp_path: Path) -> None:
    """A log that has ended does not grow by ending it; one that never began is not begun."""
    author = Author(tmp_path)
    assert await author.log.end() == 0
    assert await keys(author) == []
    await three_commits(author)
    assert await author.log.end() == 3
    assert await author.log.end() == 0
    assert await keys(author) == [PREFIX + "vectorstore/log/999999999995"]


async def test_numbers_go_on_after_the_end(tmp_path: Path) -> None:
    """A new vectorstore takes the number above the tombstone, and knows nothing of the old one."""
    author = Author(tmp_path)
    await three_commits(author)
    await author.log.end()
    _, hydrated = await author.hydrate()
    for file in author.directory.iterdir():
        file.unlink()
    author.position, author.image = hydrated.position, hydrated.image
    author.write("chroma.sqlite3", b"anew")
    assert (await author.commit()).seq == 5
    directory, hydrated = await author.hydrate()
    assert contents(directory) == {"chroma.sqlite3": b"anew"}
    assert not hydrated.tombstone
    assert (await author.log.scrub()).problems == []


async def test_a_writer_that_missed_the_end_loses(tmp_path: Path) -> None:
    """A commit prepared before the end cannot come after it."""
    author = Author(tmp_path)
    await three_commits(author)
    author.write("chroma.sqlite3", b"late")
    pending = author.prepare()
    await CommitLog(author.bucket, USER, settings=author.settings).end()
    with pytest.raises(LostRace):
        await author.log.append(pending)


async def test_who_slept_through_commits_and_the_end_is_not_fooled(tmp_path: Path) -> None:
    """For a replica far below the tombstone the next number is taken: it is not newest, and its write loses."""
    author = Author(tmp_path)
    author.write("chroma.sqlite3", b"one")
    first = await author.commit()
    author.write("chroma.sqlite3", b"asleep")
    asleep = author.prepare()
    author.write("chroma.sqlite3", b"two")
    await author.commit()
    author.write("chroma.sqlite3", b"three")
    await author.commit()
    other = CommitLog(author.bucket, USER, settings=author.settings)
    for time in range(2):
        await other.end()
        assert not await other.is_newest(first)
        with pytest.raises(LostRace):
            await other.append(asleep)
        await Author(tmp_path / "more", author.bucket).log.adopt(plain_directory(tmp_path / f"plain-{time}"))
    assert await graves(author) == [f"{999_999_999_999 - seq}" for seq in (5, 4, 3, 2, 1)]


async def test_graves_are_not_read_nor_listed_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vectorstore on top of many graves hydrates by one page, and its history begins with its tombstone."""
    faulty = FaultyBucket(MemoryBucket())
    author = Author(tmp_path, faulty)
    for at in range(20):
        author.write("chroma.sqlite3", bytes([at]))
        await author.commit()
    await author.log.end()
    await author.log.adopt(plain_directory(tmp_path / "plain"))
    monkeypatch.setattr(hydrating, "PAGE", 5)
    faulty.calls.clear()
    directory, hydrated = await author.hydrate()
    assert hydrated.position.seq == 22
    assert contents(directory) == contents(tmp_path / "plain")
    assert [method for method, _ in faulty.calls].count("list_objects") == 1
    assert [info.seq for info in await author.log.entries(limit=10)] == [22, 21]
    report = await author.log.scrub()
    assert (report.problems, report.commits, report.newest_intact_seq) == ([], 2, 22)


async def test_an_end_cut_short_is_an_end(tmp_path: Path) -> None:
    """Once the tombstone stands, readers see the end, and its caller hears no refusal; ending again finishes it."""
    faulty = FaultyBucket(MemoryBucket())
    author = Author(tmp_path, faulty)
    await three_commits(author)
    # The mark, the receipt, a grave, and the next grave.
    faulty.plan("put", "ok", "ok", "ok", "lost")
    with pytest.raises(OutcomeUnknown, match="is deleted, and some of its objects are left"):
        await author.log.end()
    left = await keys(author)
    assert 1 < len(left) < 4
    _, hydrated = await author.hydrate()
    assert hydrated.tombstone
    assert await author.log.end() == len(left) - 1
    assert len(await keys(author)) == 1


async def test_a_damaged_log_can_be_deleted(tmp_path: Path) -> None:
    """Deleting does not need what it deletes to be readable."""
    author = Author(tmp_path)
    await three_commits(author)
    await overwrite(author.bucket, PREFIX + "vectorstore/log/999999999996", b"garbage")
    assert await author.log.end() == 3
    _, hydrated = await author.hydrate()
    assert (hydrated.tombstone, hydrated.position.seq) == (True, 4)


def plain_directory(path: Path) -> Path:
    """A directory as a Chroma client leaves it, as far as files go."""
    (path / "11111111-1111").mkdir(parents=True)
    with sqlite3.connect(path / "chroma.sqlite3") as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    (path / "11111111-1111" / "data_level0.bin").write_bytes(random.Random(1).randbytes(100_000))
    return path


async def upload(author: Author, source: Path) -> dict[str, bytes]:
    files = contents(source)
    for path, data in files.items():
        await author.bucket.put(f"{PREFIX}vectorstore/{path}", data)
    return files


async def test_a_plain_directory_in_the_bucket_is_adopted_untouched(tmp_path: Path) -> None:
    """The first hydrate makes it commit 1; its objects stay as they are."""
    author = Author(tmp_path / "a")
    files = await upload(author, plain_directory(tmp_path / "plain"))
    # A document was replaced before the first hydrate: what is kept of it is no part of the directory.
    await author.bucket.put(names.kept_content_prefix(USER, "7", "0" * 64) + "020000", b"kept")
    directory, hydrated = await author.hydrate()
    assert contents(directory) == files
    assert hydrated.position.seq == 1
    for path, data in files.items():
        assert (await author.bucket.get(f"{PREFIX}vectorstore/{path}")).data == data
    assert list((tmp_path / "a" / "replicas" / "scratch").iterdir()) == []
    # From then on the log is the truth, whatever the old tool does to its files.
    await author.bucket.put(f"{PREFIX}vectorstore/chroma.sqlite3", b"changed behind our back")
    again, _ = await author.hydrate()
    assert contents(again) == files


async def test_a_plain_directory_with_a_write_ahead_log_is_settled_in_the_copy(tmp_path: Path) -> None:
    """Rows that only the write-ahead log holds are adopted too."""
    plain = plain_directory(tmp_path / "plain")
    connection = sqlite3.connect(plain / "chroma.sqlite3")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("INSERT INTO t VALUES (2)")
    connection.commit()
    assert (plain / "chroma.sqlite3-wal").stat().st_size
    author = Author(tmp_path / "a")
    before = await upload(author, plain)
    imported = Author(tmp_path / "b")
    assert (await imported.log.adopt(plain)).seq == 1
    assert contents(plain).keys() == before.keys()
    connection.close()
    for each in (author, imported):
        directory, _ = await each.hydrate()
        with sqlite3.connect(directory / "chroma.sqlite3") as copy:
            assert copy.execute("SELECT x FROM t ORDER BY x").fetchall() == [(1,), (2,)]
        copy.close()


async def test_importing_makes_commit_1_of_a_local_directory(tmp_path: Path) -> None:
    """A local directory becomes a log, once; export gives it back."""
    author = Author(tmp_path / "a")
    plain = plain_directory(tmp_path / "plain")
    assert (await author.log.adopt(plain)).seq == 1
    await author.log.export(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(plain)
    with pytest.raises(VectorstoreExists, match="has a vectorstore already"):
        await author.log.adopt(plain)
    await author.log.end()
    assert (await author.log.adopt(plain)).seq == 3
    directory, _ = await author.hydrate()
    assert contents(directory) == contents(plain)


async def test_importing_beside_a_plain_directory_is_refused(tmp_path: Path) -> None:
    """A plain directory in the bucket is the user's vectorstore already, and is not to be shadowed."""
    author = Author(tmp_path / "a")
    plain = plain_directory(tmp_path / "plain")
    await upload(author, plain)
    with pytest.raises(VectorstoreExists):
        await author.log.adopt(plain)


async def test_importing_what_is_no_chroma_directory_is_refused(tmp_path: Path) -> None:
    """A directory without Chroma's database, or none at all, is refused by name and leaves no commit."""
    author = Author(tmp_path / "a")
    (tmp_path / "other").mkdir()
    for source in (tmp_path / "other", tmp_path / "nowhere"):
        with pytest.raises(InvalidRequest, match=r"There is no chroma\.sqlite3 in"):
            await author.log.adopt(source)
    assert await keys(author) == []


async def test_only_what_is_stored_can_be_exported(tmp_path: Path) -> None:
    """Neither a user without a vectorstore nor a deleted one makes an empty export; a past commit can be had."""
    author = Author(tmp_path)
    with pytest.raises(UserNotFound):
        await author.log.export(tmp_path / "out")
    await three_commits(author)
    hydrated = await author.log.export(tmp_path / "past", at=1)
    assert hydrated.position.seq == 1
    await author.log.end()
    with pytest.raises(UserNotFound):
        await author.log.export(tmp_path / "out")


async def test_entries_are_the_history_newest_first(tmp_path: Path) -> None:
    """Each commit says when, by whom and how much; a damaged one says what is wrong with it."""
    author = Author(tmp_path)
    await three_commits(author)
    await overwrite(author.bucket, PREFIX + "vectorstore/log/999999999997", b"garbage" * 100)
    newest, damaged, first = await author.log.entries(limit=10)
    assert (newest.seq, newest.writer, newest.state_bytes, newest.files) == (3, "writer-3", 9000, 1)
    assert (newest.commit_hash, newest.summary.added, newest.self_contained) == (author.position.commit_hash, 1, False)
    assert damaged.seq == 2 and damaged.damage is not None and "does not begin as" in damaged.damage
    assert first.self_contained and first.time_ms == 1_700_000_000_000
    assert [info.seq for info in await author.log.entries(limit=1)] == [3]
    assert await CommitLog(author.bucket, "nobody", settings=author.settings).entries(limit=5) == []
