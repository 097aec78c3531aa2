"""Free pages are overwritten, and nothing else is."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from vectorpool.engine.free_pages import zero_free_pages
from vectorpool.engine.journal import FREE_COUNT_AT, FREE_LIST_AT, PAGE_BYTES, number_at
from vectorpool.names import CHROMA_DATABASE_FILE

# More than one page of the list can name.
ROWS = 3000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a database of which most pages are free, and hold what was deleted."""
    make(tmp_path)
    return tmp_path


def make(directory: Path, *pragmas: str) -> None:
    """Write rows and delete most of them."""
    with closing(sqlite3.connect(directory / CHROMA_DATABASE_FILE, isolation_level=None)) as db:
        for pragma in (*pragmas, "synchronous = OFF", "secure_delete = OFF"):
            db.execute(f"PRAGMA {pragma}")
        db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT)")
        dice = random.Random(1)
        db.execute("BEGIN")
        db.executemany("INSERT INTO rows VALUES (?, ?)", ((n, f"secret {dice.random()}" * 140) for n in range(ROWS)))
        db.execute("COMMIT")
        db.execute("DELETE FROM rows WHERE id > 100")


def rows(directory: Path) -> list[tuple[int, str]]:
    """Return what is stored, from a sound file."""
    with closing(sqlite3.connect(directory / CHROMA_DATABASE_FILE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return db.execute("SELECT * FROM rows").fetchall()


def test_free_pages_are_overwritten(directory: Path) -> None:
    """What was deleted is gone from free pages, the rows are there, and the next transaction uses the pages."""
    path = directory / CHROMA_DATABASE_FILE
    before, there = path.read_bytes(), rows(directory)
    free = number_at(before, FREE_COUNT_AT)
    count = zero_free_pages(directory)
    assert free > 1100 and free - 4 < count <= free
    after = path.read_bytes()
    assert len(after) == len(before) and after[:100] == before[:100]
    pages = [(before[at : at + PAGE_BYTES], after[at : at + PAGE_BYTES]) for at in range(0, len(before), PAGE_BYTES)]
    assert sum(old != new for old, new in pages) == count
    assert all(not any(new) for old, new in pages if old != new)
    assert rows(directory) == there
    assert zero_free_pages(directory) == 0
    with closing(sqlite3.connect(path)) as db, db:
        db.executemany("INSERT INTO rows VALUES (?, ?)", [(10_000 + n, "more" * 700) for n in range(500)])
    assert len(rows(directory)) == len(there) + 500
    assert path.stat().st_size == len(before)


@pytest.mark.parametrize("at", [16, 18, 20, FREE_LIST_AT + 3, FREE_COUNT_AT + 3])
def test_a_header_that_is_not_as_expected_leaves_the_file_alone(directory: Path, at: int) -> None:
    """Another page size, a WAL, spare bytes, and a list that is not what the header counts."""
    path = directory / CHROMA_DATABASE_FILE
    data = bytearray(path.read_bytes())
    data[at] ^= 2
    path.write_bytes(data)
    assert zero_free_pages(directory) == 0
    assert path.read_bytes() == data


@pytest.mark.parametrize("what", ["twice", "itself", "first", "beyond", "count", "loop"])
def test_a_damaged_list_leaves_the_file_alone(directory: Path, what: str) -> None:
    """A page that is named twice, or cannot be free, may hold rows."""
    path = directory / CHROMA_DATABASE_FILE
    data = bytearray(path.read_bytes())
    at = (number_at(data, FREE_LIST_AT) - 1) * PAGE_BYTES
    first_leaf = data[at + 8 : at + 12]
    numbers = {
        "twice": first_leaf,
        "itself": data[FREE_LIST_AT : FREE_LIST_AT + 4],
        "first": (1).to_bytes(4, "big"),
        "beyond": (len(data) // PAGE_BYTES + 1).to_bytes(4, "big"),
    }
    if what in numbers:
        data[at + 12 : at + 16] = numbers[what]
    elif what == "count":
        data[at + 4 : at + 8] = (PAGE_BYTES // 4).to_bytes(4, "big")
    else:
        data[at : at + 4] = data[FREE_LIST_AT : FREE_LIST_AT + 4]
    path.write_bytes(data)
    assert zero_free_pages(directory) == 0
    assert path.read_bytes() == data


def test_files_that_are_no_database_are_left_alone(tmp_path: Path) -> None:
    """An empty file, a text, a database without free pages, and one that moves its pages."""
    path = tmp_path / CHROMA_DATABASE_FILE
    for content in (b"", b"x" * 5000):
        path.write_bytes(content)
        assert zero_free_pages(tmp_path) == 0
        assert path.read_bytes() == content
    path.unlink()
    make(tmp_path, "auto_vacuum = INCREMENTAL")
    assert zero_free_pages(tmp_path) == 0
    with pytest.raises(FileNotFoundError):
        zero_free_pages(tmp_path / "missing")
