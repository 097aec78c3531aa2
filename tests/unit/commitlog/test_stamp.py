"""The engine stamp: every object carries the stamp of its state, and a state of a later engine is refused untouched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.commitlogs import USER, Author, contents
from tests.unit.commitlog.test_ending import plain_directory, upload
from tests.unit.commitlog.test_format import decode, make, reseal
from tests.unit.commitlog.test_garbage import author_of
from vectorpool.commitlog.fetch import Reader
from vectorpool.commitlog.format import PRELUDE_BYTES, Summary, header_bytes
from vectorpool.commitlog.hydrate import list_log
from vectorpool.commitlog.image import capture
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import Position
from vectorpool.commitlog.plan import LogObject
from vectorpool.commitlog.stamp import EngineStamp
from vectorpool.errors import NewerEngine
from vectorpool.objects.bucket import Bucket

KNOWN = 3


def stamp(number: int, *, sidecar: int = 1) -> EngineStamp:
    """Return the stamp of an engine with this many migrations."""
    return EngineStamp(f"1.{number}", bytes([number]) * 16, {"sysdb": number}, sidecar)


class Numbered:
    """An engine that knows migrations up to KNOWN, and reads a directory's from a file in it."""

    def stamp_of(self, directory: Path) -> EngineStamp | None:
        file = directory / "migrations"
        return stamp(int(file.read_text())) if file.exists() else None

    def admit(self, directory: Path) -> None: ...

    def check(self, stamp: EngineStamp | None) -> None:
        if stamp is not None and stamp.migrations["sysdb"] > KNOWN:
            raise NewerEngine("migrations are unknown")


def log_of(author: Author, user_id: str = USER) -> CommitLog:
    """Return the log with an engine that refuses what is newer."""
    return CommitLog(author.bucket, user_id, settings=author.settings, sources=author.sources, engine=Numbered())


async def commit(author: Author, number: int) -> Position:
    """Commit a page that an engine of this number wrote."""
    author.write("chroma.sqlite3", bytes([number]) * 4096)
    author.write(f"page-{author.position.seq}", b"page")
    pending = author.log.prepare(
        author.position,
        author.image,
        capture(author.directory, author.image),
        Summary(),
        stamp=stamp(number),
    )
    author.position = await author.log.append(pending)
    author.image = pending.image
    return author.position


async def stamps(author: Author, user_id: str = USER) -> dict[str, EngineStamp | None]:
    """Return the stamp of each object of a log, by the name of the object."""
    listing, _ = await list_log(author.bucket, user_id, whole=True)
    reader = Reader(author.bucket, user_id, None)

    def name(obj: LogObject) -> str:
        return f"{obj.kind} {obj.seq}"

    return {name(obj): (await reader.header(obj)).header.stamp for obj in listing.objects}


async def everything(bucket: Bucket) -> dict[str, bytes]:
    """Return every object of a bucket."""
    listed = await bucket.list_objects("", limit=100_000)
    return {info.key: (await bucket.get(info.key)).data for info in listed}


# --- The format --------------------------------------------------------------------------------------


def test_a_stamp_comes_back_as_it_was() -> None:
    """A header says which engine wrote the state; one without a stamp says nothing."""
    assert decode(make({"a": b"x"}, stamp=stamp(2))).header.stamp == stamp(2)
    assert decode(make({"a": b"x"})).header.stamp is None


def test_fields_that_a_later_version_adds_to_a_stamp_are_ignored() -> None:
    """A later version may append fields to the stamp and add fields to the header; this one reads the rest."""
    data = make({}, stamp=stamp(2))
    start = header_bytes("key", data)
    header: dict[str, Any] = msgspec.msgpack.decode(data[PRELUDE_BYTES:start])
    header["stamp"] = [*header["stamp"], "appended", {"more": 1}]
    header["shape"] = {"of": "things to come"}
    assert decode(reseal(msgspec.msgpack.encode(header), minor=3)).header.stamp == stamp(2)


def test_a_header_from_before_there_were_stamps_is_read() -> None:
    """A header without the field decodes, and has no stamp."""
    data = make({})
    header: dict[str, Any] = msgspec.msgpack.decode(data[PRELUDE_BYTES : header_bytes("key", data)])
    del header["stamp"]
    assert decode(reseal(msgspec.msgpack.encode(header))).header.stamp is None


# --- Which object carries which stamp ----------------------------------------------------------------


async def test_every_object_carries_the_stamp_of_its_state(tmp_path: Path) -> None:
    """Commits carry their own stamp; merged deltas and bases that of their newest commit; a hydrate returns it."""
    author = Author(tmp_path, fanout=2)
    for number in (1, 1, 2, 2, 3):
        await commit(author, number)
        await author.compact()
    found = await stamps(author)
    assert {name: s for name, s in found.items() if name.startswith("commit")} == {
        f"commit {seq}": stamp(number) for seq, number in enumerate((1, 1, 2, 2, 3), 1)
    }
    derived = {name: s for name, s in found.items() if not name.startswith("commit")}
    assert derived, "nothing was compacted"
    for name, carried in derived.items():
        assert carried == found[f"commit {name.split()[1]}"]
    assert (await author.hydrate())[1].stamp == stamp(3)
    assert (await author.hydrate(at=2))[1].stamp == stamp(1)
    assert [entry.stamp for entry in await author.log.entries(limit=2)] == [stamp(3), stamp(2)]


async def test_a_base_that_garbage_removal_makes_carries_the_stamp(tmp_path: Path) -> None:
    """The state at the floor keeps its stamp when its commit's parents are gone."""
    author = author_of(tmp_path)
    for number in (1, 2, 2):
        await commit(author, number)
    author.sources.slept_s += 30 * 24 * 3600
    await author.log.remove_garbage()
    assert (await stamps(author))["base 3"] == stamp(2)


