"""The states of a slot and which may follow which."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import pytest

from vectorpool.answers import SlotState
from vectorpool.errors import BrokenReplica
from vectorpool.pool.states import (
    Broken,
    Cold,
    Committing,
    Evicting,
    Hydrating,
    Ready,
    check_transition,
    state_name,
)

ALLOWED = {
    ("cold", "hydrating"),
    ("hydrating", "ready"),
    ("hydrating", "cold"),
    ("hydrating", "broken"),
    ("ready", "committing"),
    ("ready", "evicting"),
    ("committing", "ready"),
    ("evicting", "cold"),
    ("evicting", "ready"),
    ("broken", "cold"),
}


async def test_only_the_drawn_transitions_are_allowed() -> None:
    """Of the 36 pairs of states exactly the ten of the diagram pass."""
    store: Any = object()
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    states = [
        Cold(),
        Hydrating(done),
        Ready(store),
        Committing(store),
        Evicting(store, done),
        Broken(BrokenReplica("x"), 0.0),
    ]
    assert {state_name(s) for s in states} == set(get_args(SlotState))
    for before in states:
        for after in states:
            if (state_name(before), state_name(after)) in ALLOWED:
                assert check_transition(before, after) is after
            else:
                with pytest.raises(AssertionError):
                    check_transition(before, after)
