"""Ingestion over a real bucket in memory, a small real embedder, and a shard made of dictionaries."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.documents import HashingEmbedder, MemoryShard
from vectorpool.answers import QueryResult
from vectorpool.documents import DocumentLibrary, Ingestor, IngestProgress, IngestReport
from vectorpool.errors import (
    CommitConflict,
    Draining,
    EmbedderMismatch,
    InvalidEmbedding,
    InvalidId,
    OutcomeUnknown,
    PoolBusy,
    QueueFull,
)
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings
from vectorpool.sources import SystemSources


class Impatient(SystemSources):
    """Waits are noted, not waited."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)


@dataclass
class World:
    settings: Settings = field(default_factory=Settings)
    bucket: MemoryBucket = field(default_factory=MemoryBucket)
    embedder: HashingEmbedder = field(default_factory=HashingEmbedder)
    shard: MemoryShard = field(default_factory=MemoryShard)
    sources: Impatient = field(default_factory=Impatient)

    @property
    def library(self) -> DocumentLibrary:
        return DocumentLibrary(self.bucket, self.settings)

    @property
    def ingestor(self) -> Ingestor:
        return Ingestor(self.library, self.embedder, self.shard, self.settings, self.sources)

    async def put(self, path: str, text: str | bytes) -> None:
        await self.library.put("42", "7", path, text.encode() if isinstance(text, str) else text)

    async def ingest(self, *args: object, **kwargs: object) -> IngestReport:
        return await self.ingestor.ingest("42", "7", *args, **kwargs)  # type: ignore[arg-type]


def statuses(report: IngestReport) -> dict[str, str]:
    return {outcome.path: outcome.status for outcome in report.documents}


async def test_documents_become_records_that_say_where_they_are_from() -> None:
    """One command a document: stable ids, the text, its vector, and metadata with path, number, place and heading."""
    world = World()
    await world.put("guide.md", "# Guide\n\nHello there.\n\n## Use\n\nPress the button.\n")
    report = await world.ingest()
    assert statuses(report) == {"guide.md": "ingested"} and report.commit == 1
    command = world.shard.ingested["42", "7", "guide.md"]
    assert command.ids == ["guide.md#0000", "guide.md#0001"]
    assert command.collection == "documents" and command.size == 49
    assert command.documents == ["# Guide\n\nHello there.", "## Use\n\nPress the button."]
    nowhere = {"page": None, "sheet": None, "member": None}
    hashes = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in command.documents]
    assert command.metadatas == [
        {"path": "guide.md", "chunk": 0, "start": 0, "end": 21, "heading": "Guide", "hash": hashes[0], **nowhere},
        {
            "path": "guide.md",
            "chunk": 1,
            "start": 23,
            "end": 48,
            "heading": "Guide > Use",
            "hash": hashes[1],
            **nowhere,
        },
    ]
    assert command.vectors.embedder == "test:hashing-64"
    vectors = np.frombuffer(command.vectors.data, "<f4").reshape(2, 64)
    assert np.array_equal(vectors, await world.embedder.embed(command.documents))
    assert command.recipe == "test:hashing-64 markdown/1 chunks/2 auto tokens=220 overlap=30"


async def test_a_chunk_without_a_heading_says_so() -> None:
    """Written metadata is merged with what was there, so a heading that is gone is sent as None."""
    world = World()
    await world.put("a.txt", "plain text")
    await world.ingest()
    metadata = world.shard.ingested["42", "7", "a.txt"].metadatas[0]
    assert metadata["heading"] is None and "heading" in metadata and metadata["hash"]


async def test_an_unchanged_document_is_neither_read_nor_embedded() -> None:
    """A second ingest does nothing, and one after a change does that document only."""
    world = World()
    for name in ("a.txt", "b.txt", "c.md"):
        await world.put(name, f"text of {name}")
    await world.ingest()
    world.embedder.embedded.clear()
    report = await world.ingest()
    assert report.count("unchanged") == 3 and report.commit == 3 and world.embedder.embedded == []
    assert [outcome.chunks for outcome in report.documents] == [1, 1, 1]
    await world.put("b.txt", "another text")
    assert statuses(await world.ingest()) == {"a.txt": "unchanged", "b.txt": "ingested", "c.md": "unchanged"}
    assert world.embedder.embedded == ["another text"]


