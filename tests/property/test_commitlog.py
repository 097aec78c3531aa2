"""The commit log against a dictionary: whatever happens to a directory, every commit of it can be had again."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.commitlogs import USER, Author, contents, overwrite
from vectorpool.commitlog.image import capture, scan
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.warm import WarmTier
from vectorpool.errors import BrokenLog, CorruptObject, NewerFormat

PATHS = ("chroma.sqlite3", "vectorpool.sqlite3", "a/data_level0.bin", "a/link_lists.bin", "b/length.bin")
BLOCK = 4096
SIZES = st.one_of(
    st.integers(0, 20_000), st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 1])
)
CHANGES = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(PATHS), SIZES, st.integers(0, 5)),
    st.tuples(st.just("patch"), st.sampled_from(PATHS), SIZES, st.integers(0, 5)),
    st.tuples(st.just("resize"), st.sampled_from(PATHS), SIZES, st.just(0)),
    st.tuples(st.just("delete"), st.sampled_from(PATHS), st.just(0), st.just(0)),
)
HISTORIES = st.lists(st.lists(CHANGES, max_size=4), min_size=1, max_size=14)
Change = tuple[str, str, int, int]


def apply(author: Author, change: Change) -> None:
    verb, path, size, seed = change
    file = author.directory / path
    if verb == "write":
        # Seed 0 is compressible, others are not, so both codecs are met.
        author.write(path, bytes(size) if seed == 0 else random.Random(seed).randbytes(size))
    elif not file.exists():
        return
    elif verb == "patch":
        author.write(path, random.Random(seed).randbytes(50), offset=size)
    elif verb == "resize":
        with file.open("r+b") as handle:
            handle.truncate(size)
    else:
        file.unlink()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=HISTORIES, fanout=st.sampled_from([2, 3]), use_warm=st.booleans())
def test_every_commit_hydrates_to_what_the_directory_was(
    history: list[list[Change]], fanout: int, use_warm: bool
) -> None:
    """Any changes, committed and compacted, replay at every number to exactly the files of then; and scrub agrees."""

    async def run(root: Path) -> None:
        warm = WarmTier(root / "warm", 10**9) if use_warm else None
        author = Author(root, warm=warm, fanout=fanout)
        then: dict[int, dict[str, bytes]] = {}
        for changes in history:
            for change in changes:
                apply(author, change)
            position = await author.commit()
            await author.compact()
            then[position.seq] = contents(author.directory)
        for seq, files in then.items():
            directory, hydrated = await author.hydrate(at=seq)
            assert contents(directory) == files
            assert hydrated.position.seq == seq
            assert scan(directory) == hydrated.image
        again = root / "again"
        hydrated = await author.log.hydrate(again)
        assert hydrated is not None
        assert contents(again) == then[len(history)]
        assert (hydrated.position, hydrated.image) == (author.position, author.image)
        report = await author.log.scrub()
        assert report.problems == []
        assert report.newest_intact_seq == report.newest_seq == len(history)

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(run(Path(root)))


@settings(max_examples=60, deadline=None)
@given(before=st.lists(CHANGES, max_size=6), after=st.lists(CHANGES, max_size=6))
def test_capture_sees_what_scan_sees(before: list[Change], after: list[Change]) -> None:
    """A capture's image is the directory's scan, and its extents over the old bytes give the new ones."""
    with tempfile.TemporaryDirectory() as root:
        author = Author(Path(root))
        for change in before:
            apply(author, change)
        old_image, old = scan(author.directory), contents(author.directory)
        for change in after:
            apply(author, change)
        found = capture(author.directory, old_image)
        new = contents(author.directory)
        assert found.image == scan(author.directory)
        built = {path: bytearray(old.get(path, b"")[: len(data)].ljust(len(data), b"\0")) for path, data in new.items()}
        for extent in found.extents:
            built[extent.path][extent.offset : extent.offset + len(extent.data)] = extent.data
        assert built == new
        assert found.removed == sorted(set(old) - set(new))
        assert found.changed == (old != new)


@pytest.fixture(scope="module")
def damaged_log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Author, list[str]]:
    """A log whose newest state needs a base, a merged delta and a commit."""
    root = tmp_path_factory.mktemp("damage")

    async def build() -> tuple[Author, list[str]]:
        author = Author(root, fanout=2)
        dice = random.Random(1)
        author.write("chroma.sqlite3", bytes(30_000) + dice.randbytes(30_000))
        for at in range(7):
            author.write("chroma.sqlite3", dice.randbytes(100), offset=at * BLOCK)
            author.write(f"{at % 2}/data.bin", dice.randbytes(at * 1000 + 1))
            await author.commit()
            await author.compact()
        log = CommitLog(author.bucket, USER, settings=author.settings)
        used: list[str] = []
        get = author.bucket.get

        async def spy(key: str):  # type: ignore[no-untyped-def]
            used.append(key)
            return await get(key)

        author.bucket.get = spy  # type: ignore[method-assign]
        assert await log.hydrate(root / "intact") is not None
        author.bucket.get = get  # type: ignore[method-assign]
        assert len(set(used)) >= 3, used
        return author, sorted(set(used))

    return asyncio.run(build())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_changed_byte_is_ever_served(damaged_log: tuple[Author, list[str]], data: st.DataObject) -> None:
    """Any byte flipped, cut off or added, in any object of a chain, fails the hydrate and leaves nothing behind."""
    author, keys = damaged_log
    key = data.draw(st.sampled_from(keys))

    async def run(target: Path) -> None:
        intact = (await author.bucket.get(key)).data
        harm = data.draw(st.sampled_from(["flip", "cut", "add"]))
        if harm == "flip":
            at = data.draw(st.integers(0, len(intact) - 1))
            changed = intact[:at] + bytes([intact[at] ^ data.draw(st.integers(1, 255))]) + intact[at + 1 :]
        elif harm == "cut":
            changed = intact[: data.draw(st.integers(0, len(intact) - 1))]
        else:
            changed = intact + data.draw(st.binary(min_size=1, max_size=50))
        await overwrite(author.bucket, key, changed)
        try:
            # Its sources do not really wait between the looks of a scrub.
            log = CommitLog(author.bucket, USER, settings=author.settings, sources=author.sources)
            with pytest.raises((CorruptObject, BrokenLog, NewerFormat)) as caught:
                await log.hydrate(target)
            assert key in caught.value.detail
            assert contents(target) == {}
            report = await log.scrub()
            assert key in {problem.key for problem in report.problems}
        finally:
            await overwrite(author.bucket, key, intact)

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(run(Path(root) / "target"))
