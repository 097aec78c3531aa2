"""Bringing documents back, over a real bucket in memory: which paths are written, from where, and what stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from vectorpool.answers import Answer, RecoveredDocuments, RestoredDocument, RestoredPage, Written
from vectorpool.commands import DocumentBytes, ListRestored, SettleDocuments
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.documents import DocumentLibrary, DocumentPage, Recovery
from vectorpool.documents.missing import with_missing
from vectorpool.errors import OutcomeUnknown, UserNotFound
from vectorpool.kept_documents import WHOLE_BYTES, digest_of
from vectorpool.names import document_key, kept_content_prefix, kept_prefix
from vectorpool.objects.bucket import BucketUnavailable
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings


class World:
    """A bucket and a library over it."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.bucket = MemoryBucket()
        self.library = DocumentLibrary(self.bucket, settings or Settings())

    async def put(self, data: bytes, *, user: str = "42", path: str = "a.txt") -> RestoredDocument:
        """Put a document through the service; return the row that an ingest would make of it."""
        etag = await self.library.put(user, "7", path, data)
        return RestoredDocument("7", path, etag, len(data), digest_of(data))

    async def at(self, path: str = "a.txt", user: str = "42") -> bytes:
        return (await self.bucket.get(document_key(user, "7", path))).data

    async def bring_back(self, *rows: RestoredDocument, user: str = "42", source: str | None = None) -> Any:
        recovery = Recovery(self.library, user, source)
        etags = await recovery.bring_back(rows)
        return recovery.result, etags


def done(**counts: int) -> RecoveredDocuments:
    return RecoveredDocuments(**counts)


async def test_kept_bytes_come_back_to_free_paths_and_to_our_own() -> None:
    """A deleted and a replaced document have the bytes of their rows again; what was replaced now is kept."""
    world = World()
    deleted, replaced = await world.put(b"one"), await world.put(b"two", path="b.txt")
    await world.library.delete("42", "7", "a.txt")
    newer = await world.put(b"three", path="b.txt")
    result, etags = await world.bring_back(deleted, replaced)
    assert result == done(written=2)
    assert (await world.at(), await world.at("b.txt")) == (b"one", b"two")
    assert etags == [(await world.bucket.head(document_key("42", "7", path))).etag for path in ("a.txt", "b.txt")]
    assert await world.library.kept.find("42", "7", newer.digest) is not None
    # What was brought back is ours too, and a second time there is nothing to do.
    assert (await world.bring_back(newer))[0] == done(written=1)
    assert (await world.bring_back(deleted, newer))[0] == done(present=2)


async def test_what_is_not_ours_is_left_alone() -> None:
    """Neither a document that another program wrote over, nor one that it put at a free path, is replaced."""
    world = World()
    row = await world.put(b"one")
    await world.put(b"two")
    await world.bucket.put(document_key("42", "7", "a.txt"), b"not ours")
    result, etags = await world.bring_back(row)
    assert (result, etags, await world.at()) == (done(different=1), [None], b"not ours")
    # The same bytes, written by any program, are what the row means.
    await world.bucket.put(document_key("42", "7", "a.txt"), b"one")
    row = msgspec.structs.replace(row, etag="of an earlier object")
    assert (await world.bring_back(row))[0] == done(present=1)


async def test_another_program_that_is_quicker_at_a_free_path_wins() -> None:
    """The path is free when it is looked at, and taken when it is written."""
    world = World()
    row = await world.put(b"one")
    await world.library.delete("42", "7", "a.txt")
    create = world.bucket.create

    async def slower(key: str, data: bytes) -> str:
        await world.bucket.put(key, b"not ours")
        return await create(key, data)

    world.bucket.create = slower  # type: ignore[method-assign]
    assert (await world.bring_back(row))[0] == done(different=1)
    assert await world.at() == b"not ours"