async def test_another_recipe_makes_a_document_changed() -> None:
    """Chunk size, overlap, model and collection are part of what unchanged means; force does not ask."""
    world = World()
    await world.put("a.txt", "some text")
    await world.ingest()
    assert (await world.ingest(force=True)).count("ingested") == 1
    for settings in (
        Settings(chunk_tokens=100),
        Settings(chunk_tokens=100, chunk_overlap_tokens=10),
        Settings(chunk_tokens=100, chunk_overlap_tokens=10, documents_collection="other"),
    ):
        world.settings = settings
        assert (await world.ingest()).count("ingested") == 1
        assert (await world.ingest()).count("unchanged") == 1
    world.embedder.name = "test:another"  # type: ignore[misc]
    assert (await world.ingest()).count("ingested") == 1


async def test_documents_that_are_gone_are_forgotten_unless_paths_are_named() -> None:
    """A whole ingest removes what the bucket no longer has; one of named paths touches only those."""
    world = World()
    for name in ("a.txt", "b.txt"):
        await world.put(name, "text")
    await world.ingest()
    await world.library.delete("42", "7", "a.txt")
    assert statuses(await world.ingest(["b.txt"])) == {"b.txt": "unchanged"}
    assert statuses(await world.ingest()) == {"a.txt": "removed", "b.txt": "unchanged"}
    assert list(world.shard.ingested) == [("42", "7", "b.txt")]


async def test_what_a_restore_brought_is_missing_and_not_removed() -> None:
    """A document that is not in the bucket keeps its records; one that is there is a document like any other again."""
    world = World()
    for name in ("a.txt", "b.txt", "c.txt"):
        await world.put(name, f"text of {name}")
    await world.ingest()
    world.shard.restored = set(world.shard.ingested)
    await world.library.delete("42", "7", "a.txt")
    await world.put("c.txt", "another text")
    world.shard.writes.clear()
    assert statuses(await world.ingest(["a.txt", "z.txt"])) == {"a.txt": "missing", "z.txt": "failed"}
    assert statuses(await world.ingest()) == {"a.txt": "missing", "b.txt": "unchanged", "c.txt": "ingested"}
    assert world.shard.writes == ["ingest c.txt"]
    assert world.shard.restored == {("42", "7", "a.txt")}
    await world.library.delete("42", "7", "b.txt")
    assert statuses(await world.ingest()) == {"a.txt": "missing", "b.txt": "removed", "c.txt": "unchanged"}
    await world.put("a.txt", "text of a.txt")
    assert statuses(await world.ingest()) == {"a.txt": "unchanged", "c.txt": "unchanged"}
    assert world.shard.restored == set()


async def test_a_restore_during_an_ingest_is_not_undone() -> None:
    """The ingest saw the rows before the restore flagged them: what it finds gone then is missing, not removed."""
    world = World()
    for name in ("a.txt", "b.txt"):
        await world.put(name, "text")
    await world.ingest()
    await world.library.delete("42", "7", "a.txt")
    await world.put("b.txt", "another text")
    world.shard.waiting_for = asyncio.Event()
    ingest = asyncio.create_task(world.ingest())
    while not world.shard.waiting:
        await asyncio.sleep(0)
    world.shard.restored = set(world.shard.ingested)
    world.shard.waiting_for.set()
    assert statuses(await ingest) == {"a.txt": "missing", "b.txt": "ingested"}
    assert ("42", "7", "a.txt") in world.shard.ingested


