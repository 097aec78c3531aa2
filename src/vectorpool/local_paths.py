"""Paths of an instance's own files: working directories, cached log objects, scratch space."""

from __future__ import annotations

import hashlib
from pathlib import Path

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-@")


def local_segment(value: str) -> str:
    """Return an id as one file name: readable, unique on case-insensitive file systems, never hidden.

    Bytes outside [a-z0-9._-@] are written as ``%xx``. An escaped id of more than 200 bytes would not fit a
    file name on every system, which is why ids end at 128 bytes and only rare ids are hashed.
    """
    raw = value.encode("utf-8")
    escaped = "".join(chr(b) if chr(b) in _PLAIN else f"%{b:02x}" for b in raw)
    if escaped.startswith("."):
        escaped = "%2e" + escaped[1:]
    if len(escaped) > 200:
        return "%%" + hashlib.sha256(raw).hexdigest()
    return escaped


def open_dir(replica_dir: Path, shard: int, *, is_isolated: bool = False) -> Path:
    """Return the directory of a shard's open working directories; emptied when the shard starts.

    A process that serves one user in quarantine has a name of its own.
    """
    return replica_dir / "open" / (f"isolated-{shard}" if is_isolated else f"shard-{shard}")


def warm_dir(replica_dir: Path) -> Path:
    """Return the directory of the warm tier: cached log objects, one directory a user."""
    return replica_dir / "warm"


def jobs_dir(replica_dir: Path) -> Path:
    """Return the directory of the database of an instance's own jobs."""
    return replica_dir / "jobs"


def scratch_dir(replica_dir: Path) -> Path:
    """Return the directory in which states are built that are never opened; each process makes its own below it."""
    return replica_dir / "scratch"
