"""vectorpool: one private Chroma vectorstore per user, on containers that have no disk.

The layers, lowest first; no layer imports one above it (import-linter checks that):

errors, settings, sources, names, answers and commands are the lowest; ``objects`` is the bucket; ``commitlog`` is the
authoritative log in it, bytes only; ``engine`` is all code that depends on Chroma; ``vectorstore`` is one user's store;
``pool`` is the bounded LRU of vectorstores; ``shard`` is the process around a pool; ``embedding`` converts text to
vectors; ``documents`` converts files to records; ``api`` and ``front`` serve HTTP; ``app``, ``instance`` and ``cli``
compose. ``vectorpool.open`` is the pool as a library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vectorpool.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from vectorpool.instance.async_handles import AsyncPool
    from vectorpool.instance.handles import Pool


def open(store: str | Path, **settings: Any) -> Pool:
    """Open the pool of a store in this process, without a server; the shards are child processes.

    ``store`` is a directory, or an ``s3://``, ``gs://`` or ``az://`` URL. ``settings`` are those of the service, by
    name; the environment is not read. Use it in a ``with`` statement, or call ``close``. Raises Misconfigured.
    """
    from vectorpool.instance.handles import Pool  # noqa: PLC0415 - nothing else pays for the import
    from vectorpool.instance.opening import read_options  # noqa: PLC0415

    return Pool(read_options(store, settings)).open()


def open_async(store: str | Path, **settings: Any) -> AsyncPool:
    """Return the pool of a store for asyncio: ``async with vectorpool.open_async(store) as pool``. See ``open``."""
    from vectorpool.instance.async_handles import AsyncPool  # noqa: PLC0415 - nothing else pays for the import
    from vectorpool.instance.opening import read_options  # noqa: PLC0415

    return AsyncPool(read_options(store, settings))


__all__ = ["__version__", "open", "open_async"]