async def test_a_restore_and_a_fork_carry_the_stamp_of_the_state_that_they_bring(tmp_path: Path) -> None:
    """A restored commit has the stamp of then, a forked one that of its source; a tombstone has none."""
    author = Author(tmp_path)
    for number in (1, 3):
        await commit(author, number)
    await log_of(author).restore(1)
    await log_of(author).fork("43")
    await log_of(author).fork("44", at=2)
    found = await stamps(author)
    assert (found["commit 2"], found["commit 3"]) == (stamp(3), stamp(1))
    assert await stamps(author, "43") == {"commit 1": stamp(1)}
    assert await stamps(author, "44") == {"commit 1": stamp(3)}
    await log_of(author).end()
    assert await stamps(author) == {"commit 4": None}


async def test_adoption_stamps_what_the_directory_is(tmp_path: Path) -> None:
    """A directory that is imported, or lies in the bucket, is stamped by what its files say."""
    author = Author(tmp_path)
    plain = plain_directory(tmp_path / "plain")
    (plain / "migrations").write_text("2")
    await log_of(author).adopt(plain)
    assert await stamps(author) == {"commit 1": stamp(2)}
    for path, data in contents(plain).items():
        await author.bucket.put(f"users/45/vectorstore/{path}", data)
    hydrated = await log_of(author, "45").hydrate(tmp_path / "hydrated")
    assert hydrated is not None and hydrated.stamp == stamp(2)
    assert await stamps(author, "45") == {"commit 1": stamp(2)}


# --- A later engine ----------------------------------------------------------------------------------


async def refuses(author: Author, call: Callable[[], Awaitable[object]]) -> None:
    """Require that a call is refused by name, and that the bucket is as it was."""
    before = await everything(author.bucket)
    with pytest.raises(NewerEngine):
        await call()
    assert await everything(author.bucket) == before


async def test_a_log_of_a_later_engine_is_refused_untouched(tmp_path: Path) -> None:
    """It is not hydrated, nor restored to an older commit, nor forked; its older states can still be read."""
    author = Author(tmp_path)
    for number in (KNOWN, KNOWN + 1):
        await commit(author, number)
    log = log_of(author)
    directory = tmp_path / "refused"
    await refuses(author, lambda: log.hydrate(directory))
    assert list(directory.iterdir()) == []
    await refuses(author, lambda: log.restore(1))
    await refuses(author, lambda: log.fork("43"))
    await refuses(author, lambda: log.fork("43", at=2))
    old = await log.hydrate(tmp_path / "old", at=1)
    assert old is not None and old.stamp == stamp(KNOWN)


async def test_a_state_of_a_later_engine_is_not_restored(tmp_path: Path) -> None:
    """A newest state that is known is not replaced by one that is not."""
    author = Author(tmp_path)
    for number in (KNOWN + 1, KNOWN):
        await commit(author, number)
    await refuses(author, lambda: log_of(author).restore(1))


async def test_a_directory_of_a_later_engine_is_not_adopted(tmp_path: Path) -> None:
    """Neither an import, nor a directory in the bucket, nor a tag or fork of it makes a commit."""
    author = Author(tmp_path)
    plain = plain_directory(tmp_path / "plain")
    (plain / "migrations").write_text(str(KNOWN + 1))
    await refuses(author, lambda: log_of(author).adopt(plain))
    await upload(author, plain)
    log = log_of(author)
    await refuses(author, lambda: log.hydrate(tmp_path / "refused"))
    await refuses(author, lambda: log.tag("name"))
    await refuses(author, lambda: log.fork("43"))


async def test_what_needs_bytes_only_works_on_a_log_of_a_later_engine(tmp_path: Path) -> None:
    """Export, scrub, history, backups, compaction, garbage removal and deletion do not open the state."""
    author = author_of(tmp_path)
    for number in (KNOWN, KNOWN + 1, KNOWN + 1, KNOWN + 1):
        await commit(author, number)
    log = log_of(author)
    exported = await log.export(tmp_path / "exported")
    assert exported.stamp == stamp(KNOWN + 1)
    assert (tmp_path / "exported" / "chroma.sqlite3").read_bytes() == bytes([KNOWN + 1]) * 4096
    assert (await log.scrub()).ok
    assert len(await log.entries(limit=10)) == 4
    await log.compact(author.position)
    await log.tag("kept", 2)
    author.sources.slept_s += 30 * 24 * 3600
    await log.remove_garbage()
    assert (await author.hydrate())[1].stamp == stamp(KNOWN + 1)
    assert (await log.scrub()).ok
    assert await log.end() > 0


async def test_the_newer_engine_restores_what_the_older_one_opens(tmp_path: Path) -> None:
    """Going back: the restore of the commit before a migration has the old stamp, so the old engine goes on from it."""

    class Later(Numbered):
        def check(self, stamp: EngineStamp | None) -> None:
            """Know one migration more."""

    author = Author(tmp_path)
    for number in (KNOWN, KNOWN + 1):
        await commit(author, number)
    old = log_of(author)
    await refuses(author, lambda: old.hydrate(tmp_path / "refused"))
    later = CommitLog(author.bucket, USER, settings=author.settings, sources=author.sources, engine=Later())
    restored = await later.restore(1)
    hydrated = await old.hydrate(tmp_path / "back")
    assert hydrated is not None
    assert (hydrated.position, hydrated.stamp) == (restored, stamp(KNOWN))
    assert (tmp_path / "back" / "chroma.sqlite3").read_bytes() == bytes([KNOWN]) * 4096
