"""The pages of Chroma's SQLite file that one transaction changed, from the transaction's rollback journal.

Before SQLite changes a page it writes the page's content into the journal, a file beside the database that it deletes
at the commit; a descriptor that was opened before still reads it. So the journal names every page that changed, but for
two kinds: pages behind the former end of the file, and free pages that come into use again, whose former content is not
needed. SQLite takes those from the first page of the list of free pages, then from the next one, and a page of that
list is in the journal itself when it loses one that it names. So all that the changed pages of the list name may have
changed. Of those, the ones that are still free are as they were or hold zeros: the transaction may have used and freed
them again, and ``secure_delete``, without which nothing is known, overwrites each page that it frees.

``changed_pages`` never guesses: whatever it does not know, from a header to a checksum, makes it return None, and the
caller then compares the whole file. Databases that move pages when they shrink (auto-vacuum), and pages of another size
than a block of the commit log, are among that.

The formats of journals, of the file's header and of the list of free pages: https://sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from itertools import chain
from typing import Final

import msgspec

PAGE_BYTES: Final = 4096
# A transaction of more pages is compared as a whole: that takes some milliseconds at most.
MAX_PAGES: Final = 2048

# Magic, count of records, first summand of checksums, pages of the database before, bytes of a sector, bytes of a page.
_HEADER: Final = struct.Struct(">8s5I")
_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")
# The count of a journal that is not synced: the records go on to the end.
_TO_THE_END: Final = 0xFFFFFFFF
_SECTORS: Final = frozenset(2**n for n in range(9, 17))
_RECORD_BYTES: Final = 4 + PAGE_BYTES + 4
# A record's checksum takes in every 200th byte, from the end of the page, but not its first.
_SUMMED: Final = slice(PAGE_BYTES - 200, 0, -200)

_U32: Final = struct.Struct(">I")
FIRST_BYTES: Final = 100
_DATABASE: Final = b"SQLite format 3\0" + PAGE_BYTES.to_bytes(2, "big") + b"\1\1" + b"\0"
_COUNTER_AT: Final = 24
FREE_LIST_AT: Final = 32
FREE_COUNT_AT: Final = 36
_AUTO_VACUUM_AT: Final = 52
# Leaves that one page of the free list can name.
_MAX_LEAVES: Final = PAGE_BYTES // 4 - 2


class FileMark(msgspec.Struct, frozen=True):
    """What tells one state of a file from another: device, inode, size in bytes, and times in nanoseconds."""

    device: int
    inode: int
    size: int
    written_ns: int
    changed_ns: int


class ChangedPages(msgspec.Struct, frozen=True):
    """The numbers from 0 of the pages that a transaction may have changed, and the mark of the file after it.

    Those in ``zeroed`` are as they were, or hold zeros.
    """

    numbers: frozenset[int]
    mark: FileMark
    zeroed: frozenset[int] = frozenset()


def mark_of(stat: os.stat_result) -> FileMark:
    """Return the mark of a file."""
    return FileMark(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def changed_pages(journal: int, database: int, before: FileMark) -> ChangedPages | None:
    """Return the pages that a committed transaction may have changed; None if they are not known.

    ``journal`` is a descriptor of its journal, opened before the commit, and ``database`` one of the file. ``before``
    is the mark of the file before the transaction, since when nothing else may have written it. The transaction was one
    of a connection with ``secure_delete = ON``. Raises OSError.
    """
    after = mark_of(os.fstat(database))
    size = os.fstat(journal).st_size
    if size > (MAX_PAGES + 1) * _RECORD_BYTES or after.size % PAGE_BYTES or before.size % PAGE_BYTES:
        return None
    data = os.pread(journal, size, 0)
    pages_before, pages_after = before.size // PAGE_BYTES, after.size // PAGE_BYTES
    records = _records(data, pages_before)
    if records is None or len(data) != size or pages_after < pages_before or after.inode != before.inode:
        return None
    first, now = records.get(1), os.pread(database, FIRST_BYTES, 0)
    if first is None or not is_plain(first) or not is_plain(now) or number_at(now, _COUNTER_AT) != _next(first):
        return None
    was_free = free_leaves(records.get, number_at(first, FREE_LIST_AT), pages_before)
    if was_free is None:
        return None

    def changed_page(number: int) -> bytes | None:
        is_changed = number in records or number in was_free or number > pages_before
        return os.pread(database, PAGE_BYTES, (number - 1) * PAGE_BYTES) if is_changed else None

    is_free = free_leaves(changed_page, number_at(now, FREE_LIST_AT), pages_after)
    if is_free is None:
        return None
    numbers = {number - 1 for number in chain(records, was_free - is_free)}
    numbers.update(range(pages_before, pages_after))
    zeroed = frozenset([number - 1 for number in was_free & is_free])
    return ChangedPages(frozenset(numbers), after, zeroed) if len(numbers) <= MAX_PAGES else None


def _records(data: bytes, pages: int) -> dict[int, memoryview] | None:
    """Return the former content of each page by its number from 1; None for a journal of another form."""
    if len(data) < _HEADER.size:
        return None
    magic, count, seed, pages_before, sector, page_bytes = _HEADER.unpack_from(data)
    if magic != _MAGIC or count != _TO_THE_END or page_bytes != PAGE_BYTES or sector not in _SECTORS:
        return None
    if pages_before != pages or len(data) < sector or (len(data) - sector) % _RECORD_BYTES:
        return None
    view = memoryview(data)
    found: dict[int, memoryview] = {}
    for at in range(sector, len(data), _RECORD_BYTES):
        number = number_at(data, at)
        page = view[at + 4 : at + 4 + PAGE_BYTES]
        checksum = (seed + sum(page[_SUMMED])) & 0xFFFFFFFF
        if not 0 < number <= pages or number in found or checksum != number_at(data, at + 4 + PAGE_BYTES):
            return None
        found[number] = page
    return found


def free_leaves(page: Callable[[int], bytes | memoryview | None], first: int, pages: int) -> set[int] | None:
    """Return the numbers from 1 of the pages that the list of free pages names; None if the list is not one.

    ``page`` returns a page of the list by its number from 1, or None where the list need not be followed any more:
    SQLite takes the pages of the list in their order, so those that it left alone follow on those that it changed.
    """
    leaves: set[int] = set()
    named = 0
    seen: set[int] = set()
    number = first
    while number and (content := page(number)) is not None:
        if (
            number in seen
            or number == 1
            or len(content) != PAGE_BYTES
            or (count := number_at(content, 4)) > _MAX_LEAVES
        ):
            return None
        seen.add(number)
        leaves.update(struct.unpack_from(f">{count}I", content, 8))
        named += count
        number = number_at(content, 0)
    if leaves and (min(leaves) <= 1 or max(leaves) > pages):
        return None
    return leaves if len(leaves) == named and leaves.isdisjoint(seen) else None


def is_plain(first: bytes | memoryview) -> bool:
    """Whether a file's first page is of a database without a WAL, spare bytes and auto-vacuum."""
    return bytes(first[: len(_DATABASE)]) == _DATABASE and not number_at(first, _AUTO_VACUUM_AT)


def _next(first: memoryview) -> int:
    """Return the file's change counter after one more transaction."""
    return (number_at(first, _COUNTER_AT) + 1) & 0xFFFFFFFF


def number_at(data: bytes | memoryview, at: int) -> int:
    """Return the number of four bytes at an offset."""
    return int(_U32.unpack_from(data, at)[0])
