"""SQLite's journal names every page that a transaction changed, after any history, with the SQLite that runs here."""

from __future__ import annotations

import os
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from vectorpool.engine import journal
from vectorpool.engine.journal import PAGE_BYTES, ChangedPages, changed_pages, mark_of

STEPS = 80
# As Chroma's tables are: a queue of vectors, fields by key with an index, and a full-text index.
TABLES = """
    CREATE TABLE queue (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, vector BLOB, fields TEXT);
    CREATE TABLE fields (id INTEGER, key TEXT, text TEXT, PRIMARY KEY (id, key));
    CREATE INDEX texts ON fields (text);
    CREATE VIRTUAL TABLE words USING fts5 (text, tokenize = 'trigram');
"""


class Database:
    """One database file, and a connection as that of the fast writes."""

    def __init__(self, root: Path, *before: str, cache_pages: int = 256) -> None:
        self.path = root / "chroma.sqlite3"
        self.db = sqlite3.connect(f"{self.path.as_uri()}?mode=rwc&nolock=1", uri=True, isolation_level=None)
        for pragma in (*before, "synchronous = OFF", "secure_delete = ON", f"cache_size = {cache_pages}"):
            self.db.execute(f"PRAGMA {pragma}")
        self.db.executescript(TABLES)
        self.file = os.open(self.path, os.O_RDONLY)

    def close(self) -> None:
        """Close the file."""
        os.close(self.file)
        self.db.close()

    def pages(self) -> list[bytes]:
        """Return the file page by page."""
        data = self.path.read_bytes()
        return [data[at : at + PAGE_BYTES] for at in range(0, len(data), PAGE_BYTES)]

    def begin(self) -> None:
        """Begin a transaction."""
        self.before = mark_of(os.fstat(self.file))
        self.db.execute("BEGIN IMMEDIATE")

    def commit(self) -> ChangedPages | None:
        """Commit the transaction; return what its journal says. Raises FileNotFoundError if nothing changed."""
        journal_file = os.open(f"{self.path}-journal", os.O_RDONLY)
        try:
            self.db.execute("COMMIT")
            return changed_pages(journal_file, self.file, self.before)
        finally:
            os.close(journal_file)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database with the settings of Chroma's."""
    with closing(Database(tmp_path)) as made:
        yield made


def put(db: sqlite3.Connection, number: int, text: str, vector: bytes) -> None:
    """Write a record, or overwrite it."""
    db.execute("INSERT INTO queue (id, vector, fields) VALUES (?, ?, ?)", (f"r{number}", vector, text))
    db.execute("INSERT OR REPLACE INTO fields VALUES (?, 'document', ?)", (number, text))
    db.execute("INSERT OR REPLACE INTO words (rowid, text) VALUES (?, ?)", (number, text))


def forget(db: sqlite3.Connection, first: int, last: int) -> None:
    """Delete records of these numbers."""
    db.execute("DELETE FROM queue WHERE seq BETWEEN ? AND ?", (first, last))
    db.execute("DELETE FROM fields WHERE id BETWEEN ? AND ?", (first, last))
    db.execute("DELETE FROM words WHERE rowid BETWEEN ? AND ?", (first, last))


def write_at_random(db: sqlite3.Connection, dice: random.Random, count: int) -> int:
    """Do something in the open transaction; return the greatest number that was used."""
    for _ in range(dice.choice([1, 1, 1, 5, 30])):
        words = dice.choice([3, 20, 20, 2000])
        text = " ".join(f"w{dice.randrange(700)}" for _ in range(words))
        if dice.random() < 0.6 or count < 5:
            count += 1
            put(db, count, text, dice.randbytes(dice.choice([16, 1536, 12_288])))
        elif dice.random() < 0.5:
            put(db, dice.randint(1, count), text, dice.randbytes(1536))
        else:
            first = dice.randint(1, count)
            forget(db, first, first + dice.choice([0, 0, 20]))
    return count


def changed(before: list[bytes], after: list[bytes]) -> set[int]:
    """Return the numbers of the pages that are new or differ."""
    return {n for n, page in enumerate(after) if n >= len(before) or page != before[n]}


