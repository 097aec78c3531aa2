"""Free pages of Chroma's SQLite file hold zeros: what was in them is not read again, and a commit would carry it.

SQLite leaves a page as it is when it frees it, and Chroma frees many: the queue's, once an index took them in, and
those of merged segments of the full-text index. The fast writes overwrite what they free (``secure_delete``), so what
Chroma left is overwritten here once, after Chroma was closed. Then a capture knows the content of free pages without a
look (``journal``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from vectorpool.engine.journal import (
    FIRST_BYTES,
    FREE_COUNT_AT,
    FREE_LIST_AT,
    PAGE_BYTES,
    free_leaves,
    is_plain,
    number_at,
)
from vectorpool.names import CHROMA_DATABASE_FILE

_ZEROS: Final = bytes(PAGE_BYTES)


def zero_free_pages(directory: Path) -> int:
    """Overwrite the free pages of a directory that is closed, or in which no call is in progress; return their number.

    A file of another form than Chroma's, and one whose list of free pages is not exactly what its header says, stays as
    it is. Pages that the list itself is kept in stay too. Raises OSError.
    """
    handle = os.open(directory / CHROMA_DATABASE_FILE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        first, size = os.pread(handle, FIRST_BYTES, 0), os.fstat(handle).st_size
        if len(first) < FIRST_BYTES or not is_plain(first) or size % PAGE_BYTES:
            return 0
        trunks = 0

        def page(number: int) -> bytes:
            nonlocal trunks
            trunks += 1
            return os.pread(handle, PAGE_BYTES, (number - 1) * PAGE_BYTES)

        leaves = free_leaves(page, number_at(first, FREE_LIST_AT), size // PAGE_BYTES)
        if leaves is None or len(leaves) + trunks != number_at(first, FREE_COUNT_AT):
            return 0
        count = 0
        for number in sorted(leaves):
            offset = (number - 1) * PAGE_BYTES
            if os.pread(handle, PAGE_BYTES, offset) != _ZEROS:
                os.pwrite(handle, _ZEROS, offset)
                count += 1
        return count
    finally:
        os.close(handle)
