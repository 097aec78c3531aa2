"""The gate between readers and whoever needs the replica alone."""

from __future__ import annotations

import asyncio

import pytest

from vectorpool.vectorstore.gate import Gate


async def test_readers_pass_together() -> None:
    """Two readers are inside at the same time."""
    gate = Gate()
    async with gate.together(), asyncio.timeout(1), gate.together():
        pass


async def test_alone_waits_for_readers_and_keeps_later_ones_out() -> None:
    """Whoever passes alone enters after the last reader, and a later reader enters after it."""
    gate = Gate()
    story: list[str] = []
    inside = asyncio.Event()
    leave = asyncio.Event()

    async def reader(name: str) -> None:
        async with gate.together():
            story.append(name)
            inside.set()
            await leave.wait()
            story.append(f"{name} leaves")

    async def lone() -> None:
        async with gate.alone():
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


async def test_gate_opens_again_after_a_failure() -> None:
    """An exception inside leaves the gate open for the next."""
    gate = Gate()
    with pytest.raises(ValueError, match="x"):
        async with gate.alone():
            raise ValueError("x")
    async with asyncio.timeout(1), gate.together():
        pass


async def test_a_cancelled_wait_for_being_alone_opens_the_gate() -> None:
    """Whoever gives up waiting to be alone lets the readers in again."""
    gate = Gate()
    async with gate.together():
        alone = asyncio.create_task(_pass_alone(gate))
        await asyncio.sleep(0)
        alone.cancel()
        await asyncio.wait([alone])
        async with asyncio.timeout(1), gate.together():
            pass


async def _pass_alone(gate: Gate) -> None:
    async with gate.alone():
        pass
