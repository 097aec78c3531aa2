"""Decisions on a listing that is old by now: no operation takes what others did meanwhile for damage."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.commitlogs import USER, Author
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import Removal
from vectorpool.errors import Damaged, VectorpoolError
from vectorpool.objects.memory import MemoryBucket

BLOCK = 4096
HOUR_S, WEEKS_S = 3600.0, 2 * 604_800.0
REQUESTS = ("get", "get_range", "head", "list_objects", "list_prefixes", "create", "put", "delete")
Action = Callable[[CommitLog, Path], Awaitable[Any]]


class PausedBucket:
    """A store of one operation, before whose request number ``at`` something else happens."""

    def __init__(self, inner: MemoryBucket, at: int, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self._inner = inner
        self._at = at
        self._meanwhile = meanwhile
        self.requests = 0

    def __getattr__(self, name: str) -> Any:
        plain = getattr(self._inner, name)
        if name not in REQUESTS:
            return plain

        async def request(*arguments: Any, **named: Any) -> Any:
            self.requests += 1
            if self.requests == self._at:
                await self._meanwhile()
            return await plain(*arguments, **named)

        return request


async def _write(author: Author, commits: int) -> None:
    dice = random.Random(author.position.seq)
    for _ in range(commits):
        if not (author.directory / "chroma.sqlite3").exists():
            author.write("chroma.sqlite3", dice.randbytes(40 * BLOCK))
        author.write("chroma.sqlite3", dice.randbytes(300), offset=dice.randrange(39) * BLOCK)
        await author.commit()
        author.sources.slept_s += HOUR_S


async def _hydrate(log: CommitLog, directory: Path) -> Any:
    return await log.hydrate(directory)


ACTIONS: dict[str, Action] = {
    "garbage": lambda log, _: log.remove_garbage(),
    "verify": lambda log, _: log.verify(),
    "scrub": lambda log, _: log.scrub(),
    "hydrate": _hydrate,
    "past": lambda log, directory: log.hydrate(directory, at=3),
    "entries": lambda log, _: log.entries(limit=50),
    "tag": lambda log, _: log.tag("kept", 3),
    "fork": lambda log, _: log.fork("other", at=None),
    "restore": lambda log, _: log.restore(3),
    "time": lambda log, _: log.seq_at(2**50),
}


@pytest.mark.parametrize("what", ACTIONS)
@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends"])
async def test_what_others_did_meanwhile_is_no_damage(tmp_path: Path, what: str, ends: bool) -> None:
    """Paused for weeks before any of its requests, an operation finds what it asked for, or that it is gone.

    Meanwhile the log grows, is compacted and freed of garbage, or its vectorstore is deleted and written again.
    """
    # Before its first request, which there is not, nothing happens: that run counts the requests.
    at, requests = 0, 0
    while at <= requests:
        root = tmp_path / str(at)
        root.mkdir()
        author = Author(root, MemoryBucket(), fanout=4)
        inner = author.bucket
        assert isinstance(inner, MemoryBucket)
        inner._sources = author.sources
        await _write(author, 9)
        author.sources.slept_s += WEEKS_S
        await _write(author, 3)

        async def meanwhile(author: Author = author) -> None:
            if ends:
                await author.log.end()
                return
            author.sources.slept_s += WEEKS_S
            await _write(author, 9)
            author.sources.slept_s += WEEKS_S
            await author.log.compact(author.position)
            while not (await author.log.remove_garbage()).complete:
                pass

        bucket = PausedBucket(inner, at, meanwhile)
        log = CommitLog(bucket, USER, settings=author.log._settings, sources=author.sources)  # type: ignore[arg-type]
        directory = root / "hydrated"
        directory.mkdir()
        try:
            result = await ACTIONS[what](log, directory)
        except Damaged as error:
            raise AssertionError(f"{what}, paused before request {at}, reports damage: {error.detail}") from error
        except VectorpoolError as error:
            assert at and error.code in GONE, f"{what}, paused before request {at}: {error!r}"
        else:
            if what in ("verify", "scrub"):
                assert result.problems == [], f"{what}, paused before request {at}"
            if what == "garbage":
                assert isinstance(result, Removal)
        requests = max(requests, bucket.requests)
        assert (await author.log.scrub()).problems == []
        at += 1
    assert requests > 1


# What an operation may say of a commit, or of a vectorstore, that is gone.
GONE = ("commit-not-found", "user-not-found", "backup-not-found", "commit-conflict", "vectorstore-exists")
