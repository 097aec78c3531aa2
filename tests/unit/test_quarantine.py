"""Who is in quarantine, from when until when, and what is asked of the shards before a suspect runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from vectorpool.commands import Evict, Flush
from vectorpool.errors import Quarantined, ShardUnavailable, StoreUnavailable, VectorpoolError
from vectorpool.settings import Settings
from vectorpool.shard.process import _owns
from vectorpool.shard.protocol import Hello
from vectorpool.shard.quarantine import Quarantine
from vectorpool.sources import Sources

QUARANTINE_S = 100.0


class _Clock(Sources):
    """A clock that the test moves; a sleep ends when it moved far enough."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class _Process:
    """Stands for the client of a shard; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[type] = []
        self.fails: VectorpoolError | None = None
        self.process_id = 7
        self.is_running = False

    async def start(self) -> None:
        if self.fails is not None:
            raise self.fails
        self.is_running = True

    async def stop(self, budget_s: float) -> None:
        self.is_running = False

    async def execute(self, user_id: str, command: Any, context: Any, limits: Any = None) -> None:
        self.asked.append(type(command))
        if self.fails is not None:
            raise self.fails


class _Instance:
    """A quarantine over such processes. ``is_settled`` is what the shards answer."""

    def __init__(self, **settings: Any) -> None:
        self.clock = _Clock()
        self.owner = _Process()
        self.made: list[_Process] = []
        self.crashes: list[Callable[[set[str]], None]] = []
        self.next_fails: VectorpoolError | None = None
        self.is_settled = True
        self.settled = 0
        self.cleaned: list[int] = []
        chosen = msgspec.structs.replace(Settings(quarantine_s=QUARANTINE_S, quarantine_processes=1), **settings)
        self.quarantine = Quarantine(
            chosen,
            self.clock,
            make_client=self._make,  # type: ignore[arg-type]
            owner_of=lambda _: self.owner,  # type: ignore[arg-type,return-value]
            settle=self._settle,
            clean=self.cleaned.append,
        )

    def _make(self, number: int, crashed: Callable[[set[str]], None]) -> _Process:
        self.made.append(_Process())
        self.made[-1].fails = self.next_fails
        self.crashes.append(crashed)
        return self.made[-1]

    async def _settle(self, budget_s: float) -> bool:
        self.settled += 1
        await asyncio.sleep(0)
        return self.is_settled

    def crash(self, *users: str, after_s: float = 1.0) -> None:
        self.clock.now_s += after_s
        self.quarantine.note_crash(set(users))

    async def tick(self) -> None:
        """Let the task that ends quarantines run for a while."""
        running = asyncio.create_task(self.quarantine.run())
        for _ in range(20):
            await asyncio.sleep(0.001)
        running.cancel()


@pytest.mark.parametrize(("gap_s", "is_suspect"), [(QUARANTINE_S, True), (QUARANTINE_S + 1, False)])
def test_two_crashes_within_the_time(gap_s: float, is_suspect: bool) -> None:
    """A user is a suspect from the second crash within the time on; others who were there once are not."""
    instance = _Instance()
    instance.crash("a", "b")
    assert "a" not in instance.quarantine
    instance.crash("a", "c", after_s=gap_s)
    assert ("a" in instance.quarantine) is is_suspect
    assert "b" not in instance.quarantine and "c" not in instance.quarantine


async def test_a_suspect_gets_a_process_once_its_slot_is_closed() -> None:
    """Callers that come together share the process; the shard of the hash has closed the slot before."""
    instance = _Instance()
    instance.crash("a")
    instance.crash("a")
    found = await asyncio.gather(*(instance.quarantine.client_of("a") for _ in range(3)))
    assert len(instance.made) == 1 and {id(each) for each in found} == {id(instance.made[0])}
    assert instance.owner.asked == [Evict]
    (view,) = instance.quarantine.view()
    assert (view.user_id, view.crashes, view.process_id) == ("a", 2, 7)
    assert instance.quarantine.clients == instance.made


async def test_it_returns_after_as_long_without_a_crash() -> None:
    """A crash of its own process counts, and begins the time anew; before it returns what it wrote is committed."""
    instance = _Instance()
    instance.crash("a")
    instance.crash("a")
    await instance.quarantine.client_of("a")
    instance.clock.now_s += QUARANTINE_S - 1
    # Its own process has no mark of others: whatever ended it is the suspect's.
    instance.crashes[0](set())
    instance.clock.now_s += QUARANTINE_S - 1
    await instance.tick()
    assert "a" in instance.quarantine
    instance.clock.now_s += 1
    instance.made[0].fails = StoreUnavailable("away")
    await instance.tick()
    assert "a" in instance.quarantine and instance.made[0].is_running
    instance.clock.now_s += 10
    instance.made[0].fails = None
    await instance.tick()
    assert "a" not in instance.quarantine and not instance.made[0].is_running
    assert instance.made[0].asked[-1] is Flush and instance.cleaned == [0]
    assert await instance.quarantine.client_of("a") is instance.owner


async def test_places_are_bounded() -> None:
    """A suspect without a place is refused by name; with no processes at all, each is."""
    for count in (0, 1):
        instance = _Instance(quarantine_processes=count)
        for user in ("a", "b"):
            instance.crash(user)
            instance.crash(user)
        if count:
            await instance.quarantine.client_of("a")
        with pytest.raises(Quarantined, match="quarantine_processes") as refused:
            await instance.quarantine.client_of("b")
        assert refused.value.retry_after_s == pytest.approx(QUARANTINE_S)
        assert len(instance.made) == count


async def test_a_process_that_does_not_start_gives_its_place_back() -> None:
    """The next request starts another."""
    instance = _Instance()
    instance.crash("a")
    instance.crash("a")
    instance.next_fails = ShardUnavailable("no memory")
    with pytest.raises(ShardUnavailable):
        await instance.quarantine.client_of("a")
    instance.next_fails = None
    assert await instance.quarantine.client_of("a") is instance.made[1]


async def test_a_slot_that_cannot_be_closed_refuses_the_suspect() -> None:
    """Two processes must not write one user's vectorstore; a shard that is being started again holds nothing."""
    instance = _Instance()
    instance.crash("a")
    instance.crash("a")
    instance.owner.fails = StoreUnavailable("away")
    with pytest.raises(Quarantined, match="closed"):
        await instance.quarantine.client_of("a")
    assert instance.made == []
    instance.owner.fails = ShardUnavailable("starting")
    assert await instance.quarantine.client_of("a") is instance.made[0]