async def test_the_same_bytes_at_another_etag_are_unchanged() -> None:
    """They are read once, not embedded, and the row gets the ETag, so that the next ingest reads nothing."""
    world = World()
    await world.put("a.txt", "text")
    await world.ingest()
    key = ("42", "7", "a.txt")
    row = world.shard.ingested[key]
    world.shard.ingested[key] = msgspec.structs.replace(row, etag="of an object that was written again")
    world.embedder.embedded.clear()
    assert statuses(await world.ingest()) == {"a.txt": "unchanged"}
    assert (world.shard.ingested[key], world.embedder.embedded) == (row, [])
    commit = world.shard.commit
    assert statuses(await world.ingest()) == {"a.txt": "unchanged"}
    assert world.shard.commit == commit
    # A salvage lost chunks of it.
    world.shard.ingested[key] = msgspec.structs.replace(row, etag="")
    assert statuses(await world.ingest()) == {"a.txt": "ingested"}


async def test_a_document_whose_forgetting_was_not_answered_is_removed() -> None:
    """The second attempt finds nothing to forget, which is what was wanted."""
    world = World()
    await world.put("a.txt", "text")
    await world.ingest()
    await world.library.delete("42", "7", "a.txt")
    world.shard.answers_lost = 1
    assert statuses(await world.ingest()) == {"a.txt": "removed"}
    assert world.shard.ingested == {}


async def test_one_bad_document_fails_alone_and_says_why() -> None:
    """Each kind of bad document gets its own reason; the good ones around it are ingested."""
    world = World(
        settings=Settings(max_document_bytes=1000, max_document_chunks=2, chunk_tokens=16, chunk_overlap_tokens=0)
    )
    await world.put("a-good.txt", "fine")
    await world.put("b-binary.txt", b"\x00\x01")
    await world.put("b-nul.md", b"# Text\n\nbefore\x00after it")
    await world.put("c-latin.txt", b"caf\xe9")
    await world.put("d-image.png", b"\x89PNG")
    await world.put("e-long.txt", "Many words are in here. " * 20)
    await world.bucket.put("users/42/avatars/7/vectorstore_data/f-huge.txt", b"x" * 2000)
    await world.put("z-good.txt", "fine too")
    report = await world.ingest()
    reasons = {outcome.path: outcome.reason or "" for outcome in report.documents if outcome.status == "failed"}
    assert sorted(reasons) == ["b-binary.txt", "b-nul.md", "c-latin.txt", "d-image.png", "e-long.txt", "f-huge.txt"]
    assert "not text" in reasons["b-binary.txt"] and "0xe9" in reasons["c-latin.txt"]
    assert "byte 14 is none" in reasons["b-nul.md"]
    assert "Pictures are not read" in reasons["d-image.png"] and "at most 2 are taken" in reasons["e-long.txt"]
    assert "limit is 1000" in reasons["f-huge.txt"]
    assert report.count("ingested") == 2
    codes = {outcome.path: outcome.code for outcome in report.documents}
    assert codes["d-image.png"] == "unsupported-format" and codes["a-good.txt"] is None


async def test_a_document_the_shard_refuses_fails_alone() -> None:
    """A command that the vectorstore finds invalid is that document's failure."""
    world = World()
    for name in ("a.txt", "b.txt", "c.txt"):
        await world.put(name, "text")
    world.shard.failures = [InvalidEmbedding("No.")]
    assert list(statuses(await world.ingest()).values()) == ["failed", "ingested", "ingested"]


async def test_named_paths_that_are_missing_or_invalid_fail_alone() -> None:
    """Every named path has an outcome, once."""
    world = World()
    await world.put("a.txt", "text")
    report = await world.ingest(["a.txt", "gone.txt", "../up.txt", "a.txt"])
    assert statuses(report) == {"../up.txt": "failed", "a.txt": "ingested", "gone.txt": "failed"}


async def test_an_empty_document_fails_and_says_so() -> None:
    """No bytes, and no text in them, are two reasons; no record is made, and nothing stops the others."""
    world = World()
    await world.put("empty.txt", "")
    await world.put("blank.md", "---\na: b\n---\n \n\n")
    report = await world.ingest()
    assert [outcome.code for outcome in report.documents] == ["document-without-text", "document-empty"]
    assert not world.shard.ingested


