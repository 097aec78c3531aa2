"""The directory bucket against killed writers, power loss and its own neighbours."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from vectorpool.objects import directory as module
from vectorpool.objects.bucket import KeyTaken, KeyTooLong, ObjectExists, ObjectMissing
from vectorpool.objects.directory import STAGING, STAGING_MAX_AGE_MS, DirectoryBucket


async def test_what_a_killed_writer_left_is_not_shown(tmp_path: Path) -> None:
    """A half-written staging file is no object: it is not listed, not read, and does not take its key."""
    bucket = DirectoryBucket(tmp_path)
    (tmp_path / STAGING / "half").write_bytes(b"half of an obj")
    assert await bucket.list_objects("", limit=10) == []
    assert await bucket.list_prefixes("") == []
    with pytest.raises(ValueError, match="staging"):
        await bucket.get(f"{STAGING}/half")
    await bucket.create("users/1/x", b"whole")
    assert [info.key for info in await bucket.list_objects("", limit=10)] == ["users/1/x"]


async def test_old_staging_files_are_swept_at_open(tmp_path: Path) -> None:
    """At open a staging file of more than a day goes, and a younger one, whose writer may live, stays."""
    DirectoryBucket(tmp_path)
    old, young = tmp_path / STAGING / "old", tmp_path / STAGING / "young"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    age_s = STAGING_MAX_AGE_MS / 1000 + 60
    os.utime(old, (old.stat().st_atime - age_s, old.stat().st_mtime - age_s))
    DirectoryBucket(tmp_path)
    assert not old.exists()
    assert young.exists()


async def test_every_write_empties_the_staging_directory(tmp_path: Path) -> None:
    """Won, lost and replaced writes all leave nothing in the staging directory."""
    bucket = DirectoryBucket(tmp_path)
    await bucket.create("k", b"1")
    with pytest.raises(ObjectExists):
        await bucket.create("k", b"2")
    await bucket.put("k", b"3")
    assert list((tmp_path / STAGING).iterdir()) == []


@pytest.mark.parametrize("write", ["create", "put"])
async def test_with_fsync_file_and_names_are_flushed_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """With fsync the bytes are flushed before they get their name, then the name, then nothing is left to lose."""
    events: list[str] = []
    real_fsync, real_link, real_replace = os.fsync, os.link, os.replace

    def fsync(descriptor: int) -> None:
        is_dir = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(f"fsync dir /{path.relative_to(tmp_path)}" if is_dir else "fsync file")
        real_fsync(descriptor)

    def link(source: Path, target: str, *, dst_dir_fd: int) -> None:
        events.append("name")
        real_link(source, target, dst_dir_fd=dst_dir_fd)

    def replace(source: Path, target: str, *, dst_dir_fd: int) -> None:
        events.append("name")
        real_replace(source, target, dst_dir_fd=dst_dir_fd)

    bucket = DirectoryBucket(tmp_path, fsync=True)
    monkeypatch.setattr(module.os, "fsync", fsync)
    monkeypatch.setattr(module.os, "link", link)
    monkeypatch.setattr(module.os, "replace", replace)
    await getattr(bucket, write)("users/1/x", b"data")
    assert events == ["fsync file", "fsync dir /.", "fsync dir /users", "name", "fsync dir /users/1"]
    events.clear()
    await bucket.delete("users/1/x")
    assert events == ["fsync dir /users/1"]


async def test_without_fsync_nothing_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default pays for no flush."""
    monkeypatch.setattr(module.os, "fsync", lambda descriptor: pytest.fail("flushed"))
    bucket = DirectoryBucket(tmp_path)
    await bucket.create("a/b", b"1")
    await bucket.put("a/b", b"2")
    await bucket.delete("a/b")


async def test_two_instances_share_a_directory(tmp_path: Path) -> None:
    """Of creates through two buckets on one directory one wins, and both read it."""
    one, other = DirectoryBucket(tmp_path), DirectoryBucket(tmp_path)
    for number in range(50):
        key = f"log/{number}"
        answers = await asyncio.gather(one.create(key, b"1"), other.create(key, b"2"), return_exceptions=True)
        assert sorted(type(answer).__name__ for answer in answers) == ["ObjectExists", "str"]
        assert await one.get(key) == await other.get(key)


