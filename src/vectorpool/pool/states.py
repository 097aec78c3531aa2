"""The states of a slot, as types, and which may follow which.

    Cold -> Hydrating -> Ready <-> Committing
                |          |
                v          v
             Broken     Evicting -> Cold

A caller that finds a slot Hydrating or Evicting waits for its ``done``; one that finds it Broken gets the error until
``until_s``, so that a damaged vectorstore does not hydrate again for each request.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, TypeAlias, get_args

from vectorpool.answers import SlotState
from vectorpool.errors import TryAgain, VectorpoolError
from vectorpool.vectorstore.vectorstore import Vectorstore


@dataclass(frozen=True, slots=True)
class Cold:
    """Nothing is open. Log objects may be warm on local disk."""


@dataclass(frozen=True, slots=True)
class Hydrating:
    """A replica is being built; ``done`` ends when the state changes, with the error that all waiting requests get."""

    done: asyncio.Future[TryAgain | None]


@dataclass(frozen=True, slots=True)
class Ready:
    """Open, for readers and writers."""

    store: Vectorstore


@dataclass(frozen=True, slots=True)
class Committing:
    """Open, and the writer task is at work: writes are applied, committed or rebased."""

    store: Vectorstore


@dataclass(frozen=True, slots=True)
class Evicting:
    """Being committed and closed; ``done`` ends when the state changes."""

    store: Vectorstore
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Broken:
    """Could not be opened; ``error`` is the answer to every request until ``until_s`` (monotonic seconds)."""

    error: VectorpoolError
    until_s: float


State: TypeAlias = Cold | Hydrating | Ready | Committing | Evicting | Broken

_FOLLOWS: dict[type, tuple[type, ...]] = {
    Cold: (Hydrating,),
    Hydrating: (Ready, Cold, Broken),
    Ready: (Committing, Evicting),
    Committing: (Ready,),
    # Back to Ready if dirty writes could not be committed: they must not be lost.
    Evicting: (Cold, Ready),
    Broken: (Cold,),
}


def check_transition(before: State, after: State) -> State:
    """Return ``after`` if it may follow ``before``; anything else is a defect of this program."""
    assert type(after) in _FOLLOWS[type(before)], f"{type(before).__name__} -> {type(after).__name__}"
    return after


STATE_NAMES: Final[tuple[SlotState, ...]] = get_args(SlotState)


def state_name(state: State) -> SlotState:
    """Return the state's name in answers, metrics and logs."""
    match state:
        case Cold():
            return "cold"
        case Hydrating():
            return "hydrating"
        case Ready():
            return "ready"
        case Committing():
            return "committing"
        case Evicting():
            return "evicting"
        case Broken():
            return "broken"