async def test_what_may_pass_later_is_tried_again() -> None:
    """A full queue, a busy pool, a lost race and an unknown outcome delay an ingest, and do not fail it."""
    world = World()
    await world.put("a.txt", "text")
    world.embedder.failures = [QueueFull("Full.", retry_after_s=2.0)]
    world.shard.failures = [PoolBusy("Busy."), OutcomeUnknown("Unknown."), CommitConflict("Lost.")]
    assert (await world.ingest()).count("ingested") == 1
    assert len(world.sources.waits) == 4 and all(0 < wait <= 7.5 for wait in world.sources.waits)


async def test_what_does_not_pass_ends_the_ingest_with_its_error() -> None:
    """After a bounded number of attempts the error is the caller's; a shutdown or another model is so at once."""
    world = World()
    await world.put("a.txt", "text")
    world.shard.failures = [PoolBusy("Busy.")] * 50
    with pytest.raises(PoolBusy):
        await world.ingest()
    assert len(world.shard.failures) == 50 - 12
    for error in (Draining("Bye."), EmbedderMismatch("Another model.")):
        world.shard.failures = [error]
        with pytest.raises(type(error)):
            await world.ingest()
        assert world.shard.failures == []


async def test_few_documents_are_prepared_ahead_of_the_one_that_commits() -> None:
    """While the first commit hangs, four more documents are embedded, not all of them."""
    world = World()
    for number in range(20):
        await world.put(f"{number:02}.txt", f"text {number}")
    world.shard.waiting_for = asyncio.Event()
    task = asyncio.create_task(world.ingest())
    async with asyncio.timeout(60):
        while len(world.embedder.embedded) < 5:
            await asyncio.sleep(0.01)
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert len(world.embedder.embedded) == 5 and world.shard.writes == []
    world.shard.waiting_for.set()
    await task
    assert world.shard.writes[0] == "ingest 00.txt"
    assert sorted(world.shard.writes) == [f"ingest {n:02}.txt" for n in range(20)]


async def test_a_cancelled_ingest_leaves_no_task_behind() -> None:
    """Documents under preparation stop with the ingest that wanted them."""
    world = World()
    for number in range(5):
        await world.put(f"{number}.txt", f"text {number}")
    before = asyncio.all_tasks()
    world.shard.waiting_for = asyncio.Event()
    task = asyncio.create_task(world.ingest())
    async with asyncio.timeout(60):
        while not world.embedder.embedded:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before and world.shard.writes == []


async def test_progress_is_told_as_documents_and_chunks() -> None:
    """Progress only grows, and ends with every document done."""
    world = World()
    for number in range(4):
        await world.put(f"{number}.txt", "A sentence of some length. " * 100)
    told: list[IngestProgress] = []
    report = await world.ingest(progress=told.append)
    assert told[-1].documents_done == told[-1].documents_total == 4
    assert told[-1].chunks_embedded == sum(outcome.chunks for outcome in report.documents) > 8
    done = [progress.documents_done for progress in told]
    assert done == sorted(done)


async def test_a_question_finds_the_passage_and_forgetting_removes_it() -> None:
    """query embeds and searches the documents' collection; forget deletes what a document gave."""
    world = World()
    await world.put("otter.txt", "The keeper kept a tame otter.")
    await world.put("train.txt", "The train was late because of snow.")
    await world.ingest()
    answer = await world.ingestor.query("42", "7", "tame otter", 1)
    result = msgspec.json.decode(answer.body, type=QueryResult)
    assert [match.id for match in result.results[0]] == ["otter.txt#0000"] and answer.commit == 2
    await world.ingestor.forget("42", "7", "otter.txt")
    result = msgspec.json.decode((await world.ingestor.query("42", "7", "tame otter", 5)).body, type=QueryResult)
    assert [match.id for match in result.results[0]] == ["train.txt#0000"]
    with pytest.raises(InvalidId):
        await world.ingestor.forget("42", "7", "../otter.txt")


# --- What is deleted meanwhile -----------------------------------------------------------------------


