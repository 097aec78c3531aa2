"""Tags: made once, never moved, refused below a floor, and what is said when their making is in doubt."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commitlogs import USER, Author, FaultyBucket, overwrite
from tests.unit.commitlog.test_ending import plain_directory, upload
from tests.unit.commitlog.test_garbage import LOG, PREFIX, WEEK_S, author_of, kinds, write
from vectorpool import names
from vectorpool.commitlog import tags
from vectorpool.commitlog.floor import raise_floor
from vectorpool.commitlog.log import CommitLog
from vectorpool.errors import (
    BackupExists,
    BackupNotFound,
    BrokenLog,
    CommitNotFound,
    CorruptObject,
    InvalidId,
    LimitExceeded,
    OutcomeUnknown,
    StoreUnavailable,
    UserNotFound,
)
from vectorpool.objects.memory import MemoryBucket


async def test_a_tag_says_what_it_keeps(tmp_path: Path) -> None:
    """A backup is of the newest commit unless a number is given, and holds its hash, checksum and the time."""
    author = author_of(tmp_path)
    await write(author, 3)
    made = await author.log.tag("before-import_1.0")
    assert (made.name, made.seq, made.commit_hash) == ("before-import_1.0", 3, author.position.commit_hash)
    assert made.state_checksum == author.image.checksum()
    assert made.time_ms == author.sources.now_ms()
    older = await author.log.tag("a", 2)
    assert await author.log.tags() == [older, made]
    assert await author.log.get_tag("a") == older
    await author.log.delete_tag("a")
    assert await author.log.tags() == [made]
    with pytest.raises(BackupNotFound):
        await author.log.get_tag("a")
    with pytest.raises(BackupNotFound):
        await author.log.delete_tag("a")


async def test_a_tag_is_never_moved(tmp_path: Path) -> None:
    """A taken name is refused, and goes on naming the same commit."""
    author = author_of(tmp_path)
    await write(author, 2)
    first = await author.log.tag("x", 1)
    with pytest.raises(BackupExists, match="'x'"):
        await author.log.tag("x", 2)
    assert await author.log.get_tag("x") == first


@pytest.mark.parametrize("name", ["", "a" * 65, "a/b", "..", ".", "a b", "ä", "a\n"])
async def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    """Names are 1 to 64 of [a-zA-Z0-9._-], and not a step in a path."""
    author = author_of(tmp_path)
    await write(author, 1)
    for call in (author.log.tag, author.log.get_tag, author.log.delete_tag):
        with pytest.raises(InvalidId):
            await call(name)


async def test_what_is_not_there_cannot_be_tagged(tmp_path: Path) -> None:
    """No vectorstore, no such commit, a deleted one: each is said, and no tag is left."""
    author = author_of(tmp_path)
    with pytest.raises(UserNotFound):
        await author.log.tag("x")
    await write(author, 3)
    for at in (0, -1, 4, 10**12):
        with pytest.raises(CommitNotFound):
            await author.log.tag("x", at)
    await author.log.end()
    with pytest.raises(UserNotFound):
        await author.log.tag("x")
    for at in (2, 4):
        with pytest.raises(CommitNotFound):
            await author.log.tag("x", at)
    assert await author.log.tags() == []


async def test_a_damaged_commit_cannot_be_tagged(tmp_path: Path) -> None:
    """A backup of what cannot be restored would be a lie."""
    author = author_of(tmp_path)
    await write(author, 4)
    await author.bucket.delete(LOG + names.commit_name(2))
    with pytest.raises(BrokenLog):
        await author.log.tag("x", 3)
    await overwrite(author.bucket, LOG + names.commit_name(4), b"no commit")
    with pytest.raises(CorruptObject):
        await author.log.tag("x")
    assert await author.log.tags() == []


async def test_a_plain_directory_can_be_tagged_before_it_was_opened(tmp_path: Path) -> None:
    """What an older tool left is adopted, and then is commit 1."""
    author = Author(tmp_path)
    await upload(author, plain_directory(tmp_path / "plain"))
    assert (await author.log.tag("as-found")).seq == 1


async def test_below_a_floor_nothing_is_tagged_any_more(tmp_path: Path) -> None:
    """A commit that a garbage remover may already be deleting is refused, even where another backup keeps it."""
    author = author_of(tmp_path)
    await write(author, 6)
    await author.log.tag("kept", 3)
    author.sources.slept_s += WEEK_S
    await author.log.remove_garbage()
    for at in (2, 3):
        with pytest.raises(CommitNotFound):
            await author.log.tag("again", at)
    assert (await author.log.tag("newest", 6)).seq == 6


async def test_a_floor_that_comes_while_a_tag_is_made_wins(tmp_path: Path) -> None:
    """The tag that was written is taken away again, and its maker told that the commit is gone."""
    author = author_of(tmp_path, FaultyBucket(MemoryBucket()))
    await write(author, 4)
    faulty = author.bucket
    assert isinstance(faulty, FaultyBucket)
    create = faulty.inner.create

    async def late(key: str, data: bytes) -> str:
        etag = await create(key, data)
        if "/tags/" in key:
            await raise_floor(faulty.inner, USER, 4)
        return etag

    faulty.inner.create = late  # type: ignore[method-assign]
    with pytest.raises(CommitNotFound):
        await author.log.tag("x", 3)
    assert await author.log.tags() == []


async def test_there_are_so_many_tags_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of backups is bounded, and the bound is in the error."""
    monkeypatch.setattr(tags, "MAX_TAGS", 3)
    author = author_of(tmp_path)
    await write(author, 1)
    for at in range(3):
        await author.log.tag(f"t{at}")
    with pytest.raises(LimitExceeded, match="3 backups"):
        await author.log.tag("t3")
    assert [tag.name for tag in await author.log.tags()] == ["t0", "t1", "t2"]


