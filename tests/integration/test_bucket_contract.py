"""What every bucket promises, asked of every store that runs here."""

from __future__ import annotations

import asyncio
import random

import httpx
import pytest

from vectorpool.objects.bucket import Bucket, ObjectChanged, ObjectExists, ObjectMissing, UploadUrlsUnknown
from vectorpool.objects.probe import PROBE_PREFIX, probe
from vectorpool.objects.remote import RemoteBucket

ODD_KEYS = [
    "users/a b@example.org/vectorstore/log/000000000001",
    "users/a#1/x",
    "users/100%25/x",
    "users/100%/x",
    "users/ünïcödé-名前/x",
    "users/plus+and=equals&amp;/x",
    "users/quo'te\"s/x",
    "users/~tilde~/x",
    "users/semi;colon:comma,/x",
    "users/[brackets]{braces}/x",
    "users/a?b*c|d<e>/x",
    "users/.hidden/..almost/x",
    "users/back`tick^/x",
]


async def test_what_was_put_is_what_is_read(bucket: Bucket) -> None:
    """An object's bytes come back whole, with the ETag that the write returned, and head agrees."""
    etag = await bucket.put("a/b", b"hello")
    body = await bucket.get("a/b")
    info = await bucket.head("a/b")
    assert body.data == b"hello"
    assert body.etag == etag == info.etag != ""
    assert (info.key, info.size) == ("a/b", 5)
    assert info.modified_ms > 1_600_000_000_000


async def test_put_replaces_and_changes_the_etag(bucket: Bucket) -> None:
    """A second put of a key replaces the bytes, and its ETag differs."""
    first = await bucket.put("k", b"one")
    second = await bucket.put("k", b"two")
    assert first != second
    assert (await bucket.get("k")).data == b"two"


async def test_a_range_is_cut_at_the_end_of_the_object(bucket: Bucket) -> None:
    """A range returns start up to, not including, end; what lies beyond the object is left out."""
    await bucket.put("r", bytes(range(100)))
    assert await bucket.get_range("r", 10, 20) == bytes(range(10, 20))
    assert await bucket.get_range("r", 0, 1) == b"\0"
    assert await bucket.get_range("r", 90, 200) == bytes(range(90, 100))
    assert await bucket.get_range("r", 100, 200) == b""
    for start, end in [(5, 5), (-1, 5), (6, 5)]:
        with pytest.raises(ValueError, match="range"):
            await bucket.get_range("r", start, end)


async def test_what_is_missing_is_said_to_be(bucket: Bucket) -> None:
    """Every read of a missing key raises ObjectMissing, also where a longer key exists."""
    await bucket.put("here/below", b"x")
    for key in ("nothing", "here", "here/below/deeper"):
        with pytest.raises(ObjectMissing):
            await bucket.get(key)
        with pytest.raises(ObjectMissing):
            await bucket.head(key)
        with pytest.raises(ObjectMissing):
            await bucket.get_range(key, 0, 4)


async def test_only_what_is_missing_is_surely_absent(bucket: Bucket) -> None:
    """A store may say at once that a key is free, and never says it of one that is taken, whoever took it when."""
    await bucket.put("here/below", b"x")
    for key in ("here/none", "here/none/deeper", "here/below/deeper", "here"):
        bucket.is_surely_absent(key)
        with pytest.raises(ObjectMissing):
            await bucket.head(key)
    bucket.is_surely_absent("here/none")
    await bucket.create("here/none", b"y")
    assert not bucket.is_surely_absent("here/none")
    assert not bucket.is_surely_absent("here/below")


async def test_delete_is_idempotent(bucket: Bucket) -> None:
    """Deleting what is not there is no error, and a deleted key is free again."""
    await bucket.delete("never/was")
    await bucket.create("k/l", b"1")
    await bucket.delete("k/l")
    await bucket.delete("k/l")
    with pytest.raises(ObjectMissing):
        await bucket.get("k/l")
    assert await bucket.list_objects("", limit=10) == []
    assert await bucket.list_prefixes("") == []
    await bucket.create("k/l", b"2")
    assert (await bucket.get("k/l")).data == b"2"


