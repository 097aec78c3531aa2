"""The real locks of a replica, under threads in an order from a seed: calls of Chroma, fast reads and fast writes.

Real are the locks, the fast reads and writes, and their SQLite file. Chroma's client is a recorder, whose calls take
virtual time. ``REPLICA_LOCKS_SEED=17 pytest -k locks`` repeats one seed.
"""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tests.support.plain_chroma import PlainChroma
from tests.support.threads import Condition, Deadlock, Lock, Schedule
from vectorpool.engine import calls, database_file, fast_writes
from vectorpool.engine.bindings import Client
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.database_file import DatabaseFile
from vectorpool.engine.fast_reads import FastReader
from vectorpool.engine.fast_writes import FastWriter
from vectorpool.engine.rows import Batch
from vectorpool.engine.tables import Operation
from vectorpool.errors import BrokenReplica
from vectorpool.names import DEFAULT_DATABASE

COLLECTIONS, MAX_COLLECTIONS, PAUSE = 5, 3, 2
# What the client is told; a mutation tells it something else.
CONFIGURED_COLLECTIONS = MAX_COLLECTIONS
TIMEOUT_S, OPENING_S, LONGEST_CALL_S = 0.05, 0.01, 0.2
THRESHOLD = 4
SEEDS, LONG_SEEDS = 60, 3000
ROUNDS, CALLERS = 6, 3


class Violation(AssertionError):
    """Something happened that the locks forbid."""


class Recorder:
    """Chroma's own client, of which only the calls are noted. ``behind``: what was written and it does not know."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.loaded: set[str] = set()
        self.behind: set[str] = set()
        world.clients += 1

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return functools.partial(self._world.call, self, method)

    def __del__(self) -> None:
        self._world.closes(self)


class World:
    """One replica, and what its parts do at the moment."""

    def __init__(self, seed: int, directory: Path, collections: list[CollectionInfo]) -> None:
        self.schedule = Schedule(seed)
        self.dice = self.schedule.dice
        self.directory, self.collections = directory, collections
        self.clients = self.opened = self.calls = self.exclusive = self.answers = 0
        self.is_writing = False
        # Records in the first collection: of writes that returned, and of those that began.
        self.written = self.begun = 1
        self.newest: Callable[[], Recorder | None] = lambda: None
        self.seen: list[str] = []

    def known(self, database: str, collection_id: str) -> CollectionInfo | None:
        """Return a collection as the catalogue does."""
        return next((info for info in self.collections if info.id == collection_id), None)

    def check(self, is_right: bool, what: str) -> None:
        """Raise Violation with what happened, and note it where an exception would be lost."""
        if not is_right:
            self.seen.append(what)
            raise Violation(what)

    # --- Chroma --------------------------------------------------------------------------------------

    def open(self, directory: Path) -> Recorder:
        """Open a client, which takes a while and sometimes fails."""
        self.check(self.clients == 0, "a client is opened beside another")
        self.check(self.calls == 0 and self.exclusive == 0, "a client is opened while files are used")
        self.schedule.sleep(OPENING_S)
        self.check(self.clients == 0, "a client was opened beside another")
        if self.opened and self.dice.random() < 0.05:
            raise BrokenReplica("Chroma cannot open the vectorstore.")
        self.opened += 1
        made = Recorder(self)
        self.newest = weakref.ref(made)
        return made

    def closes(self, client: Recorder) -> None:
        """Note the end of a client."""
        self.clients -= 1
        if self.exclusive or self.is_writing:
            self.seen.append("a client is closed while files are written")

    def call(self, client: Recorder, method: str, *arguments: Any) -> int:
        """Note a call, which takes a while."""
        collection = str(arguments[1 if method == "add" else 0])
        client.loaded.add(collection)
        self.check(len(client.loaded) <= MAX_COLLECTIONS, "a client holds too many collections")
        if method in ("add", "query"):
            self.check(collection not in client.behind, f"{method} does not know what was written around the client")
        self.calls += 1
        self.check(self.exclusive == 0, f"{method} begins while files are written")
        self.schedule.sleep(self.dice.uniform(0.0005, LONGEST_CALL_S))
        self.check(self.exclusive == 0, f"{method} ends while files are written")
        self.calls -= 1
        return 0

    # --- SQLite --------------------------------------------------------------------------------------

    def connection(self) -> type[sqlite3.Connection]:
        """Return a kind of connection that gives way before each statement, and notes transactions."""
        world = self

        class Pausing(sqlite3.Connection):
            def __init__(self, database: str, **more: Any) -> None:
                super().__init__(database, **more)
                self.is_readers = "mode=ro" in database

            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql.startswith("PRAGMA"):
                    return super().execute(sql, *values)
                world.schedule.pause()
                if sql.startswith("BEGIN"):
                    world.check(world.exclusive == 1, "a transaction begins without being exclusive")
                    world.check(not world.is_writing, "two transactions at once")
                    world.is_writing = True
                elif sql in ("COMMIT", "ROLLBACK"):
                    world.is_writing = False
                elif self.is_readers:
                    world.check(not world.is_writing, "a read in the middle of a transaction")
                return super().execute(sql, *values)

        return Pausing


class Watched(Client):
    """The client under test, whose exclusive parts are watched from inside."""

    def __init__(self, world: World) -> None:
        self._world = world
        super().__init__(world.directory)

    @contextmanager
    def exclusive(self, timeout_s: float) -> Iterator[bool]:
        """As it is."""
        world, began = self._world, self._world.schedule.now
        with super().exclusive(timeout_s) as is_granted:
            # The condition may be held by openings before and after the wait, one of each thread that opens clients.
            waited = world.schedule.now - began
            world.check(waited <= timeout_s + (CALLERS + 1) * OPENING_S + 1e-9, f"an exclusive part waited {waited} s")
            if is_granted:
                world.exclusive += 1
                world.check(world.exclusive == 1, "two exclusive parts at once")
                world.check(world.calls == 0, "an exclusive part beside a call")
            try:
                yield is_granted
            finally:
                world.exclusive -= is_granted

    def note_fast_write(self, collection_id: str) -> None:
        """As it is; Chroma's client, if it has loaded the collection, does not know of what was written."""
        recorder = self._world.newest()
        if recorder is not None and collection_id in recorder.loaded:
            recorder.behind.add(collection_id)
        super().note_fast_write(collection_id)


