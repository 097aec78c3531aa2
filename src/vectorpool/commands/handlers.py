"""Handlers of commands: a method says which command it handles, and its object collects them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from vectorpool.commands.base import Command

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "_handled_command"


def handles(kind: type[Command]) -> Callable[[F], F]:
    """Return a decorator that makes a method the handler of a command."""

    def mark(method: F) -> F:
        setattr(method, _MARK, kind)
        return method

    return mark


def handled_by(owner: type) -> dict[type[Command], str]:
    """Return the names of a class's handlers by command; every command has one handler at most."""
    found: dict[type[Command], str] = {}
    for name in dir(owner):
        kind = getattr(getattr(owner, name), _MARK, None)
        if kind is not None:
            assert kind not in found, f"{owner.__name__} handles {kind.__name__} twice"
            found[kind] = name
    return found


def handlers_of(owner: object) -> dict[type[Command], Callable[..., Any]]:
    """Return the handlers of an object by command, bound to it."""
    return {kind: getattr(owner, name) for kind, name in handled_by(type(owner)).items()}
