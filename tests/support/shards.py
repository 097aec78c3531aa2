"""The shard processes of an instance that runs as a process of its own."""

from __future__ import annotations

from pathlib import Path


def shard_ids(front: int) -> list[int]:
    """Return the process ids of the shards of a front process, and of the processes of isolated users."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            command = path.with_name("cmdline").read_bytes()
        except OSError:
            # It has ended meanwhile.
            continue
        if int(fields[1]) == front and b"vectorpool.shard.process" in command and fields[0] != "Z":
            found.append(int(path.parent.name))
    return sorted(found)