async def test_writes_survive_deletes_beside_them(tmp_path: Path) -> None:
    """A delete that prunes an emptied directory does not break a write into it."""
    bucket = DirectoryBucket(tmp_path)

    async def writer(name: str) -> None:
        for _ in range(60):
            await bucket.create(f"users/1/log/{name}", b"x")
            await bucket.delete(f"users/1/log/{name}")

    await asyncio.gather(*(writer(str(number)) for number in range(6)))
    assert await bucket.list_objects("", limit=1) == []
    assert not (tmp_path / "users").exists()


async def test_an_object_and_a_directory_cannot_share_a_name(tmp_path: Path) -> None:
    """A key below an object's key, or above one, is refused as such, and the object that is there stays."""
    bucket = DirectoryBucket(tmp_path)
    await bucket.create("a/b", b"1")
    for write in (bucket.create, bucket.put):
        for key in ("a", "a/b/c"):
            with pytest.raises(KeyTaken, match=f"share a name.*{key}"):
                await write(key, b"2")
    with pytest.raises(ObjectMissing):
        await bucket.head("a")
    await bucket.delete("a")
    assert (await bucket.get("a/b")).data == b"1"


async def test_a_name_that_the_file_system_cannot_hold_is_refused_as_such(tmp_path: Path) -> None:
    """A segment of 256 bytes is named by a write, whose bytes are nowhere, and is a missing object to a read."""
    bucket = DirectoryBucket(tmp_path)
    for key in ("users/" + "n" * 256, "n" * 256 + "/a", "ü" * 128 + "/a"):
        for write in (bucket.create, bucket.put):
            with pytest.raises(KeyTooLong, match="longer than the file system"):
                await write(key, b"1")
        for read in (bucket.get, bucket.head):
            with pytest.raises(ObjectMissing):
                await read(key)
        await bucket.delete(key)
    await bucket.put("users/" + "n" * 255, b"1")
    assert [info.size for info in await bucket.list_objects("", limit=5)] == [1]
    assert list((tmp_path / ".vectorpool-staging").iterdir()) == []


async def test_links_and_pipes_are_no_objects(tmp_path: Path) -> None:
    """A link to a file or a directory, or a pipe: not listed, not read, not written through, and not waited for."""
    outside, root = tmp_path / "outside", tmp_path / "store"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    bucket = DirectoryBucket(root)
    await bucket.put("users/1/good", b"x")
    (root / "users" / "1" / "file").symlink_to(outside / "secret")
    (root / "users" / "1" / "folder").symlink_to(outside)
    (root / "users" / "2").symlink_to(outside)
    os.mkfifo(root / "users" / "1" / "pipe")
    assert [info.key for info in await bucket.list_objects("", limit=9)] == ["users/1/good"]
    assert await bucket.list_prefixes("users/") == ["1"]
    assert await bucket.list_objects("users/1/folder/", limit=9) == []
    for key in ("users/1/file", "users/1/folder/secret", "users/2/secret", "users/1/pipe"):
        with pytest.raises(ObjectMissing):
            await bucket.get(key)
        with pytest.raises(ObjectMissing):
            await bucket.get_range(key, 0, 2)
        with pytest.raises(ObjectMissing):
            await bucket.head(key)
    for write in (bucket.put, bucket.create):
        for key in ("users/1/folder/new", "users/2/a/b/new"):
            with pytest.raises(KeyTaken, match="links are not followed"):
                await write(key, b"x")
    await bucket.delete("users/1/folder/secret")
    await bucket.delete("users/2/secret")
    assert [path.name for path in outside.iterdir()] == ["secret"]
    # A write to the link's own name replaces the link, and deleting it leaves what it named.
    await bucket.put("users/1/file", b"ours")
    assert (await bucket.get("users/1/file")).data == b"ours"
    assert (outside / "secret").read_bytes() == b"secret"


async def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    """An operator chooses where the store lies; what is below it belongs to others."""
    (tmp_path / "real").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "real")
    bucket = DirectoryBucket(tmp_path / "store")
    await bucket.put("a/b", b"x")
    assert (tmp_path / "real" / "a" / "b").read_bytes() == b"x"
    assert await bucket.list_prefixes("") == ["a"]
