"""How many operations may wait in a queue, and when an index is due."""

from __future__ import annotations

import sqlite3

import pytest

from vectorpool.engine import index_needs
from vectorpool.engine.index_needs import USUAL_THRESHOLD, IndexNeeds
from vectorpool.engine.waiting_queues import Due, WaitingQueues

COLLECTION = "00000000-0000-0000-0000-000000000001"
OTHER = "00000000-0000-0000-0000-000000000002"


@pytest.fixture
def db() -> sqlite3.Connection:
    """Return the two tables that are looked at."""
    made = sqlite3.connect(":memory:")
    made.execute("CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT)")
    made.execute("CREATE TABLE embeddings (segment_id TEXT)")
    return made


def put(db: sqlite3.Connection, count: int, records: int, collection: str = COLLECTION) -> int:
    """Add operations, and say how many records there are in all; return the newest number."""
    topic = f"persistent://default/default/{collection}"
    db.executemany("INSERT INTO embeddings_queue (topic) VALUES (?)", [(topic,)] * count)
    db.execute("DELETE FROM embeddings")
    db.executemany("INSERT INTO embeddings VALUES ('segment')", [()] * records)
    return int(db.execute("SELECT MAX(seq_id) FROM embeddings_queue").fetchone()[0])


def due(queues: WaitingQueues, db: sqlite3.Connection, last: int, threshold: int = USUAL_THRESHOLD) -> Due:
    """Return what is due at the newest operation."""
    queue = queues.queue(db, COLLECTION, persisted=0, applied=last, last=last)
    assert queue is not None
    return queues.due(db, COLLECTION, queue, metadata_segment="segment", threshold=threshold)


def test_a_load_makes_nothing_due(db: sqlite3.Connection) -> None:
    """As many operations as records never need a squeeze, however many there are."""
    queues = WaitingQueues(keeps=True)
    for records in range(500, 5001, 500):
        assert due(queues, db, put(db, 500, records)) is Due.NOTHING


def test_changes_make_a_squeeze_due(db: sqlite3.Connection) -> None:
    """At a thousand operations more than twice the records; other collections' operations do not count."""
    queues = WaitingQueues(keeps=True)
    last = put(db, 100, 100)
    assert due(queues, db, last) is Due.NOTHING
    put(db, 5000, 100, OTHER)
    assert due(queues, db, put(db, 1099, 100)) is Due.NOTHING
    assert due(queues, db, put(db, 1, 100)) is Due.SQUEEZE


@pytest.mark.parametrize(("keeps", "threshold"), [(False, USUAL_THRESHOLD), (True, 100)])
def test_a_threshold_is_kept_to(db: sqlite3.Connection, keeps: bool, threshold: int) -> None:
    """That somebody chose, or where vectors are not searched in the queue."""
    queues = WaitingQueues(keeps=keeps)
    assert due(queues, db, put(db, threshold - 1, threshold - 1), threshold) is Due.NOTHING
    assert due(queues, db, put(db, 1, threshold), threshold) is Due.INDEX


def test_a_queue_that_the_tables_are_behind_is_none(db: sqlite3.Connection) -> None:
    """Chroma has to take it in first."""
    queues = WaitingQueues(keeps=True)
    last = put(db, 10, 5)
    assert queues.queue(db, COLLECTION, persisted=0, applied=5, last=last) is None
    assert queues.queue(db, OTHER, persisted=0, applied=5, last=last) is not None


def test_searches_make_an_index_due_in_proportion_to_its_cost() -> None:
    """Twice the vectors that wait need twice the searches of as many bytes; a short queue needs none."""
    size, counts = 32 * 1024**2, []
    for waiting in (20_000, 40_000):
        needs, count = IndexNeeds(), 0
        while not needs.is_due:
            needs.note_search(COLLECTION, size, waiting, is_kept=True)
            count += 1
        counts.append(count)
    assert counts[1] == 2 * counts[0]
    needs = IndexNeeds()
    for _ in range(10 * counts[1]):
        needs.note_search(COLLECTION, size, USUAL_THRESHOLD - 1, is_kept=True)
    assert not needs.is_due


def test_searches_of_vectors_that_are_not_kept_count_for_more() -> None:
    """They are read from the files each time."""
    kept, unkept = IndexNeeds(), IndexNeeds()
    for _ in range(50):
        kept.note_search(COLLECTION, 10**9, 100_000, is_kept=True)
        unkept.note_search(COLLECTION, 10**9, 100_000, is_kept=False)
    assert unkept.is_due and not kept.is_due


def test_what_is_remembered_has_a_bound() -> None:
    """Searches of ever other collections take no more memory, and each is counted anew."""
    needs = IndexNeeds()
    for number in range(10 * index_needs._MAX_KNOWN):
        needs.note_search(str(number), 1, 10**6, is_kept=True)
    assert len(needs._searched) <= index_needs._MAX_KNOWN and not needs.is_due
    needs.note_long_queue()
    assert needs.is_due
    needs.begin()
    assert not needs.is_due and not needs._searched
