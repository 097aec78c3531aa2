"""The C library's allocator, which each process sets so that freed memory returns to the system.

Chroma allocates from some ten threads, and each opened vectorstore is freed in another order than it was made. With
glibc's defaults (eight arenas a core, trimmed at their tops only) what is freed stays with the process, and a shard
through whose slots many users pass keeps growing. Measured over 200 users of 200 records through 24 slots, three
rounds, in MiB of proportional set size with the slots open, and after all were evicted:

    as it comes                                 112  108
    two arenas                                   86   82
    as it comes, free pages given back           89   58
    two arenas, free pages given back            77   48     <- this
    jemalloc 5.3                                127  115
    mimalloc 2.0                                125  111

With another C library, the settings that it lacks are skipped: they save memory, and no answer depends on them.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Final

from vectorpool.sources import Sources

_M_ARENA_MAX: Final = -8
_M_PERTURB: Final = -6
# glibc fills what it hands out with the complement of this byte, and what is freed with the byte itself.
_FILL: Final = 0xFF
_ARENAS: Final = 2
# Other threads may wait for memory while free pages are given back, so that is done rarely, and only after work. The
# timers of an idle shard use a tenth of this CPU time.
TRIM_EVERY_S: Final = 5.0
TRIM_AFTER_CPU_S: Final = 0.05


def _function(name: str) -> Callable[..., int] | None:
    """Return a function of the C library, or None if it has no such function."""
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    return function


def limit_arenas() -> bool:
    """Make all threads that start from now on share two arenas; return whether that was done.

    Call it before the first thread starts. A number that the environment sets stays.
    """
    if "MALLOC_ARENA_MAX" in os.environ or "malloc.arena_max" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = _function("mallopt")
    return mallopt is not None and mallopt(_M_ARENA_MAX, _ARENAS) == 1


def clear_memory() -> bool:
    """Make the C library hand out memory as zeros, and overwrite what is freed; return whether that was done.

    Chroma writes its index buffers to files as they are, with rows that hold nothing yet. Without this such rows hold
    what the process freed before, which may be another user's text. glibc leaves out chunks below about a kilobyte.
    """
    if "MALLOC_PERTURB_" in os.environ or "malloc.perturb" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = _function("mallopt")
    return mallopt is not None and mallopt(_M_PERTURB, _FILL) == 1


def trim() -> None:
    """Give free pages back to the system. Blocking: milliseconds."""
    if (malloc_trim := _function("malloc_trim")) is not None:
        malloc_trim(0)


async def give_back(sources: Sources) -> None:
    """Give free pages back to the system every few seconds if the process used CPU time, until cancelled."""
    malloc_trim = _function("malloc_trim")
    used_s = _cpu_s()
    while malloc_trim is not None:
        await sources.sleep(TRIM_EVERY_S)
        if _cpu_s() - used_s >= TRIM_AFTER_CPU_S:
            await asyncio.to_thread(malloc_trim, 0)
            used_s = _cpu_s()


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system
