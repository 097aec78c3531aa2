"""Scrub: each kind of damage is found, named, and the newest intact commit below it can be had."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from tests.support.commitlogs import USER, Author, contents, overwrite
from vectorpool.commitlog.body import BodyBuilder
from vectorpool.commitlog.format import (
    PRELUDE_BYTES,
    FileEntry,
    Header,
    body_checksum,
    decode_header,
    digest,
    encode_header,
    state_checksum,
)
from vectorpool.commitlog.image import Extent
from vectorpool.commitlog.outcomes import ScrubReport
from vectorpool.errors import BrokenLog, CorruptObject

PREFIX = f"users/{USER}/vectorstore/log/"
BLOCK = 4096


async def story(root: Path, commits: int = 10) -> tuple[Author, dict[int, dict[str, bytes]]]:
    """A log of ten commits with merged deltas of four, and no base above commit 1."""
    author = Author(root, fanout=4)
    dice = random.Random(5)
    author.write("chroma.sqlite3", dice.randbytes(100 * BLOCK))
    then = {}
    for at in range(commits):
        author.write("chroma.sqlite3", dice.randbytes(200), offset=at * BLOCK)
        position = await author.commit()
        await author.compact()
        then[position.seq] = contents(author.directory)
    return author, then


def name(seq: int, after: int | None = None) -> str:
    inverted = f"{999_999_999_999 - seq:012d}"
    return inverted if after is None else f"{inverted}-after-{999_999_999_999 - after:012d}"


async def rewrite(author: Author, key: str, **changes: object) -> None:
    """Rewrite an object's header, with every checksum of the object itself right."""
    data = (await author.bucket.get(key)).data
    decoded = decode_header(key, data, len(data))
    head, _ = encode_header(msgspec.structs.replace(decoded.header, **changes))
    await overwrite(author.bucket, key, head + data[decoded.body_offset :])


async def forge(author: Author, key: str, header: Header, extents: list[Extent]) -> None:
    """Write an object with another body and right checksums of its own."""
    body = BodyBuilder()
    body.add(extents)
    frames, stored = body.finish(header.files)
    head, _ = encode_header(msgspec.structs.replace(header, frames=frames, body_checksum=body_checksum(frames)))
    await overwrite(author.bucket, key, b"".join([head, *stored]))


def found(report: ScrubReport) -> dict[str, str]:
    return {problem.key.removeprefix(PREFIX): problem.what for problem in report.problems}


async def test_an_intact_log_has_no_problems(tmp_path: Path) -> None:
    """Commits, merged deltas and bases are counted, and the newest is intact."""
    author, _ = await story(tmp_path)
    report = await author.log.scrub()
    assert report.ok
    assert (report.newest_seq, report.newest_intact_seq, report.commits, report.objects) == (10, 10, 10, 12)
    assert report.bytes == sum(info.size for info in (await author.objects()).values())


async def test_an_empty_log_has_no_problems(tmp_path: Path) -> None:
    """Nothing is intact, and nothing is wrong."""
    report = await Author(tmp_path).log.scrub()
    assert (report.ok, report.newest_seq, report.newest_intact_seq, report.objects) == (True, 0, 0, 0)


async def test_a_damaged_newest_commit_leaves_the_one_before(tmp_path: Path) -> None:
    """A flipped bit in the newest commit: it is named, and the commit before it is the newest intact one."""
    author, then = await story(tmp_path)
    data = bytearray((await author.bucket.get(PREFIX + name(10))).data)
    data[-1] ^= 4
    await overwrite(author.bucket, PREFIX + name(10), bytes(data))
    report = await author.log.scrub()
    assert list(found(report)) == [name(10)]
    assert "frame does not match its checksum" in found(report)[name(10)]
    assert report.newest_intact_seq == 9
    directory, _ = await author.hydrate(at=report.newest_intact_seq)
    assert contents(directory) == then[9]
    with pytest.raises(CorruptObject):
        await author.hydrate()


async def test_a_damaged_commit_under_a_merged_delta_harms_only_itself(tmp_path: Path) -> None:
    """Where a merged delta stands in for a damaged commit, the newest state is intact; the damage is named."""
    author, then = await story(tmp_path)
    await overwrite(author.bucket, PREFIX + name(6), b"")
    report = await author.log.scrub()
    assert list(found(report)) == [name(6)]
    assert report.newest_intact_seq == 10
    directory, _ = await author.hydrate()
    assert contents(directory) == then[10]


async def test_a_damaged_merged_delta_is_named(tmp_path: Path) -> None:
    """A cut merged delta is found; its commits are still there, so the newest is intact without it."""
    author, _ = await story(tmp_path)
    key = PREFIX + name(8, 4)
    await overwrite(author.bucket, key, (await author.bucket.get(key)).data[:-1])
    report = await author.log.scrub()
    assert list(found(report)) == [name(8, 4)]
    assert report.newest_intact_seq == 10


async def test_missing_commits_are_named(tmp_path: Path) -> None:
    """A gap is named, and what is above it cannot be had, if nothing stands in for it."""
    author, _ = await story(tmp_path)
    await author.bucket.delete(PREFIX + name(9))
    report = await author.log.scrub()
    assert found(report) == {name(9): "the commits 9 to 9 are missing"}
    assert (report.newest_seq, report.newest_intact_seq) == (10, 8)
    with pytest.raises(BrokenLog):
        await author.hydrate()


