"""Large bodies of the native API: counted before anything is made of them, and decoded beside the event loop.

A small body is decoded at once, which takes less than asking a thread for it. Of a large one, threads do the work step
by step, each a few milliseconds: callers with large bodies take turns, and the event loop goes on between the steps. A
step holds the interpreter lock only for as long as one record, or one body of bounded contents, takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Final, TypeVar

from vectorpool import bounds
from vectorpool.api.outline import check_values
from vectorpool.api.requests import decode
from vectorpool.bounds import Most
from vectorpool.settings import Settings

T = TypeVar("T")

# Decoding less than this takes about as long as asking a thread to do it.
INLINE_BYTES: Final = 32 * 1024
# Lists and objects of a body that holds no records: each condition of a filter has two.
_CONTAINERS: Final = Most("lists and objects", 4 * bounds.FILTER_TERMS.most)
_NAMES_OF_A_RECORD: Final = 64


def values_of_a_record(settings: Settings) -> Most:
    """Return how many values and names one record may have: its numbers, its metadata, its parts."""
    metadata = bounds.METADATA_VALUES.most + 2 * bounds.METADATA_KEYS.most
    name = f"values ({settings.max_dimension} numbers, {bounds.METADATA_VALUES.most} values of metadata, names)"
    return Most(name, settings.max_dimension + metadata + _NAMES_OF_A_RECORD)


def _values_of_a_question(settings: Settings) -> Most:
    filters = 20 * bounds.FILTER_VALUES.most
    ids = 2 * settings.max_records
    return Most("values", filters + ids + settings.max_queries * (settings.max_dimension + 1))


async def decode_bounded(body: bytes, shape: type[T], settings: Settings) -> T:
    """Return a body that holds no records as ``shape``. Raises MalformedJson, LimitExceeded."""
    if len(body) <= INLINE_BYTES:
        return decode(body, shape)
    return await in_turns(_decode(body, shape, settings))


def _decode(body: bytes, shape: type[T], settings: Settings) -> Generator[None, None, T]:
    containers = Most(_CONTAINERS.name, _CONTAINERS.most + settings.max_queries)
    yield from check_values(body, _values_of_a_question(settings), containers)
    return decode(body, shape)


async def in_turns(work: Generator[None, None, T]) -> T:
    """Return the result of ``work``, whose steps run in threads, one after the other."""
    while True:
        is_done, result = await asyncio.to_thread(_step, work)
        if is_done:
            found: T = result
            return found


def at_once(work: Generator[None, None, T]) -> T:
    """Return the result of ``work``, whose steps run here."""
    while True:
        is_done, result = _step(work)
        if is_done:
            found: T = result
            return found


def _step(work: Generator[None, None, Any]) -> tuple[bool, Any]:
    # A StopIteration cannot cross from a thread to a coroutine.
    try:
        next(work)
    except StopIteration as ended:
        return True, ended.value
    return False, None
