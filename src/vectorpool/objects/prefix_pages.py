"""Pages of the "directories" below a prefix, for stores whose client lists all of them at once, as obstore's does.

S3 is asked by ``s3_keys``: one request for a page. Other stores are asked for objects. A page of up to 1,000 objects
shows the directories that they lie in, and the next begins behind the last of those: many small directories take few
requests, and a large one takes one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

from vectorpool.objects.bucket import Bucket, page_of
from vectorpool.objects.s3_keys import S3Keys
from vectorpool.platform.trees import open_directory

# Behind every key of a directory.
_LAST: Final = "\U0010ffff"
_OBJECTS: Final = 1000


class Ask(Protocol):
    """Asks the store, with further attempts, and raises the bucket's own errors."""

    async def __call__(self, key: str, call: Callable[[], Awaitable[list[str]]]) -> list[str]:
        """Return the answer."""
        ...


async def prefix_page(
    bucket: Bucket, keys: S3Keys | None, ask: Ask, root: str, prefix: str, limit: int, after: str | None
) -> list[str]:
    """Return a page of ``Bucket.list_prefixes``; ``root`` is the bucket's own prefix."""
    if keys is None:
        return await _by_objects(bucket, prefix, limit, after)
    path, found = root + prefix, list[str]()
    begin = None if after is None else f"{path}{after}/{_LAST}"
    while len(found) < limit:
        asked = min(limit - len(found), _OBJECTS)
        names, begin = await _page(keys, ask, path, asked, begin)
        found += [name.removesuffix("/").removeprefix(path) for name in names]
        if begin is None:
            break
    return found


async def _page(keys: S3Keys, ask: Ask, path: str, asked: int, begin: str | None) -> tuple[list[str], str | None]:
    later: str | None = None

    async def call() -> list[str]:
        nonlocal later
        names, later = await asyncio.to_thread(keys.prefix_page, path, asked, begin)
        return names

    return await ask(path, call), later


async def _by_objects(bucket: Bucket, prefix: str, limit: int, after: str | None) -> list[str]:
    found = list[str]()
    begin = None if after is None else f"{prefix}{after}/{_LAST}"
    while len(found) < limit:
        page = await bucket.list_objects(prefix, limit=_OBJECTS, after=begin)
        for info in page:
            name, slash, _ = info.key[len(prefix) :].partition("/")
            if slash and (not found or found[-1] != name):
                found.append(name)
        if len(page) < _OBJECTS:
            break
        last, slash, _ = page[-1].key[len(prefix) :].partition("/")
        begin = f"{prefix}{last}/{_LAST}" if slash else page[-1].key
    return found[:limit]


def folder_page(
    root: Path, prefix: str, limit: int, after: str | None, is_there: Callable[[str], bool], *, passed_over: str
) -> list[str]:
    """Return a page of ``Bucket.list_prefixes`` of a directory below ``root``. Blocking; memory for the page alone.

    ``is_there`` returns whether anything lies in a folder: an empty one is no prefix.
    """
    found = list[str]()
    while len(found) < limit:
        asked = limit - len(found)
        try:
            with open_directory(root, *prefix.split("/")[:-1]) as below, os.scandir(below) as scan:
                names = (entry.name for entry in scan if entry.is_dir(follow_symlinks=False))
                page = page_of((name for name in names if prefix + name != passed_over), asked, after)
        except (FileNotFoundError, NotADirectoryError):
            break
        found += [name for name in page if is_there(name)]
        if len(page) < asked:
            break
        after = page[-1]
    return found