async def test_a_copy_is_whole_and_replaces(bucket: Bucket) -> None:
    """A copy has the source's bytes, of many megabytes too, replaces what was there, and is an object of its own."""
    data = random.Random(3).randbytes(9_000_000)
    await bucket.put("from/a", data)
    await bucket.put("to/b c", b"old")
    await bucket.copy("from/a", "to/b c")
    assert (await bucket.get("to/b c")).data == data
    await bucket.put("from/a", b"new")
    assert (await bucket.head("to/b c")).size == len(data)
    await bucket.delete("from/a")
    for key in ODD_KEYS:
        await bucket.put(key, key.encode())
        await bucket.copy(key, f"{key}+copy")
        await bucket.delete(key)
        assert (await bucket.get(f"{key}+copy")).data == key.encode()
        await bucket.delete(f"{key}+copy")
    with pytest.raises(ObjectMissing):
        await bucket.copy("from/a", "to/d")
    with pytest.raises(ObjectMissing):
        await bucket.head("to/d")
    assert [info.key for info in await bucket.list_objects("", limit=9)] == ["to/b c"]


async def test_create_takes_a_free_key_once(bucket: Bucket) -> None:
    """The second create of a key is refused, whatever its bytes, and changes nothing."""
    etag = await bucket.create("c", b"first")
    for data in (b"first", b"second", b""):
        with pytest.raises(ObjectExists):
            await bucket.create("c", data)
    body = await bucket.get("c")
    assert (body.data, body.etag) == (b"first", etag)
    await bucket.put("d", b"by put")
    with pytest.raises(ObjectExists):
        await bucket.create("d", b"x")


async def test_of_sixteen_creates_exactly_one_wins(bucket: Bucket) -> None:
    """Of 16 concurrent creates of one key one returns, and its bytes are what is stored; in each of 8 rounds."""
    for number in range(8):
        key = f"race/{number}"
        bodies = [f"writer {writer}".encode() * 1000 for writer in range(16)]
        answers = await asyncio.gather(*(bucket.create(key, body) for body in bodies), return_exceptions=True)
        winners = [i for i, answer in enumerate(answers) if isinstance(answer, str)]
        losers = [answer for answer in answers if isinstance(answer, ObjectExists)]
        assert (len(winners), len(losers)) == (1, 15), answers
        body = await bucket.get(key)
        assert body.data == bodies[winners[0]]
        assert body.etag == answers[winners[0]]


async def test_a_listing_is_in_key_order_and_bounded(bucket: Bucket) -> None:
    """A listing shows the smallest keys first, at most ``limit``, only after ``after``, only below the prefix."""
    names = ["0/z", "1", "1.x", "1/a", "1/b/c", "1/b/d", "10/a", "2", "A", "a", "é", "名"]
    below = [f"log/{name}" for name in names]
    elsewhere = ["log.txt", "log2/a", "lo/a", "other"]
    shuffled = below + elsewhere
    random.Random(7).shuffle(shuffled)
    await asyncio.gather(*(bucket.put(key, key.encode()) for key in shuffled if key not in ("log/1", "log/a")))
    # A file system cannot hold "1" beside "1/a": the layout never asks for it.
    below.remove("log/1")
    below.remove("log/a")
    expected = sorted(below, key=lambda key: key.encode())

    async def keys(**bounds) -> list[str]:
        return [info.key for info in await bucket.list_objects("log/", **bounds)]

    assert await keys(limit=100) == expected
    for limit in (0, 1, 3, len(expected)):
        assert await keys(limit=limit) == expected[:limit]
    for index, key in enumerate(expected):
        assert await keys(limit=100, after=key) == expected[index + 1 :]
        assert await keys(limit=2, after=key) == expected[index + 1 : index + 3]
    assert await keys(limit=100, after="log/1/b") == [key for key in expected if key > "log/1/b"]
    everything = [info.key for info in await bucket.list_objects("", limit=100)]
    assert everything == sorted(below + elsewhere, key=lambda key: key.encode())
    sizes = {info.key: info.size for info in await bucket.list_objects("log/", limit=100)}
    assert sizes == {key: len(key.encode()) for key in expected}


