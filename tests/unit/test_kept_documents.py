"""What is kept of documents, over a real bucket in memory and a clock that the test sets."""

from __future__ import annotations

import asyncio

import pytest

from vectorpool import names
from vectorpool.documents import DocumentLibrary
from vectorpool.errors import DocumentConflict, DocumentNotFound, OutcomeUnknown, StoreUnavailable
from vectorpool.kept_documents import WHOLE_BYTES, Expiry, KeptDocuments, KeptSize, digest_of
from vectorpool.objects.bucket import Body, BucketUnavailable, ObjectInfo
from vectorpool.objects.faulty import Faults, FaultyBucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings
from vectorpool.sources import SystemSources

DAY_S = 24 * 3600
RETENTION_S = 7 * DAY_S
SETTINGS = Settings(retention_s=RETENTION_S)
PATH = names.document_key("42", "7", "a.txt")


class SetClock(SystemSources):
    """A wall clock that stands where the test puts it, in the middle of a day at first."""

    def __init__(self) -> None:
        self.now_s = 20_000.5 * DAY_S

    def now_ms(self) -> int:
        return int(self.now_s * 1000)


class World:
    """A bucket, its clock, and a library over it."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.clock = SetClock()
        self.bucket = MemoryBucket(sources=self.clock)
        self.library = DocumentLibrary(self.bucket, settings, self.clock)
        self.kept = KeptDocuments(self.bucket, settings, self.clock)

    async def put(self, text: str, path: str = "a.txt") -> str:
        return await self.library.put("42", "7", path, text.encode())

    async def contents(self) -> list[str]:
        """Return the content that is kept, by the text of each object, sorted."""
        found = await self.bucket.list_objects(names.kept_prefix("42"), limit=1000)
        keys = [info.key for info in found if "/content/" in info.key]
        return sorted([(await self.bucket.get(key)).data.decode() for key in keys])


async def test_what_is_replaced_or_deleted_is_kept_by_its_digest() -> None:
    """The first bytes and the second are kept, each once, below the user's own prefix; the newest are not."""
    world = World()
    await world.put("first")
    assert await world.contents() == []
    await world.put("second")
    assert await world.contents() == ["first"]
    await world.put("first")
    await world.library.delete("42", "7", "a.txt")
    assert await world.contents() == ["first", "second"]
    found = await world.kept.find("42", "7", digest_of(b"first"))
    assert found is not None
    assert found.key == f"users/42/vectorstore/kept/7/content/{digest_of(b'first')}/020000"
    assert await world.kept.find("42", "8", digest_of(b"first")) is None
    assert await world.kept.find("42", "7", digest_of(b"third")) is None
    assert await world.kept.find("42", "7", "") is None
    with pytest.raises(DocumentNotFound):
        await world.library.delete("42", "7", "a.txt")


async def test_with_retention_0_nothing_is_kept() -> None:
    """Neither bytes nor marks are written."""
    world = World(Settings(retention_s=0))
    await world.put("first")
    await world.put("second")
    await world.library.delete("42", "7", "a.txt")
    assert await world.bucket.list_objects("users/", limit=10) == []


async def test_a_document_over_the_limit_is_not_kept() -> None:
    """No state can have records of it, and it may be of any size."""
    world = World(Settings(max_document_bytes=4))
    await world.bucket.put(PATH, b"too long")
    await world.put("ok")
    assert await world.contents() == []


async def test_a_large_document_is_copied_by_the_store() -> None:
    """It never passes through memory as a whole, and its copy is content like any other; no copy is left over."""
    world = World()
    data = bytes(WHOLE_BYTES + 1)

    async def get(key: str) -> Body:
        raise AssertionError("it was read as a whole")

    await world.bucket.put(PATH, data)
    world.bucket.get, whole = get, world.bucket.get  # type: ignore[method-assign]
    await world.library.delete("42", "7", "a.txt")
    world.bucket.get = whole  # type: ignore[method-assign]
    (only,) = await world.bucket.list_objects("users/", limit=10)
    assert only.key == names.kept_content_prefix("42", "7", digest_of(data)) + "020000"
    assert (await world.bucket.get(only.key)).data == data


