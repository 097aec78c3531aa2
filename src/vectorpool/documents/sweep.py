"""A background look for documents that other programs changed, and for those whose job was lost.

A sweep of a user lists each avatar's documents and compares a hash of the listing with the one that was found in step
before: an avatar without changes costs one listing, and opens no vectorstore. Where they differ, the registry is read
and compared; if it is out of step, a sync is asked for. The listing counts as in step only when a later sweep finds it
so. One that stays out of step after ``_MOST_SYNCS`` syncs (documents that fail) is left until it changes.

Instances share the sweeps without communication, as they share verification: each visits users that are due in a random
order at random times, and looks at ``swept.json`` first, which says when another instance swept the user.

*What is gone does not come back.* An avatar without a collection of documents is new, or what was made of its documents
was deleted. Then only those are taken that are newer than the user's newest commit: a deletion is a commit too.

*Bounds.* One user at a time; no more syncs are asked for while ``_MOST_WAITING`` jobs wait.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Final

import msgspec
import xxhash

from vectorpool import names
from vectorpool.answers import Ingested, IngestedPage
from vectorpool.commands import ListIngested, PipelineChoice
from vectorpool.commitlog.ending import newest_header
from vectorpool.commitlog.json_objects import load_json, save_json
from vectorpool.context import BACKGROUND
from vectorpool.documents.comparison import difference, paired
from vectorpool.documents.ingest import Ingestor
from vectorpool.errors import AvatarNotFound, InvalidRequest, UserNotFound, VectorpoolError
from vectorpool.pool.schedule import Schedule
from vectorpool.supervision import rest

logger = logging.getLogger(__name__)

_PAGE: Final = 1000
_FIRST_SWEEP_S: Final = 600.0
# The mean number of times within the interval that users are listed.
_LOOKS: Final = 10
_MOST_SYNCS: Final = 3
_MOST_WAITING: Final = 1000
_WAIT_S: Final = 15.0
_USERS_AT_ONCE: Final = 1000
# Paths of one sync; further ones are found by the next sweep.
_MOST_PATHS: Final = 500


class AvatarMark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was found of an avatar: the hash of its listing, whether it was in step, how often a sync was asked for.

    ``how`` says how documents were cut then: a document that a job cut otherwise is in step until that changes.
    """

    listing: str
    how: str
    in_step: bool = False
    syncs: int = 0


class SweepMark(msgspec.Struct, frozen=True):
    """The last sweep of a user. It may be lost: then all is looked at again."""

    swept_at_ms: int
    avatars: dict[str, AvatarMark]