async def test_listing_walks_on_in_steps(bucket: Bucket) -> None:
    """Pages of 7, each after the last key of the one before, show each of 60 objects once."""
    expected = [f"log/{number:012d}" for number in range(60)]
    await asyncio.gather(*(bucket.create(key, b"x") for key in reversed(expected)))
    seen: list[str] = []
    while page := await bucket.list_objects("log/", limit=7, after=seen[-1] if seen else None):
        assert len(page) <= 7
        seen.extend(info.key for info in page)
    assert seen == expected


async def test_prefixes_are_the_directories_directly_below(bucket: Bucket) -> None:
    """list_prefixes names each "directory" one level down, once, sorted, without objects and without slashes."""
    for key in ("users/b/x", "users/a b/y/z", "users/a b/w", "users/é/x", "users/file", "top/x"):
        await bucket.put(key, b"")
    assert await bucket.list_prefixes("users/") == ["a b", "b", "é"]
    assert await bucket.list_prefixes("") == ["top", "users"]
    assert await bucket.list_prefixes("users/a b/") == ["y"]
    assert await bucket.list_prefixes("nothing/") == []
    assert await bucket.list_objects("nothing/", limit=5) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
async def test_prefixes_come_in_pages(bucket: Bucket, limit: int) -> None:
    """Pages of every size show each "directory" once, in the order of the keys, whatever else lies between."""
    names = ["a", "a b", "a-b", "a.b", "a0", "b", "c%2F", "zz", "é", "日本"]
    for name in names:
        for number in range(3):
            await bucket.put(f"users/{name}/log/{number}", b"x")
    for file in ("users/a file", "users/b file", "users/zzz"):
        await bucket.put(file, b"x")
    seen: list[str] = []
    while page := await bucket.list_prefixes("users/", limit=limit, after=seen[-1] if seen else None):
        assert len(page) <= limit
        seen += page
        assert len(seen) <= len(names), seen
    assert seen == [name[:-1] for name in sorted(f"{name}/" for name in names)]
    assert await bucket.list_prefixes("users/", limit=limit, after="é日") == ["日本"]
    assert await bucket.list_prefixes("nothing/", limit=limit) == []


async def test_odd_keys_are_kept_verbatim(bucket: Bucket) -> None:
    """Spaces, percent signs, hashes, quotes and other scripts in a key come back as they were given."""
    for number, key in enumerate(ODD_KEYS):
        await bucket.create(key, str(number).encode())
    for number, key in enumerate(ODD_KEYS):
        assert (await bucket.get(key)).data == str(number).encode(), key
        prefix = key.rpartition("/")[0] + "/"
        assert [info.key for info in await bucket.list_objects(prefix, limit=9)] == [key]
        assert (await bucket.head(key)).key == key
    assert {info.key for info in await bucket.list_objects("users/", limit=99)} == set(ODD_KEYS)
    assert set(await bucket.list_prefixes("users/")) == {key.split("/")[1] for key in ODD_KEYS}
    for key in ODD_KEYS:
        await bucket.delete(key)
    assert await bucket.list_objects("", limit=9) == []


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\nb", "a\0b", "x" * 1025])
async def test_keys_that_no_store_keeps_are_refused(bucket: Bucket, key: str) -> None:
    """A key that could leave the prefix or that a store would change is refused by every operation."""
    with pytest.raises(ValueError, match="key"):
        await bucket.create(key, b"x")
    with pytest.raises(ValueError, match="key"):
        await bucket.put(key, b"x")
    with pytest.raises(ValueError, match="key"):
        await bucket.get(key)
    with pytest.raises(ValueError, match="key"):
        await bucket.delete(key)
    assert await bucket.list_objects("", limit=5) == []


async def test_a_prefix_ends_with_a_slash(bucket: Bucket) -> None:
    """A prefix that could match half a name is refused."""
    with pytest.raises(ValueError, match="slash"):
        await bucket.list_objects("users", limit=5)
    with pytest.raises(ValueError, match="slash"):
        await bucket.list_prefixes("users")