async def test_only_bytes_of_the_rows_digest_are_taken() -> None:
    """Kept content that was changed in the bucket is not given out; a row without a digest finds nothing."""
    world = World()
    row = await world.put(b"one")
    await world.library.delete("42", "7", "a.txt")
    (kept,) = await world.bucket.list_objects(kept_content_prefix("42", "7", row.digest), limit=9)
    await world.bucket.put(kept.key, b"two")
    assert (await world.bring_back(row))[0] == done(missing=1)
    old = msgspec.structs.replace(row, digest="")
    assert (await world.bring_back(old))[0] == done(missing=1)
    # A document from before digests were known, which nobody touched.
    there = await world.put(b"there", path="b.txt")
    old = msgspec.structs.replace(there, digest="")
    assert await world.bring_back(old) == (done(present=1), [there.etag])


@pytest.mark.parametrize("deleted", [True, False])
async def test_a_large_document_is_copied_by_the_store(deleted: bool) -> None:
    """It comes back without being in memory as a whole, by a restore and by a fork."""
    world = World()
    data = bytes(WHOLE_BYTES) + b"more"
    row = await world.put(data)
    if deleted:
        await world.library.delete("42", "7", "a.txt")
    else:
        await world.put(b"small")
    assert (await world.bring_back(row))[0] == done(written=1)
    assert (await world.bring_back(row, user="43", source="42"))[0] == done(written=1)
    assert await world.at() == await world.at(user="43") == data
    # Of what was copied for the fork, nothing but content is left over.
    assert all("/copies/" not in key for key in world.bucket._objects)


async def test_a_fork_takes_from_what_is_kept_and_from_the_sources_paths() -> None:
    """The target's own documents stay; the source's are not touched; nothing is taken from a third user."""
    world = World()
    kept, live, theirs = (
        await world.put(b"kept"),
        await world.put(b"live", path="b.txt"),
        await world.put(b"source's", path="c.txt"),
    )
    await world.put(b"newer")
    await world.bucket.put(document_key("43", "7", "c.txt"), b"target's")
    result, _ = await world.bring_back(kept, live, theirs, user="43", source="42")
    assert result == done(written=2, different=1)
    assert [await world.at(path, "43") for path in ("a.txt", "b.txt", "c.txt")] == [b"kept", b"live", b"target's"]
    assert [await world.at(path) for path in ("a.txt", "b.txt", "c.txt")] == [b"newer", b"live", b"source's"]
    assert (await world.bring_back(kept, user="44"))[0] == done(missing=1)


async def test_content_that_expires_meanwhile_is_looked_for_once_more() -> None:
    """Between the look and the read a removal deletes it: a later day may have it; else it is missing."""
    world = World()
    row = await world.put(b"one")
    await world.library.delete("42", "7", "a.txt")
    prefix = kept_content_prefix("42", "7", row.digest)
    (kept,) = await world.bucket.list_objects(prefix, limit=9)
    get, removals = world.bucket.get, [lambda: world.bucket.put(prefix + "999999", b"one")]

    async def removed_first(key: str) -> Any:
        if key == kept.key:
            await world.bucket.delete(key)
            for keep_again in removals:
                await keep_again()
        return await get(key)

    world.bucket.get = removed_first  # type: ignore[method-assign]
    assert (await world.bring_back(row))[0] == done(written=1)
    await world.bucket.delete(document_key("42", "7", "a.txt"))
    await world.bucket.delete(prefix + "999999")
    await world.bucket.put(kept.key, b"one")
    removals.clear()
    assert (await world.bring_back(row))[0] == done(missing=1)


async def test_one_document_that_fails_does_not_stop_the_others() -> None:
    """The store does not answer for one of them."""
    world = World()
    rows = [await world.put(b"text of " + path.encode(), path=path) for path in ("a.txt", "b.txt", "c.txt")]
    for row in rows:
        await world.library.delete("42", "7", row.path)
    create = world.bucket.create

    async def fails_once(key: str, data: bytes) -> str:
        if key.endswith("b.txt"):
            raise BucketUnavailable("no answer")
        return await create(key, data)

    world.bucket.create = fails_once  # type: ignore[method-assign]
    result, etags = await world.bring_back(*rows)
    assert (result, [etag is not None for etag in etags]) == (done(written=2, failed=1), [True, False, True])