async def test_a_document_that_is_deleted_while_it_is_ingested_does_not_come_back() -> None:
    """Whether its bytes go before the commit or during it, nothing of it is left, and the others are ingested."""
    for first in (True, False):
        world = World()
        await world.put("a.txt", "what is deleted")
        await world.put("b.txt", "what stays")
        if not first:
            await world.put("0.txt", "makes the collection")
            await world.ingest(["0.txt"])
        world.shard.waiting_for = asyncio.Event()
        ingest = asyncio.create_task(world.ingest(["a.txt", "b.txt"]))
        while not world.shard.waiting:
            await asyncio.sleep(0)
        await world.library.delete("42", "7", "a.txt")
        world.shard.waiting_for.set()
        assert statuses(await ingest) == {"a.txt": "removed", "b.txt": "ingested"}
        assert ("42", "7", "a.txt") not in world.shard.ingested


async def test_a_document_that_is_gone_makes_no_collection() -> None:
    """Deleted while it was embedded: no command is sent that would create the avatar's collection."""
    world = World()
    await world.put("a.txt", "text")

    async def embed(texts: list[str], user_id: str = "") -> np.ndarray:
        await world.library.delete("42", "7", "a.txt")
        return np.zeros((len(texts), 64), dtype=np.float32)

    world.embedder.embed = embed  # type: ignore[method-assign, assignment]
    assert statuses(await world.ingest()) == {"a.txt": "failed"}
    assert world.shard.writes == []


# --- What is known already ---------------------------------------------------------------------------


def lines(count: int, *, changed: int | None = None) -> str:
    """Return a Markdown text of ``count`` sections, one chunk each."""
    return "\n\n".join(f"# Part {n}\n\nText {n}{' again' if n == changed else ''}." for n in range(count))


async def test_only_the_chunks_that_changed_are_embedded() -> None:
    """The others keep their vectors, also where their numbers and places changed; force embeds all of them."""
    world = World()
    await world.put("a.md", lines(5))
    await world.ingest()
    before = world.shard.ingested["42", "7", "a.md"]
    world.embedder.embedded.clear()
    await world.put("a.md", "# New\n\nFirst.\n\n" + lines(5, changed=3))
    report = await world.ingest()
    assert world.embedder.embedded == ["# New\n\nFirst.", "# Part 3\n\nText 3 again."]
    after = world.shard.ingested["42", "7", "a.md"]
    assert after.documents[1] == before.documents[0] and len(after.ids) == 6
    row = 64 * 4
    assert after.vectors.data[row : 2 * row] == before.vectors.data[:row]
    assert np.array_equal(
        np.frombuffer(after.vectors.data, "<f4").reshape(6, 64), await world.embedder.embed(after.documents)
    )
    assert report.documents[0].tokens > 0 and report.documents[0].seconds >= 0
    world.embedder.embedded.clear()
    await world.ingest(force=True)
    assert len(world.embedder.embedded) == 6


async def test_a_document_that_was_moved_is_not_embedded_again() -> None:
    """Wherever its new path sorts; the old one is forgotten after that, and the ids carry the new path."""
    for old, new in (("a.md", "z.md"), ("z.md", "a.md")):
        world = World()
        await world.put(old, lines(3))
        await world.ingest()
        vectors = world.shard.ingested["42", "7", old].vectors
        world.embedder.embedded.clear()
        await world.library.delete("42", "7", old)
        await world.put(new, lines(3))
        report = await world.ingest()
        assert statuses(report) == {old: "removed", new: "ingested"}
        assert world.embedder.embedded == [] and list(world.shard.ingested) == [("42", "7", new)]
        moved = world.shard.ingested["42", "7", new]
        assert moved.vectors == vectors and moved.ids == [f"{new}#000{n}" for n in range(3)]


async def test_a_vector_of_another_model_is_not_taken() -> None:
    """The hash of the text is the same, and the model is not."""
    world = World()
    await world.put("a.md", lines(2))
    await world.ingest()
    world.embedder.name = "test:another"  # type: ignore[misc]
    world.embedder.embedded.clear()
    await world.ingest()
    assert len(world.embedder.embedded) == 2