@pytest.mark.parametrize("size", [0, 1, 20 * 1024**2])
async def test_sizes_from_nothing_to_20_mib(bucket: Bucket, size: int) -> None:
    """Empty and large objects are created in one piece, read whole and in parts, and listed with their size."""
    data = random.Random(size).randbytes(size)
    await bucket.create("big", data)
    with pytest.raises(ObjectExists):
        await bucket.create("big", data)
    assert (await bucket.get("big")).data == data
    assert [info.size for info in await bucket.list_objects("", limit=2)] == [size]
    if size > 1:
        parts = [bucket.get_range("big", at, at + 5_000_000) for at in range(0, size, 5_000_000)]
        assert b"".join(await asyncio.gather(*parts)) == data


async def test_the_probe_accepts_and_leaves_nothing(bucket: Bucket) -> None:
    """Every store of this suite passes the probe, which deletes its object."""
    await probe(bucket)
    assert await bucket.list_objects(PROBE_PREFIX, limit=5) == []


async def test_a_replacement_names_what_it_replaces(bucket: Bucket) -> None:
    """With the ETag of what is there it is done; with another, or of nothing, it is refused."""
    first = await bucket.put("a/b", b"first")
    second = await bucket.replace("a/b", b"second", first)
    assert (await bucket.get("a/b")).etag == second != first
    for etag in (first, '"other"', ""):
        with pytest.raises(ObjectChanged):
            await bucket.replace("a/b", b"third", etag)
        with pytest.raises(ObjectChanged):
            await bucket.remove("a/b", etag)
    for key in ("a/c", "a", "z/y"):
        with pytest.raises(ObjectChanged):
            await bucket.replace(key, b"x", second)
        with pytest.raises(ObjectChanged):
            await bucket.remove(key, second)
    assert (await bucket.get("a/b")).data == b"second"
    await bucket.remove("a/b", second)
    with pytest.raises(ObjectMissing):
        await bucket.get("a/b")
    assert await bucket.list_objects("", limit=9) == []


async def test_of_sixteen_replacements_exactly_one_wins(bucket: Bucket) -> None:
    """Where the store compares: in memory, in a directory, and on an S3 that does."""
    if not await _compares(bucket):
        pytest.skip("this store takes a conditional PUT that it should refuse")
    for number in range(5):
        etag = await bucket.put("k", b"before %d" % number)
        tried = await asyncio.gather(
            *(bucket.replace("k", b"%d by %d" % (number, writer), etag) for writer in range(16)), return_exceptions=True
        )
        won = [writer for writer, outcome in enumerate(tried) if isinstance(outcome, str)]
        assert len(won) == 1, tried
        assert all(isinstance(outcome, (str, ObjectChanged)) for outcome in tried), tried
        assert (await bucket.get("k")).data == b"%d by %d" % (number, won[0])


async def _compares(bucket: Bucket) -> bool:
    """Whether the store itself refuses a conditional PUT, several of which come within the same moment."""
    if not isinstance(bucket, RemoteBucket):
        return True
    etag = await bucket.put("probe", b"before")
    tried = await asyncio.gather(
        *(bucket.replace("probe", b"%d" % writer, etag) for writer in range(16)), return_exceptions=True
    )
    await bucket.delete("probe")
    return sum(isinstance(outcome, str) for outcome in tried) == 1


async def test_an_upload_url_takes_the_bytes_of_one_object(bucket: Bucket) -> None:
    """A store of the cloud takes a PUT there, without credentials and for that key alone; others say they cannot."""
    key = "up/ü b+c.txt"
    if not bucket.url.startswith("s3://"):
        with pytest.raises(UploadUrlsUnknown):
            await bucket.upload_url(key, 60)
        return
    url = await bucket.upload_url(key, 60)
    async with httpx.AsyncClient(trust_env=False) as client:
        # Moto does not check signatures.
        checks = (await client.put(url.partition("?")[0], content=b"unsigned")).status_code == 403
        assert (await client.put(url, content=b"uploaded")).is_success
        assert (await bucket.get(key)).data == b"uploaded"
        if checks:
            assert (await client.put(url.replace("up/", "other/", 1), content=b"not here")).status_code == 403
            assert [info.key for info in await bucket.list_objects("other/", limit=10)] == []