class Rows:
    """A Router over flagged rows: pages of them, and what was settled."""

    def __init__(self, rows: list[RestoredDocument]) -> None:
        self.rows = rows
        self.settled: list[tuple[str, DocumentBytes]] = []
        self.contexts: list[RequestContext] = []
        self.before_page: Callable[[], Awaitable[None]] | None = None

    async def execute(self, user_id: str, command: Any, context: RequestContext) -> Answer:
        self.contexts.append(context)
        if isinstance(command, SettleDocuments):
            self.settled += [(command.avatar_id, each) for each in command.settled]
            return Answer(msgspec.json.encode(Written(len(command.settled))), 2)
        assert isinstance(command, ListRestored)
        if self.before_page is not None:
            await self.before_page()
        after = command.after or ("", "")
        page = [row for row in self.rows if (row.avatar_id, row.path) > after][: command.limit]
        return Answer(msgspec.json.encode(RestoredPage(page)), 1)


async def test_every_page_of_rows_is_brought_back_and_settled() -> None:
    """More rows than a page holds, of two avatars: each is asked for once, with strong consistency."""
    world = World()
    rows = []
    for avatar_id in ("7", "8"):
        for number in range(800):
            data = f"{avatar_id} {number}".encode()
            key = document_key("42", avatar_id, f"{number:04}.txt")
            etag = await world.bucket.put(key, data)
            rows.append(RestoredDocument(avatar_id, f"{number:04}.txt", etag, len(data), digest_of(data)))
    router = Rows(rows)
    context = RequestContext("id", timeout_s=60)
    assert await Recovery(world.library, "42").run(router, context) == done(present=1600)
    assert [(avatar_id, each.path) for avatar_id, each in router.settled] == [(r.avatar_id, r.path) for r in rows]
    assert {each.read.consistency for each in router.contexts} == {"strong"}
    assert await Recovery(world.library, "42").run(Rows([])) is None


async def test_a_vectorstore_that_is_deleted_meanwhile_has_no_documents() -> None:
    """What was brought back until then is told."""
    world = World()
    router = Rows([])

    async def deleted() -> None:
        raise UserNotFound("Nothing is stored.")

    router.before_page = deleted
    assert await Recovery(world.library, "42").run(router, BACKGROUND) is None


async def test_at_the_deadline_the_outcome_is_unknown() -> None:
    """The state is restored; how many documents came back is not known."""
    world = World()
    row = await world.put(b"one")

    async def deaf(key: str) -> Any:
        await asyncio.sleep(60)

    world.bucket.head = deaf  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        await Recovery(world.library, "42").run(Rows([row]), RequestContext("id", timeout_s=0.05))


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_a_listing_with_missing_documents_shows_each_once(limit: int) -> None:
    """Pages of any size walk through stored and missing documents in the order of their paths' bytes."""
    world = World()
    stored = ["a.txt", "c.txt", "d/e.txt", "é.txt"]
    flagged = ["a.txt", "b.txt", "d.txt", "d/e.txt", "zz.txt", "名.txt"]
    for path in stored:
        await world.bucket.put(document_key("42", "7", path), b"x")
    rows = [RestoredDocument("7", path, "etag", 1, "digest") for path in sorted(flagged, key=str.encode)]
    # A name that no request can say is told once.
    world.bucket._store("users/42/avatars/7/vectorstore_data/c//d", b"")
    found: list[tuple[str, bool]] = []
    names: list[str] = []
    after: str | None = None
    while True:
        page: DocumentPage = await world.library.list_documents("42", "7", limit=limit, after=after)
        place = after
        later = [row for row in rows if place is None or row.path.encode() > place.encode()]
        page = with_missing(page, later[: limit + 1], limit)
        assert len(page.documents) <= limit
        found += [(document.path, document.missing) for document in page.documents]
        names += [refused.name for refused in page.refused]
        if (after := page.next_after) is None:
            break
    everything = sorted({*stored, *flagged}, key=str.encode)
    assert names == ["c//d"]
    assert found == [(path, path not in stored) for path in everything]


async def test_keeping_and_recovering_stay_below_the_users_prefix() -> None:
    """Nothing is written outside of the documents and what is kept of them."""
    world = World()
    row = await world.put(b"one")
    await world.put(b"two")
    await world.bring_back(row)
    own = (kept_prefix("42"), "users/42/avatars/7/vectorstore_data/")
    assert [key for key in world.bucket._objects if not key.startswith(own)] == []
