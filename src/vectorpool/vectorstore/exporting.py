"""Exports of a vectorstore as a plain Chroma directory, which Chroma alone opens quickly."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import Hydrated

logger = logging.getLogger(__name__)


async def export_directory(log: CommitLog, directory: Path, *, at: int | None = None) -> Hydrated:
    """Export a commit into a new or empty directory, and have Chroma write the indexes that it would write.

    If Chroma cannot, the directory is the commit as it is. Raises what ``CommitLog.export`` raises.
    """
    hydrated = await log.export(directory, at=at)
    try:
        written = await asyncio.to_thread(_write_indexes, directory)
    except Exception as error:
        logger.warning("the indexes of an export could not be written, it is as the commit is: %s", error)
        await asyncio.to_thread(_empty, directory)
        return await log.export(directory, at=hydrated.position.seq)
    if written:
        logger.debug("Chroma wrote %d indexes of an export", written)
    return hydrated


def _write_indexes(directory: Path) -> int:
    from vectorpool.engine.index_build import write_indexes  # noqa: PLC0415 - the command line starts without Chroma

    return write_indexes(directory)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
