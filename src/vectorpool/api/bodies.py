"""Large bodies of the native API: counted before anything is made of them, and decoded beside the event loop.

A small body is decoded at once, which takes less than asking a thread for it. Of a large one, a thread does the work
step by step, each a few milliseconds: users with large bodies take turns (``turns``), and the event loop goes on
meanwhile. A step holds the interpreter lock only for as long as one record, or one body of bounded contents, takes.

A large body is put together as it arrives, in memory that was never touched: to join 60 MB at the end takes the event
loop 40 ms.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar

from litestar import Request

from vectorpool import bounds
from vectorpool.api.requests import decode
from vectorpool.api.service import Service
from vectorpool.bounds import Most
from vectorpool.outline import check_values
from vectorpool.settings import Settings

T = TypeVar("T")

# Decoding less than this takes about as long as asking a thread to do it.
INLINE_BYTES: Final = 32 * 1024
# A shorter body is joined at the end.
_JOINED_BYTES: Final = 1024**2
# How much of a large body is looked at before the rest arrives: a millisecond of work.
_LOOKED_AT_BYTES: Final = 256 * 1024
# Lists and objects of a body that holds no records: each condition of a filter has two.
_CONTAINERS: Final = Most("lists and objects", 4 * bounds.FILTER_TERMS.most)
_NAMES_OF_A_RECORD: Final = 64


def values_of_a_record(settings: Settings) -> Most:
    """Return how many values and names one record may have: its numbers, its metadata, its parts."""
    metadata = bounds.METADATA_VALUES.most + 2 * bounds.METADATA_KEYS.most
    name = f"values ({settings.max_dimension} numbers, {bounds.METADATA_VALUES.most} values of metadata, names)"
    return Most(name, settings.max_dimension + metadata + _NAMES_OF_A_RECORD)


def values_of_a_question(settings: Settings) -> Most:
    """Return how many values and names a body that asks may have: filters, ids, embeddings."""
    filters = bounds.FILTER_ALL_VALUES.most
    ids = 2 * settings.max_records
    return Most("values", filters + ids + settings.max_queries * (settings.max_dimension + 1))


async def body_of(
    request: Request[Any, Any, Any], check: Callable[[memoryview], None] | None = None
) -> bytes | memoryview:
    """Return the whole body of a request. Raises what its stream raises, and what ``check`` raises.

    That gets the beginning of a large body as soon as it is there, so that the rest need not arrive.
    """
    length = request.content_length
    if length is None or length <= _JOINED_BYTES:
        return await request.body()
    whole: memoryview | None = None
    at = 0
    async for part in request.stream():
        if whole is None:
            # Not before something came: the stream refuses what is too long at its first part.
            whole = memoryview(mmap.mmap(-1, length))
        whole[at : at + len(part)] = part
        at += len(part)
        if check is not None and at >= _LOOKED_AT_BYTES:
            check(whole[:_LOOKED_AT_BYTES])
            check = None
    return b"" if whole is None else whole[:at]


async def decode_bounded(body: bytes | memoryview, shape: type[T], service: Service, user_id: str) -> T:
    """Return a user's body that holds no records as ``shape``. Raises MalformedJson, LimitExceeded."""
    if len(body) <= INLINE_BYTES:
        return decode(body, shape)
    return await service.turns.run(user_id, _decode(body, shape, service.settings))


def _decode(body: bytes | memoryview, shape: type[T], settings: Settings) -> Generator[None, None, T]:
    yield from check_question(body, settings)
    return decode(body, shape)


def check_question(body: bytes | memoryview, settings: Settings) -> Generator[None, None, None]:
    """Raise LimitExceeded if a body that holds no records has more values than it may, or MalformedJson."""
    containers = Most(_CONTAINERS.name, _CONTAINERS.most + settings.max_queries)
    yield from check_values(body, values_of_a_question(settings), containers)