async def test_a_lost_answer_is_looked_up(tmp_path: Path) -> None:
    """A tag whose creation took effect is found to be one's own; one that never arrived is offered again."""
    faulty = FaultyBucket(MemoryBucket())
    author = author_of(tmp_path, faulty)
    await write(author, 2)
    faulty.plan("create", "done")
    assert await author.log.tag("done") == await author.log.get_tag("done")
    faulty.plan("create", "lost", "lost")
    assert await author.log.tag("lost") == await author.log.get_tag("lost")
    faulty.plan("create", *["lost"] * 4)
    with pytest.raises(OutcomeUnknown, match="another name"):
        await author.log.tag("unknown")
    faulty.plan("create", "denied")
    with pytest.raises(StoreUnavailable, match="Nothing was written"):
        await author.log.tag("denied")


async def test_a_tag_that_could_not_be_checked_is_of_unknown_outcome(tmp_path: Path) -> None:
    """Written, but no word about floors: the caller must not rely on it."""
    faulty = FaultyBucket(MemoryBucket())
    author = author_of(tmp_path, faulty)
    await write(author, 2)
    create = faulty.inner.create

    async def then_silence(key: str, data: bytes) -> str:
        faulty.plan("list_objects", "lost")
        return await create(key, data)

    faulty.inner.create = then_silence  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        await author.log.tag("x")
    faulty.plan("delete", "lost")
    with pytest.raises(OutcomeUnknown, match="do not use"):
        await author.log.delete_tag("x")
    await author.log.delete_tag("x")


async def test_the_end_takes_the_tags_first(tmp_path: Path) -> None:
    """No backup outlives its vectorstore, not even where its end is cut short; nor can its commits be tagged."""
    faulty = FaultyBucket(MemoryBucket())
    author = author_of(tmp_path, faulty)
    await write(author, 20)
    await author.log.tag("x", 2)
    faulty.plan("put", "lost")
    with pytest.raises(OutcomeUnknown):
        await author.log.end()
    assert await author.log.tags() == []
    await author.log.end()
    assert (await kinds(author))["commit"] == [21]
    await author.log.adopt(plain_directory(tmp_path / "plain"))
    with pytest.raises(CommitNotFound):
        await author.log.tag("x", 3)
    assert (await author.log.tag("x")).seq == 22
    assert (await author.log.scrub()).problems == []


async def test_scrub_names_tags_that_keep_nothing(tmp_path: Path) -> None:
    """A tag of a commit that is not there, of another one, or unreadable is a finding; a good one is none."""
    author = author_of(tmp_path)
    await write(author, 4)
    good = await author.log.tag("good", 2)
    body = (await author.bucket.get(PREFIX + "tags/good")).data
    assert good.name == "good"
    await author.bucket.put(PREFIX + "tags/late", body.replace(b'"good"', b'"late"').replace(b'"seq":2', b'"seq":9'))
    await author.bucket.put(PREFIX + "tags/odd", body.replace(b'"good"', b'"odd"').replace(b'"seq":2', b'"seq":3'))
    await author.bucket.put(PREFIX + "tags/bad", b"not a tag")
    await author.bucket.put(PREFIX + "tags/moved", body)
    report = await author.log.scrub()
    found = {problem.key.rpartition("/")[2]: problem.what for problem in report.problems}
    assert sorted(found) == ["bad", "late", "moved", "odd"]
    assert "commit 9, which is not there" in found["late"]
    assert "another commit" in found["odd"]
    assert report.newest_intact_seq == 4
    assert report.verified_at_ms == author.sources.now_ms()
    await overwrite(author.bucket, LOG + names.commit_name(1), b"damaged")
    found = {problem.key: problem.what for problem in (await author.log.scrub()).problems}
    assert "cannot be hydrated" in found[PREFIX + "tags/good"]


async def test_a_tag_that_came_too_late_keeps_nothing(tmp_path: Path) -> None:
    """A tag that appears after its commit was removed does not hinder a garbage removal."""
    author = author_of(tmp_path)
    await write(author, 6)
    await author.log.tag("x", 3)
    body = (await author.bucket.get(PREFIX + "tags/x")).data
    await author.log.delete_tag("x")
    author.sources.slept_s += WEEK_S
    await author.log.remove_garbage()
    await author.bucket.put(PREFIX + "tags/x", body)
    await author.bucket.put(LOG + names.base_name(2), b"stray")
    done = await CommitLog(author.bucket, USER, settings=author.settings, sources=author.sources).remove_garbage()
    assert (done.deleted_objects, done.complete) == (1, True)
    assert [problem.key for problem in (await author.log.scrub()).problems] == [PREFIX + "tags/x"]