async def test_a_log_without_its_first_commit_has_nothing_to_stand_on(tmp_path: Path) -> None:
    """Deltas without a base below them lead nowhere."""
    author, _ = await story(tmp_path)
    await author.bucket.delete(PREFIX + name(1))
    report = await author.log.scrub()
    assert not report.ok
    assert report.newest_intact_seq == 0


async def test_a_commit_of_another_parent_is_named(tmp_path: Path) -> None:
    """A commit whose own checksums are right, but whose parent is not the one in the log."""
    author, _ = await story(tmp_path)
    await rewrite(author, PREFIX + name(10), parent_hash=digest(b"another history"))
    report = await author.log.scrub()
    assert "another parent than commit 9" in found(report)[name(10)]
    assert report.newest_intact_seq == 9


async def test_a_commit_that_does_not_lead_to_its_state_is_named(tmp_path: Path) -> None:
    """A commit whose file table claims other bytes than its blocks make."""
    author, _ = await story(tmp_path)
    table = [FileEntry("chroma.sqlite3", 100 * BLOCK, digest(b"a wish"))]
    await rewrite(author, PREFIX + name(10), files=table, state_after=state_checksum(table))
    report = await author.log.scrub()
    assert "lead to other contents of chroma.sqlite3" in found(report)[name(10)]
    assert report.newest_intact_seq == 9
    with pytest.raises(CorruptObject, match="does not match its checksum"):
        await author.hydrate()


async def test_a_merged_delta_that_lacks_a_block_is_named(tmp_path: Path) -> None:
    """A merged delta with right checksums that forgot one of its commits' blocks."""
    author, _ = await story(tmp_path)
    key = PREFIX + name(8, 4)
    data = (await author.bucket.get(key)).data
    header = decode_header(key, data, len(data)).header
    work = (author.directory / "chroma.sqlite3").read_bytes()
    # Commits 5 to 8 changed blocks 4 to 7; block 6 is left out.
    await forge(
        author, key, header, [Extent("chroma.sqlite3", b * BLOCK, work[b * BLOCK :][:BLOCK]) for b in (4, 5, 7)]
    )
    report = await author.log.scrub()
    assert found(report) == {name(8, 4): "it lacks blocks of chroma.sqlite3 that commits above 4 changed"}
    assert report.newest_intact_seq == 10


async def test_a_merged_delta_with_other_blocks_is_named(tmp_path: Path) -> None:
    """A merged delta with right checksums whose blocks are not those of its commits."""
    author, _ = await story(tmp_path)
    key = PREFIX + name(8, 4)
    data = (await author.bucket.get(key)).data
    header = decode_header(key, data, len(data)).header
    await forge(author, key, header, [Extent("chroma.sqlite3", 4 * BLOCK, bytes(4 * BLOCK))])
    report = await author.log.scrub()
    assert found(report) == {name(8, 4): "its blocks of chroma.sqlite3 are not those of commit 8"}
    with pytest.raises(CorruptObject):
        await author.hydrate(at=8)


async def test_a_base_of_another_state_is_named(tmp_path: Path) -> None:
    """A base with right checksums that holds another state than its commit's."""
    author, _ = await story(tmp_path)
    key = PREFIX + name(10) + "-base"
    data = (await author.bucket.get(PREFIX + name(1))).data
    first = decode_header(key, data, len(data))
    fake = msgspec.structs.replace(first.header, seq=10, commit_hash=author.position.commit_hash)
    head, _ = encode_header(fake)
    await author.bucket.put(key, head + data[first.body_offset :])
    report = await author.log.scrub()
    assert found(report) == {name(10) + "-base": "it holds another state than commit 10 leads to"}
    assert report.newest_intact_seq == 10


async def test_an_object_of_a_newer_format_is_named(tmp_path: Path) -> None:
    """Scrub does not stop at an object that it cannot read."""
    author, _ = await story(tmp_path)
    data = bytearray((await author.bucket.get(PREFIX + name(10))).data)
    data[4] = 9
    decoded_end = PRELUDE_BYTES + int.from_bytes(data[8:12], "little")
    data[12:28] = digest(bytes(data[:12]) + bytes(data[PRELUDE_BYTES:decoded_end]))
    await overwrite(author.bucket, PREFIX + name(10), bytes(data))
    report = await author.log.scrub()
    assert "format version 9" in found(report)[name(10)]
    assert report.newest_intact_seq == 9


@pytest.mark.parametrize("keeps", [16, 15, 17, 0])
async def test_a_newest_commit_that_was_cut_short_is_found(tmp_path: Path, keeps: int) -> None:
    """Also if what is left of it has the length of a grave."""
    author, _ = await story(tmp_path)
    key = PREFIX + name(10)
    await overwrite(author.bucket, key, (await author.bucket.get(key)).data[:keeps])
    report = await author.log.scrub()
    assert name(10) in found(report) and not report.ok
    assert report.newest_intact_seq == 9
