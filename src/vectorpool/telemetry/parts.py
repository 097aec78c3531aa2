"""The parts of a request's time, and its steps for a trace.

Times are monotonic seconds. The clock is that of the machine, so what a shard measured can be shown beside what the
front did.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeAlias, TypeVar

import msgspec

from vectorpool.sources import Sources

P = ParamSpec("P")
T = TypeVar("T")

# Waiting for a place or for a writer; the embedder; building a replica; proving that it is the newest; Chroma and the
# fast path; making a commit. STORE is the time in which calls of the store were under way, inside of the others.
QUEUE, EMBED, HYDRATE, FRESHNESS, ENGINE, COMMIT, STORE = range(7)
PART_NAMES: Final = ("queue", "embed", "hydrate", "freshness", "engine", "commit", "store")
# Steps of one request in a trace. A request has few; an ingest or a scrub may have thousands, of which the first count.
MOST_STEPS: Final = 128
_NONE: Final = (0.0,) * len(PART_NAMES)
# Calls of the store that are remembered for traces, of each open vectorstore.
_MOST_CALLS: Final = 64


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One step of a request: its name, when it began, how long it took, and how it ended if that says something."""

    name: str
    start_s: float
    seconds: float
    outcome: str = ""


class Timing:
    """What one request, or one command of it, took: seconds by part, and steps if it is traced."""

    __slots__ = ("parts", "steps")

    def __init__(self, *, is_traced: bool = False, parts: Sequence[float] | None = None) -> None:
        self.parts = [0.0] * len(PART_NAMES) if parts is None else [*parts, *_NONE[len(parts) :]]
        self.steps: list[Step] | None = [] if is_traced else None

    def add(self, part: int, start_s: float, end_s: float) -> None:
        """Count the time from ``start_s`` to ``end_s`` to a part."""
        self.parts[part] += end_s - start_s
        if self.steps is not None and len(self.steps) < MOST_STEPS:
            self.steps.append(Step(PART_NAMES[part], start_s, end_s - start_s))

    def follow(self, clock: StoreClock, since_s: float) -> None:
        """Take over the calls of the store since ``since_s`` as steps, if this is traced."""
        if self.steps is not None:
            self.steps += clock.calls_since(since_s)[: MOST_STEPS - len(self.steps)]

    def include(self, parts: Sequence[float], steps: Sequence[Step] | None) -> None:
        """Add what a command of this request took."""
        for part, seconds in enumerate(parts):
            self.parts[part] += seconds
        if self.steps is not None and steps:
            self.steps += steps[: MOST_STEPS - len(self.steps)]

    def milliseconds(self) -> dict[str, float]:
        """Return the parts that occurred, in milliseconds."""
        return {name: round(seconds * 1000, 3) for name, seconds in zip(PART_NAMES, self.parts, strict=True) if seconds}


class StoreClock:
    """How long calls of the store were under way for one vectorstore: times at which several were count once."""

    __slots__ = ("_busy_s", "_since_s", "_sources", "_under_way", "calls")

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._under_way = 0
        self._since_s = 0.0
        self._busy_s = 0.0
        # The last calls, for traces.
        self.calls: deque[Step] = deque(maxlen=_MOST_CALLS)

    def begin(self, now_s: float) -> None:
        """Note that a call begins."""
        if not self._under_way:
            self._since_s = now_s
        self._under_way += 1

    def end(self, operation: str, began_s: float, now_s: float, outcome: str) -> None:
        """Note that a call ended."""
        self._under_way -= 1
        if not self._under_way:
            self._busy_s += now_s - self._since_s
        self.calls.append(Step(f"store {operation}", began_s, now_s - began_s, outcome))

    def busy_s(self) -> float:
        """Return the seconds so far."""
        return self._busy_s + (self._sources.monotonic_s() - self._since_s if self._under_way else 0.0)

    def calls_since(self, start_s: float) -> list[Step]:
        """Return the calls that ended after ``start_s``, as far as they are remembered."""
        return [call for call in self.calls if call.start_s + call.seconds >= start_s]


class Stopwatch:
    """Seconds by part of one task. Parts may nest: the time of an inner one is not the outer one's too."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._running: list[tuple[int, float]] = []
        self.parts = [0.0] * len(PART_NAMES)
        # The last intervals, for traces.
        self.intervals: deque[Step] = deque(maxlen=_MOST_CALLS)

    def begin(self, part: int) -> float:
        """Switch to a part, and return when that was."""
        now_s = self._sources.monotonic_s()
        if self._running:
            outer, since_s = self._running[-1]
            self.parts[outer] += now_s - since_s
        self._running.append((part, now_s))
        return now_s

    def end(self, began_s: float) -> None:
        """Switch back to the part before. ``began_s`` is when this one began, the inner ones included."""
        now_s = self._sources.monotonic_s()
        part, since_s = self._running.pop()
        self.parts[part] += now_s - since_s
        self.intervals.append(Step(PART_NAMES[part], began_s, now_s - began_s))
        if self._running:
            self._running[-1] = (self._running[-1][0], now_s)

    def since(self, start_s: float) -> list[Step]:
        """Return the intervals that began after ``start_s``, as far as they are remembered."""
        return [interval for interval in self.intervals if interval.start_s >= start_s]


class Timed(Protocol):
    """An owner of a stopwatch."""

    @property
    def spent(self) -> Stopwatch:
        """The stopwatch of its one task."""
        ...


S = TypeVar("S", bound=Timed)
Method: TypeAlias = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def timed(part: int) -> Callable[[Method[S, P, T]], Method[S, P, T]]:
    """Count the time of a method to a part, on its owner's stopwatch."""

    def decorate(method: Method[S, P, T]) -> Method[S, P, T]:
        @wraps(method)
        async def measured(self: S, *arguments: P.args, **named: P.kwargs) -> T:
            began_s = self.spent.begin(part)
            try:
                return await method(self, *arguments, **named)
            finally:
                self.spent.end(began_s)

        return measured  # type: ignore[return-value]

    return decorate