class Replica:
    """The parts under test on one directory, made of the schedule's locks."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.client = Watched(world)
        files = world.schedule.threading.Lock()
        self.reader = FastReader(DatabaseFile(world.directory, files), world.known, 1024**2)
        self.writer = FastWriter(world.directory, self.client, files)

    def write(self, number: int) -> None:
        """Write one record around the client if that may be, through it otherwise."""
        collection = self.world.collections[0]
        batch = Batch([f"r{number}"], np.array([[number, 1, 2]], "<f4"))
        self.world.begun += 1
        if not self.writer.write(Operation.UPSERT, collection.id, DEFAULT_DATABASE, batch):
            # The recorder stores nothing.
            self.world.begun -= 1
            self.client.add(collection_id=collection.id, database=DEFAULT_DATABASE, batch=batch)
        else:
            self.world.written += 1

    def call(self) -> None:
        """Ask Chroma something about any collection."""
        place = {"collection_id": self.world.dice.choice(self.world.collections).id, "database": DEFAULT_DATABASE}
        match self.world.dice.choice(["query", "count", "get"]):
            case "query":
                self.client.query(**place, embeddings=[[1.0, 1.0, 1.0]], n_results=1)
            case "count":
                self.client.count(**place)
            case "get":
                self.client.get(**place)

    def read(self) -> None:
        """Read around the client; an answer counts what was written before, and nothing that was not begun."""
        collection, before = self.world.collections[0].id, self.world.written
        at_once = self.world.dice.random() < 0.5
        found = self.reader.count(collection, DEFAULT_DATABASE, at_once=at_once)
        self.world.check(found is None or before <= found <= self.world.begun, f"{found} records, {before} written")
        self.world.answers += found is not None
        query = np.ones((1, 3), np.float32)
        self.reader.query(collection, DEFAULT_DATABASE, query, 3, ["distances"], at_once=at_once)

    def take(self) -> None:
        """Be exclusive for a while."""
        with self.client.exclusive(TIMEOUT_S) as is_granted:
            if is_granted:
                self.world.schedule.sleep(0.002)

    def close(self) -> None:
        """Close everything, twice."""
        for _ in range(2):
            self.reader.close()
            self.writer.close()
            self.client.close()


Template = tuple[Path, list[CollectionInfo]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A directory with five collections, one of them with a record, so that plain writes into it are possible."""
    directory = tmp_path_factory.mktemp("template")
    chroma = PlainChroma(directory)
    made = [
        chroma.create(f"c-{number}", {"sync_threshold": THRESHOLD, "batch_size": THRESHOLD})
        for number in range(COLLECTIONS)
    ]
    chroma.upsert(made[0], ["first"], np.ones((1, 3), np.float32))
    chroma.close()
    return directory, made


