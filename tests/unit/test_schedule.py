"""When users' turns come: remembered in a table of bounded size, whose losses cost a look and nothing else."""

from __future__ import annotations

from vectorpool.pool import schedule
from vectorpool.pool.schedule import Schedule

NOW_S = 1_700_000_000.0


def _users(count: int) -> list[str]:
    return [f"user-{number}" for number in range(count)]


def test_a_turn_comes_when_it_was_said_to() -> None:
    """A user of whom nothing is known is looked at; one who was, not before the turn; and a later word counts."""
    table = Schedule()
    assert table.is_due("42", NOW_S)
    table.remember("42", NOW_S + 60)
    assert not table.is_due("42", NOW_S + 59)
    assert table.is_due("42", NOW_S + 60)
    table.remember("42", NOW_S + 120)
    assert not table.is_due("42", NOW_S + 119)
    assert table.is_due("43", NOW_S)


def test_nearly_everybody_is_remembered() -> None:
    """With the room that was asked for, fewer than one user in fifty is forgotten."""
    table, users = Schedule(), _users(20_000)
    table.make_room(len(users))
    for user in users:
        table.remember(user, NOW_S + 60)
    assert sum(table.is_due(user, NOW_S) for user in users) < len(users) / 50
    assert all(table.is_due(user, NOW_S + 60) for user in users)


def test_room_is_made_once() -> None:
    """Asking again for room that is there forgets nothing; asking for more than there is forgets everything."""
    table = Schedule()
    table.make_room(10_000)
    table.remember("42", NOW_S + 60)
    table.make_room(5_000)
    assert not table.is_due("42", NOW_S)
    table.make_room(100_000)
    assert table.is_due("42", NOW_S)


def test_the_table_is_bounded(monkeypatch) -> None:
    """More users than there may be entries are kept in as many entries, those that are due last."""
    monkeypatch.setattr(schedule, "_MOST", 2048)
    table, users = Schedule(), _users(50_000)
    table.make_room(len(users))
    assert len(table._entries) == 2048
    for at, user in enumerate(users):
        table.remember(user, NOW_S + at)
    kept = [at for at, user in enumerate(users) if not table.is_due(user, NOW_S - 1)]
    assert 1500 < len(kept) <= 2048
    assert min(kept) > len(users) / 2


def test_times_out_of_range_are_cut() -> None:
    """A clock that is wrong by centuries neither fails nor empties a place."""
    table = Schedule()
    table.remember("past", -5.0)
    table.remember("future", 1e15)
    assert table.is_due("past", NOW_S)
    assert not table.is_due("future", NOW_S)
