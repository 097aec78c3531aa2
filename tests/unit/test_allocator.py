"""The allocator's settings take effect, in processes of their own: what one test frees is not another's to measure."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the C library is not glibc")

ARENAS = """
import ctypes, os, sys, threading
from vectorpool.platform.allocator import limit_arenas

assert limit_arenas() is (sys.argv[1] == "limited")
libc = ctypes.CDLL(None)
libc.fdopen.restype = libc.malloc.restype = ctypes.c_void_p
libc.fdopen.argtypes, libc.malloc.argtypes = [ctypes.c_int, ctypes.c_char_p], [ctypes.c_size_t]
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
meeting = threading.Barrier(6)

def allocate():
    libc.malloc(50_000)
    meeting.wait()

threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
reading, writing = os.pipe()
file = libc.fdopen(writing, b"w")
libc.malloc_info(0, file)
libc.fclose(file)
print(os.fdopen(reading).read().count("<heap nr="))
"""

CLEARED = """
import ctypes, sys
from vectorpool.platform.allocator import clear_memory

assert clear_memory() is (sys.argv[1] == "cleared")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
secret, size = b"a text of another user", 100_000
blocks = [libc.malloc(size) for _ in range(8)]
for block in blocks:
    ctypes.memmove(block, secret * (size // len(secret)), size - len(secret))
for block in blocks:
    libc.free(block)
found = [ctypes.string_at(libc.malloc(size), size) for _ in range(8)]
print(sum(secret in data for data in found), sum(any(data) for data in found))
"""

GIVING_BACK = """
import asyncio, time
from pathlib import Path
from vectorpool.platform.allocator import TRIM_AFTER_CPU_S, give_back

class Quick:
    async def sleep(self, seconds):
        await asyncio.sleep(0.01)

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

async def main():
    task = asyncio.create_task(give_back(Quick()))
    blocks = [b"x" * 60_000 for _ in range(1500)]
    kept = blocks[::10]
    del blocks
    before = resident_mib()
    # It measured what was used when it began: only work from now on makes it look.
    await asyncio.sleep(0.05)
    began = time.process_time()
    while time.process_time() - began < 2 * TRIM_AFTER_CPU_S:
        pass
    await asyncio.sleep(0.5)
    print(before - resident_mib(), len(kept))
    task.cancel()

asyncio.run(main())
"""


def _output(code: str, *arguments: str, **env: str) -> str:
    own = {name: value for name, value in os.environ.items() if name not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env={**own, **env}
    )
    return done.stdout


def test_threads_share_two_arenas() -> None:
    """Six threads that allocate at once do so from at most two arenas."""
    assert 1 <= int(_output(ARENAS, "limited")) <= 2


@pytest.mark.parametrize("env", [{"MALLOC_ARENA_MAX": "5"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=5"}])
def test_a_number_in_the_environment_stays(env: dict[str, str]) -> None:
    """Whoever set a number of arenas keeps it."""
    assert int(_output(ARENAS, "as it comes", **env)) == 5


def test_free_pages_are_given_back_after_work() -> None:
    """Memory that was freed between blocks still in use goes back to the system once the process has done something."""
    fell_mib, kept = _output(GIVING_BACK).split()
    assert int(kept) == 150
    # 77 MiB were freed; pages that a kept block shares stay.
    assert float(fell_mib) > 50


@pytest.mark.parametrize(("how", "environ"), [("cleared", {}), ("left", {"MALLOC_PERTURB_": "0"})])
def test_no_block_holds_what_was_freed_before(how: str, environ: dict[str, str]) -> None:
    """Blocks are handed out as zeros; a setting of the environment stays, and shows that they would hold a text."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", CLEARED, how]
    run = subprocess.run(command, env={**inherited, **environ}, capture_output=True, text=True, check=True)
    texts, dirty = map(int, run.stdout.split())
    assert (texts, dirty) == (0, 0) if how == "cleared" else texts > 0