@contextmanager
def under(world: World) -> Iterator[None]:
    """Have the engine use the schedule's locks, the recorder, and connections that give way."""
    connect = functools.partial(sqlite3.connect, factory=world.connection())
    fake = types.SimpleNamespace(**{**vars(sqlite3), "connect": connect})
    with (
        mock.patch.object(calls, "threading", world.schedule.threading),
        mock.patch.object(calls, "_open", world.open),
        mock.patch.object(calls, "MAX_COLLECTIONS", CONFIGURED_COLLECTIONS),
        mock.patch.object(calls, "FAST_WRITE_PAUSE", PAUSE),
        mock.patch.object(database_file, "sqlite3", fake),
        mock.patch.object(fast_writes, "sqlite3", fake),
    ):
        yield


def spawn(replica: Replica, seed: int) -> None:
    """Give the schedule its threads: one that writes, as a slot has, and several of every other kind."""
    schedule = replica.world.schedule

    def repeat(name: str, step: Callable[[int], None]) -> None:
        def body() -> None:
            for number in range(ROUNDS):
                # A client does not open, or is closed by now.
                with suppress(BrokenReplica):
                    step(number)

        schedule.spawn(name, body)

    repeat("writer", replica.write)
    for number in range(CALLERS):
        repeat(f"caller-{number}", lambda _: replica.call())
    for number in range(2):
        repeat(f"reader-{number}", lambda _: replica.read())
    repeat("exclusive", lambda _: replica.take())
    if seed % 4 == 1:
        schedule.spawn("closes the reads", replica.reader.close)
    if seed % 4 == 2:

        def close() -> None:
            schedule.sleep(schedule.dice.uniform(0, 0.3))
            replica.client.close()

        schedule.spawn("closes the client", close)


def play(seed: int, template: Template, root: Path) -> World:
    """Run one seed; raise Violation, Deadlock, or what a part raised that it should not."""
    directory = Path(shutil.copytree(template[0], root / f"seed-{seed}"))
    try:
        world = World(seed, directory, template[1])
        with under(world):
            replica = Replica(world)
            spawn(replica, seed)
            world.schedule.run()
            replica.close()
            del replica
        world.check(world.clients == 0, f"{world.clients} clients are open after everything was closed")
        world.check(world.seen == [], str(world.seen))
        return world
    except BaseException as error:
        error.add_note(f"seed {seed}; repeat it with REPLICA_LOCKS_SEED={seed}")
        raise
    finally:
        shutil.rmtree(directory)


def test_the_locks_hold_in_every_order(template: Template, tmp_path: Path) -> None:
    """Over many orders of calls, reads and writes no two meet that may not, none waits for ever, and all is closed."""
    only = os.environ.get("REPLICA_LOCKS_SEED")
    worlds = [play(seed, template, tmp_path) for seed in ([int(only)] if only else range(SEEDS))]
    # Otherwise one kind of thread had held back all others.
    assert only or sum(world.written for world in worlds) > 2 * len(worlds)
    assert only or sum(world.opened for world in worlds) > 2 * len(worlds)
    assert only or sum(world.answers for world in worlds) > 2 * len(worlds)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_locks_hold_in_many_more_orders(template: Template, tmp_path: Path) -> None:
    """The same over thousands of seeds."""
    for seed in range(SEEDS, LONG_SEEDS):
        play(seed, template, tmp_path)


