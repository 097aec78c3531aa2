"""The library of source documents, over a real bucket in memory."""

from __future__ import annotations

import pytest

from vectorpool.documents import DocumentLibrary
from vectorpool.errors import DocumentNotFound, InvalidId, LimitExceeded
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def library(bucket: MemoryBucket) -> DocumentLibrary:
    return DocumentLibrary(bucket, Settings(max_document_bytes=100))


async def test_a_document_is_stored_where_other_programs_upload(library: DocumentLibrary, bucket: MemoryBucket) -> None:
    """put writes one object, of the agreed key, and get returns its bytes, ETag and content type."""
    etag = await library.put("42", "7", "notes/a.md", b"# Hi")
    assert (await bucket.get("users/42/avatars/7/vectorstore_data/notes/a.md")).data == b"# Hi"
    body = await library.get("42", "7", "notes/a.md")
    assert (body.data, body.etag, body.content_type) == (b"# Hi", etag, "text/markdown; charset=utf-8")
    head = await library.head("42", "7", "notes/a.md")
    assert (head.path, head.size, head.etag) == ("notes/a.md", 4, etag)


async def test_what_is_not_there_is_named(library: DocumentLibrary) -> None:
    """get, head and delete of a missing document say which one is missing."""
    for call in (library.get, library.head, library.delete):
        with pytest.raises(DocumentNotFound, match=r"'gone\.txt'"):
            await call("42", "7", "gone.txt")


async def test_delete_removes_one_document(library: DocumentLibrary) -> None:
    """A deleted document is gone, its neighbours are not."""
    await library.put("42", "7", "a.txt", b"a")
    await library.put("42", "7", "a.txt.bak", b"b")
    await library.delete("42", "7", "a.txt")
    assert [d.path for d in (await library.list_documents("42", "7")).documents] == ["a.txt.bak"]


async def test_a_document_over_the_limit_is_neither_written_nor_read(
    library: DocumentLibrary, bucket: MemoryBucket
) -> None:
    """The limit holds for uploads through us, and protects from what others uploaded."""
    with pytest.raises(LimitExceeded, match="101 bytes, and the limit is 100"):
        await library.put("42", "7", "big.txt", b"x" * 101)
    await bucket.put("users/42/avatars/7/vectorstore_data/huge.txt", b"x" * 5000)
    with pytest.raises(LimitExceeded, match="5000 bytes"):
        await library.get("42", "7", "huge.txt")
    assert [d.size for d in (await library.list_documents("42", "7")).documents] == [5000]


@pytest.mark.parametrize("path", ["", "../x", "a//b", "/a", "a/../../b", "a\0b", "a/", "x" * 1025])
async def test_a_path_that_could_leave_the_prefix_is_refused(
    library: DocumentLibrary, bucket: MemoryBucket, path: str
) -> None:
    """No call builds a key from such a path."""
    for call in (library.get, library.head, library.delete):
        with pytest.raises(InvalidId):
            await call("42", "7", path)
    with pytest.raises(InvalidId):
        await library.put("42", "7", path, b"")
    with pytest.raises(InvalidId):
        await library.put("42", "../8", "a.txt", b"")
    assert await bucket.list_objects("users/", limit=10) == []


async def test_pages_hold_every_document_once(library: DocumentLibrary, bucket: MemoryBucket) -> None:
    """Any page size walks through all documents in order; markers and foreign names are passed over."""
    paths = sorted([f"d{i:03}.txt" for i in range(20)] + [f"sub/e{i}.md" for i in range(3)])
    for path in paths:
        await library.put("42", "7", path, b"x")
    for marker in ("sub/", "bad\nname", "d005/"):
        # The bucket refuses to write such keys; other programs' tools do write them.
        bucket._store(f"users/42/avatars/7/vectorstore_data/{marker}", b"")
    await library.put("42", "70", "other-avatar.txt", b"x")
    for limit in (1, 2, 7, 23, 24, 1000):
        found: list[str] = []
        after = None
        while True:
            page = await library.list_documents("42", "7", limit=limit, after=after)
            assert len(page.documents) <= limit
            found += [d.path for d in page.documents]
            if (after := page.next_after) is None:
                break
        assert found == paths
    assert [d.path async for d in library.iterate("42", "7")] == paths


async def test_avatars_are_those_that_have_anything_in_the_bucket(
    library: DocumentLibrary, bucket: MemoryBucket
) -> None:
    """An avatar is listed for its documents or for what other programs keep beside them."""
    await library.put("42", "7", "a.txt", b"x")
    await library.put("42", "mail@example.org", "a.txt", b"x")
    await bucket.put("users/42/avatars/9/adapters/w.bin", b"x")
    await bucket.put("users/420/avatars/1/vectorstore_data/a.txt", b"x")
    assert await library.list_avatars("42") == ["7", "9", "mail@example.org"]
    assert await library.list_avatars("nobody") == []
