"""Spans of a trace, as the parts of an instance see them; who exports them is not known here.

The front and the workers make spans: what a shard did comes back with its answer, as steps. A span's name in W3C's
form (``traceparent``) goes along with everything that is done for it: to the shard, to the embedding endpoint, into a
job, and from the job's worker back to the service.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol, TypeAlias

from vectorpool.telemetry.parts import Step

Attributes: TypeAlias = Mapping[str, str | int | float | bool]

# The span of the request that the running task works for, for parts that get no context. Empty without a trace.
CURRENT: Final[ContextVar[str]] = ContextVar("traceparent", default="")

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


class Span(Protocol):
    """One traced piece of work that has begun."""

    @property
    def traceparent(self) -> str:
        """Its name in W3C's form, for what is done on its behalf."""
        ...

    def end(
        self, name: str, end_s: float, attributes: Attributes, steps: Iterable[Step] = (), *, is_error: bool = False
    ) -> None:
        """End it at ``end_s`` (monotonic seconds), with the steps that it took."""
        ...

    def below(self, name: str, *, kind: str = "internal") -> Span | None:
        """Return a span below it that begins now, or None if there are as many below the topmost as may be."""
        ...

    def close(self, *, is_error: bool = False) -> None:
        """End it now, with the name that it has."""
        ...


# The span below which ``stage`` makes others. Empty in the front, whose requests have steps instead.
_RUNNING: Final[ContextVar[Span | None]] = ContextVar("span", default=None)


@contextmanager
def working_below(span: Span) -> Iterator[None]:
    """Have the stages of the running task, and of those that it starts, be spans below this one."""
    running, current = _RUNNING.set(span), CURRENT.set(span.traceparent)
    try:
        yield
    finally:
        CURRENT.reset(current)
        _RUNNING.reset(running)


@contextmanager
def stage(name: str, *, kind: str = "internal") -> Iterator[None]:
    """Have what happens inside be a span of the running trace; without one this does nothing.

    Beyond the bound of spans the work inside, and the service that it calls, is not traced.
    """
    above = _RUNNING.get()
    if above is None:
        yield
        return
    span = above.below(name, kind=kind)
    if span is None:
        current = CURRENT.set(f"{above.traceparent[:-2]}00")
        try:
            yield
        finally:
            CURRENT.reset(current)
        return
    is_error = True
    try:
        with working_below(span):
            yield
        is_error = False
    finally:
        span.close(is_error=is_error)


class Tracer(Protocol):
    """Begins spans. A job keeps the ``traceparent`` of the request that asked for it, and begins its own with that."""

    def start(self, start_s: float, traceparent: str = "", *, kind: str = "server") -> Span | None:
        """Return a span that began at ``start_s`` (monotonic seconds), or None if it is not one of the traced ones.

        ``traceparent`` names its parent; one that is none is passed over. ``kind`` is ``server``, ``job`` or ``queue``.
        """
        ...


class Parent:
    """A parsed ``traceparent``: the ids as numbers, and whether the sender traces."""

    __slots__ = ("is_sampled", "span_id", "trace_id")

    def __init__(self, trace_id: int, span_id: int, is_sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.is_sampled = is_sampled


def parse_traceparent(text: str) -> Parent | None:
    """Return the span that a header names; None for one of another version or of no meaning, which starts anew."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    return Parent(int(found[1], 16), int(found[2], 16), bool(int(found[3], 16) & 1))


def traceparent_of(trace_id: int, span_id: int) -> str:
    """Return the name of a traced span in W3C's form."""
    return f"00-{trace_id:032x}-{span_id:016x}-01"
