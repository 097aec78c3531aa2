"""The kernel's cache of names says that a file is missing only if it is, and follows whatever becomes of the root."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vectorpool.objects.directory import DirectoryBucket
from vectorpool.platform import name_cache, openat2
from vectorpool.platform.name_cache import NameCache


@pytest.fixture
def names(tmp_path: Path) -> NameCache:
    """A cache over a directory with one file and one link."""
    root = tmp_path / "root"
    (root / "user" / "log").mkdir(parents=True)
    (root / "user" / "log" / "there").write_bytes(b"x")
    (root / "user" / "link").symlink_to("log")
    names = NameCache(root)
    if not _knows(names, root, "user/log/none"):
        pytest.skip("this kernel, or this file system, is not asked")
    return names


def _knows(names: NameCache, root: Path, path: str) -> bool:
    """Have the kernel look for a path, as every first question does, and return what the cache says then."""
    names.is_absent(path)
    assert not (root / path).exists()
    return names.is_absent(path)


def test_a_missing_file_is_absent_until_it_is_made(names: NameCache, tmp_path: Path) -> None:
    """What another process links to the name is there at once, and absent again once it is gone."""
    path = tmp_path / "root" / "user" / "log" / "none"
    assert names.is_absent("user/log/none")
    os.link(tmp_path / "root" / "user" / "log" / "there", path)
    assert not names.is_absent("user/log/none")
    path.unlink()
    assert names.is_absent("user/log/none")


def test_nothing_is_said_of_what_is_there_or_not_known(names: NameCache, tmp_path: Path) -> None:
    """A file, a directory, what lies behind a link or above the root, and what was never looked for are not absent."""
    (tmp_path / "above").write_bytes(b"x")
    (tmp_path / "root" / "user" / "dangling").symlink_to("nowhere")
    for path in (
        "user/log/there",
        "user/log",
        "user/link/none",
        "user/dangling",
        "user/log/there/below",
        "../above",
        "../none",
        "user/log/never looked for",
    ):
        assert not names.is_absent(path), path


def test_another_directory_may_take_the_place_of_the_root(names: NameCache, tmp_path: Path) -> None:
    """After the store was put back to an earlier state, its own files count, not those of the directory before."""
    root = tmp_path / "root"
    assert names.is_absent("user/log/none")
    root.rename(tmp_path / "before")
    assert not names.is_absent("user/log/none"), "without a root nothing is known"
    (root / "user" / "log").mkdir(parents=True)
    (root / "user" / "log" / "none").write_bytes(b"x")
    assert not names.is_absent("user/log/none")
    (root / "user" / "log" / "none").unlink()
    assert _knows(names, root, "user/log/none")


def test_a_root_behind_a_link_is_that_which_the_link_names_now(names: NameCache, tmp_path: Path) -> None:
    """The root itself may be a link, which may be changed."""
    other = tmp_path / "other"
    (other / "user" / "log").mkdir(parents=True)
    (other / "user" / "log" / "none").write_bytes(b"x")
    link = tmp_path / "link"
    link.symlink_to("root")
    linked = NameCache(link)
    assert _knows(linked, link, "user/log/none")
    link.unlink()
    link.symlink_to("other")
    assert not linked.is_absent("user/log/none")
    assert not linked.is_absent("user/log/none")


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.EPERM, errno.EINVAL])
def test_a_kernel_that_does_not_know_the_question_is_asked_once(
    names: NameCache, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    """An older kernel, or a filter of system calls, leaves every question to a thread."""
    calls = []

    def refuse(*_: object) -> int:
        calls.append(1)
        openat2.ctypes.set_errno(reason)
        return -1

    monkeypatch.setattr(names._opener, "_call", refuse)
    for _ in range(3):
        assert not names.is_absent("user/log/none")
    assert len(calls) == 1


def test_a_file_system_that_others_write_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mounted file system the kernel may remember for a minute what is not so any more."""
    monkeypatch.setattr(name_cache, "_OWN", frozenset[int]())
    assert not _knows(NameCache(tmp_path), tmp_path, "none")


async def test_a_directory_as_store_tells_at_once_what_is_missing(names: NameCache, tmp_path: Path) -> None:
    """A key is surely absent once it was looked for, until an object takes it; ``close`` leaves no descriptor."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    bucket = DirectoryBucket(tmp_path / "root")
    assert not bucket.is_surely_absent("user/log/1")
    assert not (tmp_path / "root" / "user" / "log" / "1").exists()
    assert bucket.is_surely_absent("user/log/1")
    await bucket.create("user/log/1", b"x")
    assert not bucket.is_surely_absent("user/log/1")
    await bucket.close()
    names.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
