"""The lock between readers and the one change of the files."""

from __future__ import annotations

import asyncio

import pytest

from vectorpool.vectorstore.read_write_lock import ReadWriteLock


async def test_readers_pass_together() -> None:
    """Two readers are inside at the same time."""
    lock = ReadWriteLock()
    async with lock.shared(), asyncio.timeout(1), lock.shared():
        pass


async def test_alone_waits_for_readers_and_keeps_later_ones_out() -> None:
    """The exclusive holder enters after the last reader, and a later reader enters after it."""
    lock = ReadWriteLock()
    story: list[str] = []
    inside = asyncio.Event()
    leave = asyncio.Event()

    async def reader(name: str) -> None:
        async with lock.shared():
            story.append(name)
            inside.set()
            await leave.wait()
            story.append(f"{name} leaves")

    async def lone() -> None:
        async with lock.exclusive():
            story.append("alone")

    first = asyncio.create_task(reader("first"))
    await inside.wait()
    alone = asyncio.create_task(lone())
    await asyncio.sleep(0)
    second = asyncio.create_task(reader("second"))
    await asyncio.sleep(0)
    assert story == ["first"]
    leave.set()
    await asyncio.gather(first, alone, second)
    assert story == ["first", "first leaves", "alone", "second", "second leaves"]


async def test_lock_opens_again_after_a_failure() -> None:
    """An exception inside leaves the lock open for the next."""
    lock = ReadWriteLock()
    with pytest.raises(ValueError, match="x"):
        async with lock.exclusive():
            raise ValueError("x")
    async with asyncio.timeout(1), lock.shared():
        pass


async def test_a_cancelled_wait_for_being_alone_opens_the_lock() -> None:
    """Whoever gives up waiting to be alone lets the readers in again."""
    lock = ReadWriteLock()
    async with lock.shared():
        alone = asyncio.create_task(_pass_alone(lock))
        await asyncio.sleep(0)
        alone.cancel()
        await asyncio.wait([alone])
        async with asyncio.timeout(1), lock.shared():
            pass


async def _pass_alone(lock: ReadWriteLock) -> None:
    async with lock.exclusive():
        pass