@pytest.mark.parametrize("fault", ["before", "denied", "throttled", "delayed", "after"])
@pytest.mark.parametrize("deletes", [False, True])
async def test_nothing_is_replaced_or_deleted_before_it_is_kept(fault: str, deletes: bool) -> None:
    """If the keeping fails or has no answer, as where its process ends there, the document is as it was."""
    world = World()
    await world.put("first")
    faulty = FaultyBucket(world.bucket, Faults(**{fault: 1.0, "operations": frozenset({"put"})}))  # type: ignore[arg-type]
    library = DocumentLibrary(faulty, SETTINGS, world.clock)
    with pytest.raises(StoreUnavailable):
        await (library.delete("42", "7", "a.txt") if deletes else library.put("42", "7", "a.txt", b"second"))
    await faulty.settle()
    assert (await world.bucket.get(PATH)).data == b"first"


class Busy(MemoryBucket):
    """Replaces the document, as another instance would, after each ``get`` of it, as long as there are texts."""

    def __init__(self, clock: SetClock) -> None:
        super().__init__(sources=clock)
        self.texts: list[str] = []

    async def get(self, key: str) -> Body:
        body = await super().get(key)
        if key == PATH and self.texts:
            await self.put(PATH, self.texts.pop(0).encode())
        return body


async def test_what_another_instance_puts_meanwhile_is_kept_too() -> None:
    """The document is looked at again after it was kept; one that changes all the time ends in a refusal."""
    world = World()
    world.bucket = bucket = Busy(world.clock)
    world.library = DocumentLibrary(bucket, SETTINGS, world.clock)
    await bucket.put(PATH, b"first")
    bucket.texts = ["second"]
    await world.put("third")
    assert await world.contents() == ["first", "second"]
    bucket.texts = [f"number {number}" for number in range(100)]
    with pytest.raises(DocumentConflict, match="keep changing"):
        await world.put("fourth")


async def test_a_mark_tells_which_object_the_service_wrote() -> None:
    """The object of a put is ours; what another program puts over it is not."""
    world = World()
    etag = await world.put("ours")
    assert await world.kept.is_ours("42", "7", "a.txt", etag)
    assert not await world.kept.is_ours("42", "7", "b.txt", etag)
    assert not await world.kept.is_ours("42", "7", "a.txt", await world.bucket.put(PATH, b"theirs"))


async def test_a_put_without_its_mark_is_no_success() -> None:
    """The document is written, and the caller is told to put it again, which makes it whole."""
    world = World()
    put, refused = world.bucket.put, True

    async def no_marks(key: str, data: bytes) -> str:
        if refused and "/written/" in key:
            raise BucketUnavailable("no answer")
        return await put(key, data)

    world.bucket.put = no_marks  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown, match="Put it again"):
        await world.put("first")
    assert (await world.bucket.get(PATH)).data == b"first"
    refused = False
    assert await world.kept.is_ours("42", "7", "a.txt", await world.put("first"))


async def test_what_is_kept_expires_after_the_retention_time() -> None:
    """Not before its day is over for that long; what was kept again later stays, and so does what is not ours."""
    world = World()
    for text in ("first", "second"):
        await world.put(text)
    await world.bucket.put(names.kept_prefix("42") + "7/content/notes/readme", b"foreign")
    await world.bucket.put(PATH, b"first")
    # The rest of the day counts on top.
    world.clock.now_s += RETENTION_S + DAY_S / 2 - 1
    assert await world.kept.remove_expired("42") == Expiry()
    assert await world.contents() == ["first", "foreign"]
    await world.put("third")
    world.clock.now_s += 1
    done = await world.kept.remove_expired("42")
    # The content of the first day, and the two marks of that day.
    assert done == Expiry(deleted=3)
    assert await world.contents() == ["first", "foreign"]
    assert (await world.kept.find("42", "7", digest_of(b"first"))).key.endswith("/020007")  # type: ignore[union-attr]


