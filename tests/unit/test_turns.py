"""When users' turns come: remembered in a table of bounded size, whose losses cost a look and nothing else."""

from __future__ import annotations

from vectorpool.pool import turns
from vectorpool.pool.turns import Turns

NOW_S = 1_700_000_000.0


def _users(count: int) -> list[str]:
    return [f"user-{number}" for number in range(count)]


def test_a_turn_comes_when_it_was_said_to() -> None:
    """A user of whom nothing is known is looked at; one who was, not before the turn; and a later word counts."""
    table = Turns()
    assert table.has_come("42", NOW_S)
    table.remember("42", NOW_S + 60)
    assert not table.has_come("42", NOW_S + 59)
    assert table.has_come("42", NOW_S + 60)
    table.remember("42", NOW_S + 120)
    assert not table.has_come("42", NOW_S + 119)
    assert table.has_come("43", NOW_S)


def test_nearly_everybody_is_remembered() -> None:
    """With the room that was asked for, fewer than one user in fifty is forgotten."""
    table, users = Turns(), _users(20_000)
    table.make_room(len(users))
    for user in users:
        table.remember(user, NOW_S + 60)
    assert sum(table.has_come(user, NOW_S) for user in users) < len(users) / 50
    assert all(table.has_come(user, NOW_S + 60) for user in users)


def test_room_is_made_once() -> None:
    """Asking again for room that is there forgets nothing; asking for more than there is forgets everything."""
    table = Turns()
    table.make_room(10_000)
    table.remember("42", NOW_S + 60)
    table.make_room(5_000)
    assert not table.has_come("42", NOW_S)
    table.make_room(100_000)
    assert table.has_come("42", NOW_S)


def test_the_table_is_bounded(monkeypatch) -> None:
    """More users than there may be places are kept in as many places, those with the latest turns."""
    monkeypatch.setattr(turns, "_MOST", 2048)
    table, users = Turns(), _users(50_000)
    table.make_room(len(users))
    assert len(table._places) == 2048
    for at, user in enumerate(users):
        table.remember(user, NOW_S + at)
    kept = [at for at, user in enumerate(users) if not table.has_come(user, NOW_S - 1)]
    assert 1500 < len(kept) <= 2048
    assert min(kept) > len(users) / 2


def test_times_out_of_range_are_cut() -> None:
    """A clock that is wrong by centuries neither fails nor empties a place."""
    table = Turns()
    table.remember("past", -5.0)
    table.remember("future", 1e15)
    assert table.has_come("past", NOW_S)
    assert not table.has_come("future", NOW_S)