async def test_neighbours_are_settled_under_write_back_alone() -> None:
    """Before each command of a suspect; those that come together share it, and after a failure none waits."""
    instance = _Instance(durability="write-back")
    instance.crash("a")
    instance.crash("a")
    await asyncio.gather(*(instance.quarantine.client_of("a") for _ in range(3)))
    assert instance.settled == 1
    await instance.quarantine.client_of("a")
    assert instance.settled == 2
    instance.is_settled = False
    for _ in range(3):
        with pytest.raises(Quarantined, match="writes of other users"):
            await instance.quarantine.client_of("a")
    assert instance.settled == 3
    instance.is_settled = True
    instance.clock.now_s += 10
    await instance.quarantine.client_of("a")
    through = _Instance()
    through.crash("a")
    through.crash("a")
    await through.quarantine.client_of("a")
    assert through.settled == 0


def test_what_is_remembered_is_bounded() -> None:
    """Crashes with many users in native code do not grow without end; the latest stay."""
    instance = _Instance()
    instance.crash(*(f"old-{i}" for i in range(20_000)))
    instance.crash("new")
    instance.crash("new")
    assert list(instance.quarantine._suspects) == ["new"]
    assert len(instance.quarantine._crashes) == 10_000


def test_upkeep_stays_with_the_shard_of_the_hash() -> None:
    """A process for one user owns nobody's log."""
    assert _owns(Hello(0, 1, Settings()), "a")
    assert not _owns(Hello(0, 1, Settings(), is_isolated=True), "a")