async def test_both_clocks_must_say_that_content_is_old() -> None:
    """A writer whose clock is far behind loses nothing."""
    world = World()
    await world.put("first")
    now_s, world.clock.now_s = world.clock.now_s, 10 * DAY_S
    slow = KeptDocuments(world.bucket, SETTINGS, world.clock)
    info = await world.bucket.head(PATH)
    world.bucket._sources = SetClock()
    await slow.keep("42", "7", info)
    world.clock.now_s = now_s + 1
    assert await world.kept.remove_expired("42") == Expiry()
    assert await world.contents() == ["first"]


async def test_a_removal_is_bounded_and_goes_on() -> None:
    """A call deletes so many at most and says that there is more; two instances at once do no harm."""
    world = World()
    for number in range(10):
        await world.put(f"text {number}")
    world.clock.now_s += RETENTION_S + 2 * DAY_S
    assert await world.kept.remove_expired("42", most=4) == Expiry(4, complete=False)
    assert (await world.kept.size("42")).documents + await _marks(world) == 19 - 4
    await asyncio.gather(*(world.kept.remove_expired("42") for _ in range(2)))
    assert (await world.kept.size("42"), await _marks(world)) == (KeptSize(), 0)
    assert (await world.bucket.get(PATH)).data == b"text 9"


async def _marks(world: World) -> int:
    found = await world.bucket.list_objects(names.kept_prefix("42"), limit=1000)
    return sum("/written/" in info.key for info in found)


class Paused(MemoryBucket):
    """Runs ``meanwhile`` once after a listing, before its caller gets it."""

    meanwhile: object = None

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        page = await super().list_objects(prefix, limit=limit, after=after)
        if self.meanwhile is not None:
            again, self.meanwhile = self.meanwhile, None
            await again()  # type: ignore[operator]
        return page


async def test_a_removal_that_was_paused_does_not_hit_what_is_kept_meanwhile() -> None:
    """Its listing shows content as expired; the same content is kept again; the removal goes on, and it is there."""
    world = World()
    world.bucket = bucket = Paused(sources=world.clock)
    world.library = DocumentLibrary(bucket, SETTINGS, world.clock)
    world.kept = KeptDocuments(bucket, SETTINGS, world.clock)
    await world.put("first")
    await world.put("second")
    await bucket.put(PATH, b"first")
    world.clock.now_s += RETENTION_S + 2 * DAY_S

    async def replace() -> None:
        await world.put("third")

    bucket.meanwhile = replace
    assert (await world.kept.remove_expired("42")).deleted == 3
    assert await world.contents() == ["first"]


async def test_all_that_is_kept_of_an_avatar_or_a_user_is_deleted() -> None:
    """An avatar's goes alone; a user's goes with all avatars, and copies and marks go too."""
    world = World()
    for avatar_id in ("7", "8"):
        for text in ("first", "second"):
            await world.library.put("42", avatar_id, "a.txt", text.encode())
    await world.bucket.put(names.kept_copy_prefix("42", "7", "x") + "020000", b"half")
    assert await world.kept.size("42") == KeptSize(2, 2 * len("first") + len("half"))
    assert await world.library.discard_kept("42", "7") == 1
    left = await world.bucket.list_objects(names.kept_prefix("42"), limit=9)
    assert {info.key.split("/")[4] for info in left} == {"8"}
    assert await world.library.discard_kept("42") == 1
    assert await world.bucket.list_objects(names.kept_prefix("42"), limit=9) == []


async def test_errors_of_the_store_are_told() -> None:
    """What cannot be listed or deleted is StoreUnavailable."""
    world = World()

    async def refuse(*_: object, **__: object) -> list[ObjectInfo]:
        raise BucketUnavailable("no answer")

    world.bucket.list_objects = refuse  # type: ignore[assignment,method-assign]
    for call in (world.library.kept_size, world.library.discard_kept):
        with pytest.raises(StoreUnavailable):
            await call("42")
