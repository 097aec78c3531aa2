"""The warm tier: bounded, evicted by user, survives restarts, and never in the way."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from vectorpool import local_paths, names
from vectorpool.commitlog import warm as warm_module
from vectorpool.commitlog.plan import LogObject
from vectorpool.commitlog.warm import WarmTier


def commit(seq: int, size: int = 100, etag: str = "e") -> LogObject:
    return LogObject(f"users/u/vectorstore/log/{names.commit_name(seq)}", "commit", seq, seq - 1, size, etag)


def fill(tier: WarmTier, user: str, seq: int, size: int = 100) -> None:
    """Have an object on disk."""
    tier.put(user, commit(seq, size), bytes([seq]) * size)
    tier.close()


def test_what_was_put_is_read_in_parts(tmp_path: Path) -> None:
    """Bytes come back as they were, by range; another object, user or ETag is not there."""
    tier = WarmTier(tmp_path, 1000)
    tier.put("42", commit(1, 10), b"0123456789")
    assert tier.read("42", commit(1, 10), 2, 5) == b"234"
    assert tier.read("42", commit(2, 10), 0, 1) is None
    assert tier.read("43", commit(1, 10), 0, 1) is None
    assert tier.read("42", commit(1, 10, "other"), 0, 1) is None
    assert tier.read("42", commit(1, 11), 0, 1) is None


def test_whole_users_are_evicted_least_recently_used_first(tmp_path: Path) -> None:
    """The bound holds; who was read last stays; the files of the evicted are gone from disk."""
    tier = WarmTier(tmp_path, 500)
    for user in ("a", "b"):
        fill(tier, user, 1)
        fill(tier, user, 2)
    assert tier.total_bytes == 400
    assert tier.read("a", commit(1), 0, 1) is not None
    fill(tier, "c", 1, 200)
    assert (tier.user_bytes("a"), tier.user_bytes("b"), tier.user_bytes("c")) == (200, 0, 200)
    assert tier.total_bytes == 400 <= tier.limit_bytes
    assert sorted(d.name for d in tmp_path.iterdir()) == ["a", "c"]


def test_who_grows_is_not_evicted_for_it(tmp_path: Path) -> None:
    """The least recently used user, growing, makes room at the cost of others."""
    tier = WarmTier(tmp_path, 500)
    fill(tier, "a", 1, 200)
    fill(tier, "b", 1, 200)
    fill(tier, "a", 2, 150)
    assert (tier.user_bytes("a"), tier.user_bytes("b"), tier.total_bytes) == (350, 0, 350)
    assert tier.read("a", commit(1, 200), 0, 200) == bytes([1]) * 200
    assert tier.read("a", commit(2, 150), 0, 150) == bytes([2]) * 150
    fill(tier, "a", 3, 150)
    assert (tier.user_bytes("a"), tier.read("a", commit(1, 200), 0, 1)) == (500, bytes([1]))


def test_a_user_larger_than_all_keeps_the_newest_object(tmp_path: Path) -> None:
    """One user cannot exceed the bound either; an object that alone does is not cached."""
    tier = WarmTier(tmp_path, 250)
    for seq in (1, 2, 3):
        fill(tier, "a", seq)
    assert tier.user_bytes("a") == 100
    assert tier.read("a", commit(3), 0, 1) is not None
    assert tier.writer("a", commit(4, 251)) is None
    assert len(list((tmp_path / "a").iterdir())) == 1


def test_a_restart_finds_what_was_cached(tmp_path: Path) -> None:
    """Sizes are counted again; unfinished copies are removed."""
    tier = WarmTier(tmp_path, 1000)
    fill(tier, "me@example.com", 1)
    fill(tier, "me@example.com", 2)
    unfinished = tier.writer("me@example.com", commit(3))
    assert unfinished is not None
    unfinished.write(b"half")
    again = WarmTier(tmp_path, 1000)
    assert again.total_bytes == again.user_bytes("me@example.com") == 200
    assert again.read("me@example.com", commit(2), 0, 100) == bytes([2]) * 100
    assert len(list((tmp_path / local_paths.local_segment("me@example.com")).iterdir())) == 2
    assert WarmTier(tmp_path, 150).total_bytes == 0


def test_superseded_objects_are_dropped(tmp_path: Path) -> None:
    """Up to a number only the named objects stay; newer ones are left alone."""
    tier = WarmTier(tmp_path, 1000)
    for seq in (1, 2, 3, 4):
        fill(tier, "a", seq)
    tier.keep_only("a", [commit(2)], above=3)
    assert [tier.read("a", commit(seq), 0, 1) is not None for seq in (1, 2, 3, 4)] == [False, True, False, True]
    tier.drop("a")
    assert tier.total_bytes == 0


def test_an_incomplete_copy_never_appears(tmp_path: Path) -> None:
    """A writer that got fewer bytes than the object has, or was discarded, leaves nothing."""
    tier = WarmTier(tmp_path, 1000)
    for finish in ("commit", "discard"):
        writer = tier.writer("a", commit(1))
        assert writer is not None
        writer.write(b"too short")
        getattr(writer, finish)()
        assert tier.read("a", commit(1), 0, 1) is None
        assert list((tmp_path / "a").iterdir()) == []


def test_a_full_disk_means_less_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC is not the caller's problem."""
    tier = WarmTier(tmp_path, 1000)

    def full(*_: object, **__: object) -> tuple[int, str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(warm_module.tempfile, "mkstemp", full)
    monkeypatch.setattr(warm_module.Path, "write_bytes", full)
    large = commit(2, 100 * 1024)
    tier.put("a", large, bytes(100 * 1024))
    assert tier.read("a", large, 0, 1) is None
    fill(tier, "a", 1)
    assert tier.read("a", commit(1), 0, 1) is None
    assert tier.total_bytes == 0


def test_small_objects_are_held_in_memory_until_others_take_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read, counted and dropped like any other, and make a file only if they are still wanted."""
    monkeypatch.setattr(warm_module, "HELD_BYTES", 250)
    tier = WarmTier(tmp_path, 1000)
    for seq in (1, 2):
        tier.put("a", commit(seq), bytes([seq]) * 100)
    assert tier.read("a", commit(2), 1, 3) == b"\2\2" and tier.user_bytes("a") == 200
    assert not list(tmp_path.iterdir())
    tier.keep_only("a", [commit(2)], above=2)
    assert tier.read("a", commit(1), 0, 1) is None and tier.total_bytes == 100
    for seq in (3, 4):
        tier.put("a", commit(seq), bytes([seq]) * 100)
    assert len(list((tmp_path / "a").iterdir())) == 1
    assert [tier.read("a", commit(seq), 0, 1) for seq in (2, 3, 4)] == [b"\2", b"\3", b"\4"]
    tier.close()
    assert WarmTier(tmp_path, 1000).total_bytes == 300
    tier.put("b", commit(1), bytes(100))
    tier.drop("b")
    tier.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_vanished_copy_is_a_miss(tmp_path: Path) -> None:
    """Somebody cleaned the directory: the object is simply not there any more."""
    tier = WarmTier(tmp_path, 1000)
    fill(tier, "a", 1)
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    assert tier.read("a", commit(1), 0, 1) is None
    assert tier.user_bytes("a") == 0
    fill(tier, "a", 1)
    assert tier.read("a", commit(1), 0, 1) is not None
