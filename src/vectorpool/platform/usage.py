"""What a process uses of the machine: memory, descriptors, threads, processor time; read from the operating system."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import Final

from vectorpool.telemetry.families import CPU, DESCRIPTORS, DESCRIPTORS_LIMIT, MEMORY, THREADS
from vectorpool.telemetry.figures import Sample

_STATUS: Final = Path("/proc/self/status")
_DESCRIPTORS: Final = Path("/proc/self/fd")


def usage(process: str) -> list[Sample]:
    """Return the figures of this process, under a name. What the operating system does not tell is left out."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = [Sample(CPU.name, (process,), used.ru_utime + used.ru_stime)]
    if limit != resource.RLIM_INFINITY:
        found.append(Sample(DESCRIPTORS_LIMIT.name, (process,), limit))
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "VmRSS":
                found.append(Sample(MEMORY.name, (process,), int(value.split()[0]) * 1024))
            elif name == "Threads":
                found.append(Sample(THREADS.name, (process,), int(value)))
    with contextlib.suppress(OSError):
        found.append(Sample(DESCRIPTORS.name, (process,), len(os.listdir(_DESCRIPTORS))))  # noqa: PTH208 - it is quicker
    return found