def test_a_seed_is_one_order(template: Template, tmp_path: Path) -> None:
    """The same seed makes the same steps, another one makes others."""
    worlds = [play(seed, template, tmp_path) for seed in (7, 7, 8)]
    steps = [(world.schedule.steps, world.schedule.now, world.written, world.opened) for world in worlds]
    assert steps[0] == steps[1] != steps[2]


# --- What the schedule must notice -------------------------------------------------------------------

Patch = pytest.MonkeyPatch


def wake_nobody(patch: Patch) -> None:
    """A change is not told to those that wait for it."""
    patch.setattr(Condition, "notify_all", lambda self: None)


def wake_one(patch: Patch) -> None:
    """A change is told to one of those that wait for it."""
    patch.setattr(Condition, "notify_all", lambda self: self.notify(1))


def wait_for_nothing(patch: Patch) -> None:
    """A thread goes on although what it waits for has not come."""
    patch.setattr(Condition, "wait_for", lambda self, predicate, timeout=None: True)


def look_once(patch: Patch) -> None:
    """A thread that was woken takes for granted that what it waits for has come."""

    def wait_for(self: Condition, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        return predicate() or self.wait(timeout)

    patch.setattr(Condition, "wait_for", wait_for)


def take_a_timeout_for_success(patch: Patch) -> None:
    """A thread whose patience ended goes on as if it had been granted what it waited for."""
    real = Condition.wait_for

    def wait_for(self: Condition, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        real(self, predicate, timeout)
        return True

    patch.setattr(Condition, "wait_for", wait_for)


def wait_without_end(patch: Patch) -> None:
    """A thread waits longer than it may."""
    real = Condition.wait_for
    patch.setattr(Condition, "wait_for", lambda self, predicate, timeout=None: real(self, predicate, None))


def lock_nothing(patch: Patch) -> None:
    """The lock of the files keeps nobody out."""
    patch.setattr(Lock, "acquire", lambda self, blocking=True, timeout=-1: self._schedule.pause() or True)
    patch.setattr(Lock, "release", lambda self: None)
    patch.setattr(Condition, "notify", lambda self, n=1: [setattr(each, "is_notified", True) for each in self._waiting])


def forget_fast_writes(patch: Patch) -> None:
    """The client is not told what was written around it."""
    patch.setattr(Client, "note_fast_write", lambda self, collection_id: None)


def load_without_end(patch: Patch) -> None:
    """A client is never replaced for the number of its collections."""
    patch.setitem(globals(), "CONFIGURED_COLLECTIONS", COLLECTIONS + 1)


def stay_open(patch: Patch) -> None:
    """A client is not closed with the replica."""
    kept: list[Any] = []
    patch.setattr(Client, "close", lambda self: kept.append(self._client))


@pytest.mark.parametrize(
    ("mutation", "noticed", "match"),
    [
        (wake_nobody, Deadlock, "wait"),
        (wake_one, Deadlock, "wait"),
        (wait_for_nothing, Violation, "while files are|beside"),
        (look_once, Violation, "beside|while files"),
        (take_a_timeout_for_success, Violation, "beside a call"),
        (wait_without_end, Violation, "an exclusive part waited"),
        (lock_nothing, Violation, "in the middle of a transaction"),
        (forget_fast_writes, Violation, "does not know what was written"),
        (load_without_end, Violation, "too many collections"),
        (stay_open, Violation, "open after everything was closed"),
    ],
    ids=lambda value: value.__name__ if callable(value) and not isinstance(value, type) else "",
)
def test_a_broken_lock_is_noticed(
    template: Template,
    tmp_path: Path,
    monkeypatch: Patch,
    mutation: Callable[[Patch], None],
    noticed: type[BaseException],
    match: str,
) -> None:
    """Each of these mistakes fails within a bounded number of seeds, and the failure names its seed."""
    mutation(monkeypatch)
    with pytest.raises(noticed, match=match) as raised:
        for seed in range(SEEDS):
            play(seed, template, tmp_path)
    assert "REPLICA_LOCKS_SEED=" in "".join(raised.value.__notes__)