class Sweep:
    """Finds what is out of step.

    ``sync`` asks for a sync and raises if it is not taken; ``waiting`` counts jobs; ``may_run`` says whether a user may
    have any.
    """

    def __init__(
        self,
        ingestor: Ingestor,
        sync: Callable[[str, str, list[str] | None], Awaitable[None]],
        waiting: Callable[[], Awaitable[int]],
        may_run: Callable[[str], bool] = lambda user_id: True,
    ) -> None:
        self._ingestor = ingestor
        self._library = ingestor.library
        self._sources = ingestor.sources
        self._interval_s = ingestor.settings.sweep_interval_s
        self._sync = sync
        self._waiting = waiting
        self._may_run = may_run
        self._schedule = Schedule()

    async def run(self) -> None:
        """Sweep until cancelled."""
        await rest(self._sources, self._sources.random() * min(_FIRST_SWEEP_S, self._interval_s))
        while True:
            try:
                await self.round()
            except VectorpoolError as error:
                logger.warning("a sweep ended early: %s", error.detail)
            await rest(self._sources, self._interval_s / _LOOKS * (0.5 + self._sources.random()))

    async def round(self) -> None:
        """Sweep the users that are due, in a random order. Raises StoreUnavailable if they cannot be listed."""
        users = await self._due()
        while users:
            at = int(self._sources.random() * len(users))
            users[at], users[-1] = users[-1], users[at]
            user_id = users.pop()
            try:
                await self.sweep(user_id)
            except VectorpoolError as error:
                # It stays due.
                logger.warning("the documents of a user could not be swept: %s", error.detail)
                logger.debug("not swept: %s", user_id)

    async def _due(self) -> list[str]:
        listed, due = await self._library.list_users(), list[str]()
        self._schedule.make_room(len(listed))
        now_s = self._sources.now_ms() / 1000
        for at in range(0, len(listed), _USERS_AT_ONCE):
            due += [each for each in listed[at : at + _USERS_AT_ONCE] if self._schedule.is_due(each, now_s)]
            await self._sources.sleep(0)
        return due

    async def sweep(self, user_id: str) -> None:
        """Look at one user, unless another instance did within the interval. Raises VectorpoolError."""
        if not self._may_run(user_id):
            return
        bucket, key = self._library.bucket, names.sweep_key(user_id)
        interval_ms = int(self._interval_s * 1000)
        last = await load_json(bucket, key, SweepMark)
        now_ms = self._sources.now_ms()
        if last is not None and 0 <= now_ms - last.swept_at_ms < interval_ms:
            self._schedule.remember(user_id, (last.swept_at_ms + interval_ms) / 1000)
            return
        before = {} if last is None else last.avatars
        found = dict[str, AvatarMark]()
        # An avatar whose last document is gone has no prefix any more.
        for avatar_id in sorted({*await self._library.list_avatars(user_id), *before}):
            mark = await self._avatar(user_id, avatar_id, before.get(avatar_id))
            if mark is not None:
                found[avatar_id] = mark
        if found or before:
            await save_json(bucket, key, SweepMark(now_ms, found))
        self._schedule.remember(user_id, (now_ms + interval_ms) / 1000)

    async def _avatar(self, user_id: str, avatar_id: str, before: AvatarMark | None) -> AvatarMark | None:
        listing, count = await self._listing(user_id, avatar_id)
        how = self._how()
        same = before is not None and (before.listing, before.how) == (listing, how)
        if before is not None and same and (before.in_step or before.syncs >= _MOST_SYNCS):
            return before if count else None
        syncs = before.syncs if before is not None and same else 0
        paths: list[str] | None = None
        try:
            first = await self._page(user_id, avatar_id, None)
        except (AvatarNotFound, UserNotFound):
            first = IngestedPage([])
        if self._ingestor.settings.documents_collection in first.collections:
            cut_anew = before is not None and before.how != how
            in_step = await self._is_in_step(user_id, avatar_id, first.documents, cut_anew)
        else:
            paths = await self._newer(user_id, avatar_id)
            in_step = not paths
        if in_step:
            return AvatarMark(listing, how, in_step=True) if count else None
        await self._room()
        await self._sync(user_id, avatar_id, paths)
        return AvatarMark(listing, how, syncs=syncs + 1)

    async def _listing(self, user_id: str, avatar_id: str) -> tuple[str, int]:
        """Return the hash of what the documents are, and their number."""
        hashed, count = xxhash.xxh3_128(), 0
        async for each in self._library.iterate(user_id, avatar_id):
            hashed.update(f"{each.path}\0{each.etag}\0{each.size}\0".encode())
            count += 1
        return hashed.hexdigest(), count

    def _how(self) -> str:
        """Return how this instance makes records of a document, if nothing else was chosen."""
        of, settings = self._ingestor, self._ingestor.settings
        size = f"{settings.chunk_tokens} {settings.chunk_overlap_tokens}"
        return f"{of.embedder.name} {settings.documents_collection} {settings.chunk_strategy} {size}"

    async def _is_in_step(self, user_id: str, avatar_id: str, first: list[Ingested], cut_anew: bool) -> bool:
        """Compare the registry with the bucket; ``first`` is the first page of the registry.

        Unless ``cut_anew``, a document of the same bytes is in step, however it was cut.
        """
        choice = await self._ingestor.choice_of(user_id, avatar_id, BACKGROUND)
        collection = self._ingestor.settings.documents_collection
        registry = self._registry(user_id, avatar_id, first)
        async with aclosing(paired(self._library.iterate(user_id, avatar_id), registry)) as pairs:
            async for pair in pairs:
                recipe = self._recipe(pair.path, choice)
                if not cut_anew and pair.known is not None:
                    recipe = pair.known.recipe
                elif recipe is None and pair.known is None:
                    # It would fail, and fails again: no sync helps.
                    continue
                if difference(pair, recipe or "", collection) not in ("unchanged", "missing"):
                    return False
        return True

    def _recipe(self, path: str, choice: PipelineChoice | None) -> str | None:
        with suppress(InvalidRequest):
            return self._ingestor.recipe(path, choice)
        return None

    async def _registry(self, user_id: str, avatar_id: str, first: list[Ingested]) -> AsyncGenerator[Ingested, None]:
        page = first
        while page:
            for known in page:
                yield known
            page = (await self._page(user_id, avatar_id, page[-1].path)).documents if len(page) == _PAGE else []

    async def _page(self, user_id: str, avatar_id: str, after: str | None) -> IngestedPage:
        command = ListIngested(avatar_id=avatar_id, paths=None, after=after, limit=_PAGE)
        answer = await self._ingestor.router.execute(user_id, command, BACKGROUND)
        return msgspec.json.decode(answer.body, type=IngestedPage)

    async def _newer(self, user_id: str, avatar_id: str) -> list[str]:
        """Return documents, a bounded number, that are newer than all that was ever done to the vectorstore."""
        newest = await newest_header(self._library.bucket, user_id)
        since_ms = -1 if newest is None else newest.header.time_ms
        paths = list[str]()
        async for each in self._library.iterate(user_id, avatar_id):
            if each.modified_ms > since_ms:
                paths.append(each.path)
                if len(paths) == _MOST_PATHS:
                    break
        return paths

    async def _room(self) -> None:
        """Wait until fewer jobs wait: what is out of step everywhere must not fill the database at once."""
        while await self._waiting() >= _MOST_WAITING:
            await self._sources.sleep(_WAIT_S * (0.5 + self._sources.random()))