async def test_a_named_document_that_is_gone_is_forgotten() -> None:
    """A sync of one path removes what was made of it, and touches no other."""
    world = World()
    for name in ("a.txt", "b.txt"):
        await world.put(name, "text")
    await world.ingest()
    await world.library.delete("42", "7", "a.txt")
    assert statuses(await world.ingest(["a.txt"])) == {"a.txt": "removed"}
    assert list(world.shard.ingested) == [("42", "7", "b.txt")]


async def test_a_document_that_is_replaced_while_it_commits_is_taken_again() -> None:
    """What the sync ends with is what the bucket has."""
    world = World()
    await world.put("a.txt", "old text")
    world.shard.waiting_for = asyncio.Event()
    ingest = asyncio.create_task(world.ingest())
    while not world.shard.waiting:
        await asyncio.sleep(0)
    await world.put("a.txt", "new text")
    world.shard.waiting_for.set()
    assert statuses(await ingest) == {"a.txt": "ingested"}
    assert world.shard.ingested["42", "7", "a.txt"].documents == ["new text"]


# --- Documents of more chunks than one command carries -----------------------------------------------


async def test_a_large_document_comes_in_parts_and_ends_with_its_row() -> None:
    """Every part but the last command is staged; nothing of it is a record before that."""
    world = World(settings=Settings(max_records=2))
    await world.put("a.md", lines(5))
    report = await world.ingest()
    assert world.shard.writes == ["stage a.md 0", "stage a.md 1", "stage a.md 2", "ingest a.md"]
    command = world.shard.ingested["42", "7", "a.md"]
    assert (report.documents[0].chunks, len(command.ids), world.shard.parts) == (5, 5, {})
    assert len(command.hashes) == 5 * 16
    assert (await world.ingest()).count("unchanged") == 1


async def test_an_interrupted_large_document_goes_on_where_it_ended() -> None:
    """Parts that are there are neither embedded nor sent again, and those of other bytes are deleted."""
    world = World(settings=Settings(max_records=2))
    await world.put("a.md", lines(5))
    world.shard.failures = []
    execute, sent = world.shard.execute, 0

    async def dies_at_the_third(user_id: str, command: Any, context: Any = None) -> Any:
        nonlocal sent
        sent += type(command).__name__ == "StageChunks"
        if sent == 3:
            raise Draining("The worker is killed.")
        return await execute(user_id, command)

    world.shard.execute = dies_at_the_third  # type: ignore[method-assign]
    with pytest.raises(Draining):
        await world.ingest()
    world.shard.execute = execute  # type: ignore[method-assign]
    assert world.shard.ingested == {} and len(world.shard.parts) == 1
    await world.put("b.md", "small")
    world.shard.writes.clear()
    world.embedder.embedded.clear()
    await world.ingest()
    assert world.shard.writes == ["stage a.md 2", "ingest a.md", "ingest b.md"]
    assert len(world.embedder.embedded) == 2 and len(world.shard.ingested["42", "7", "a.md"].ids) == 5


async def test_parts_that_are_gone_are_sent_again_and_leftovers_are_deleted() -> None:
    """Another sync discarded them; and what belongs to no document any more goes with the next whole sync."""
    world = World(settings=Settings(max_records=2))
    await world.put("a.md", lines(3))
    execute = world.shard.execute

    async def loses_parts_once(user_id: str, command: Any, context: Any = None) -> Any:
        if type(command).__name__ == "IngestDocument":
            world.shard.execute = execute  # type: ignore[method-assign]
            world.shard.parts.clear()
        return await execute(user_id, command)

    world.shard.execute = loses_parts_once  # type: ignore[method-assign]
    assert statuses(await world.ingest()) == {"a.md": "ingested"}
    assert len(world.shard.ingested["42", "7", "a.md"].ids) == 3
    world.shard.parts["42", "7", "gone.md", "token"] = {}
    await world.ingest()
    assert world.shard.parts == {}