def live(database: Database, seed: int, counts: Counter[str]) -> None:
    """Compare what the journal names with the file itself after each transaction of a random history."""
    dice, count, db = random.Random(seed), 0, database.db
    for _ in range(STEPS):
        before = database.pages()
        database.begin()
        made = write_at_random(db, dice, count)
        if dice.random() < 0.1:
            # Pages that came into use again may keep what was written to them: only a commit is recorded.
            db.execute("ROLLBACK")
            continue
        count = made
        found = None
        with suppress(FileNotFoundError):
            found = database.commit()
        if db.in_transaction:
            db.execute("COMMIT")
            assert database.pages() == before
        else:
            assert found is not None, f"seed {seed}"
            after = database.pages()
            real = changed(before, after)
            assert {n for n in real - found.numbers if n not in found.zeroed or any(after[n])} == set(), f"seed {seed}"
            counts["zeroed"] += len(real - found.numbers)
            assert found.mark == mark_of(os.fstat(database.file))
            counts["changed"] += len(real)
            counts["named"] += len(found.numbers)
        if dice.random() < 0.04:
            db.execute(dice.choice(["VACUUM", "INSERT INTO words (words) VALUES ('optimize')"]))
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("seed", range(4))
def test_every_changed_page_is_named(tmp_path: Path, seed: int) -> None:
    """Records of many sizes are written, overwritten and deleted; transactions fail; the file is written anew."""
    counts: Counter[str] = Counter()
    with closing(Database(tmp_path, cache_pages=[256, 20][seed % 2])) as database:
        live(database, seed, counts)
    print(f"seed {seed}: {dict(counts)}")
    # Not everything is named either.
    assert counts["changed"] > STEPS and counts["named"] < 2 * counts["changed"]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4, 304))
def test_every_changed_page_is_named_in_many(tmp_path: Path, seed: int) -> None:
    """The same, for three hundred histories."""
    with closing(Database(tmp_path, cache_pages=[256, 20, 2][seed % 3])) as database:
        live(database, seed, Counter())


def test_free_pages_that_come_into_use_are_named_though_the_journal_has_none_of_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction after a large deletion uses free pages; without their rule they would be missed."""
    db = database.db
    db.execute("BEGIN IMMEDIATE")
    for number in range(1, 60):
        put(db, number, f"text {number}", os.urandom(12_288))
    db.execute("COMMIT")
    db.execute("BEGIN IMMEDIATE")
    forget(db, 1, 50)
    db.execute("COMMIT")
    for with_rule in (True, False):
        before = database.pages()
        if not with_rule:
            monkeypatch.setattr(journal, "free_leaves", lambda *_: set())
        database.begin()
        put(db, 100, "another text", os.urandom(12_288))
        found = database.commit()
        assert found is not None
        assert (changed(before, database.pages()) <= found.numbers) is with_rule


@pytest.mark.parametrize("pragma", ["auto_vacuum = FULL", "auto_vacuum = INCREMENTAL", "page_size = 8192"])
def test_another_form_of_database_is_not_known(tmp_path: Path, pragma: str) -> None:
    """Pages that SQLite moves, and pages of another size, are left to a comparison of the whole file."""
    with closing(Database(tmp_path, pragma)) as database:
        database.begin()
        put(database.db, 1, "text", b"x")
        assert database.commit() is None


def test_a_file_that_was_written_meanwhile_is_not_known(database: Database) -> None:
    """A mark of before that does not fit the journal, and a counter that went on, are noticed."""
    db = database.db
    database.begin()
    before = database.before
    put(db, 1, "text", os.urandom(12_288))
    journal_file = os.open(f"{database.path}-journal", os.O_RDONLY)
    db.execute("COMMIT")
    assert changed_pages(journal_file, database.file, before) is not None
    assert changed_pages(journal_file, database.file, mark_of(os.fstat(database.file))) is None
    put(db, 2, "text", b"x")
    assert changed_pages(journal_file, database.file, before) is None
    os.close(journal_file)


def test_a_damaged_journal_is_not_known(database: Database, tmp_path: Path) -> None:
    """Each byte of the header, and each of a record that the checksum covers, cut or changed, leaves nothing known."""
    db = database.db
    database.begin()
    before = database.before
    put(db, 1, "text", b"x")
    journal_file = os.open(f"{database.path}-journal", os.O_RDONLY)
    db.execute("COMMIT")
    data = os.pread(journal_file, 1 << 20, 0)
    os.close(journal_file)

    def known(content: bytes) -> bool:
        (tmp_path / "copy").write_bytes(content)
        copy = os.open(tmp_path / "copy", os.O_RDONLY)
        try:
            return changed_pages(copy, database.file, before) is not None
        finally:
            os.close(copy)

    assert known(data)
    # The first summand is in the header's bytes 12 to 15, a record's number in its first four, its checksum at its end.
    for at in (0, 7, 8, 11, 12, 15, 16, 19, 20, 22, 24, 27, 512, 515, 512 + 4 + 4096 - 200, 512 + 4 + 4096, 512 + 4103):
        assert not known(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]), at
    for size in (0, 27, 512, len(data) - 1, len(data) - 4104):
        assert not known(data[:size]), size
    assert not known(data + data[512 : 512 + 4104])
