"""The figures of one shard: whether it serves, how often it died, and what its processes counted."""

from __future__ import annotations

from collections.abc import Iterable

from vectorpool.answers import Answer
from vectorpool.context import RequestContext
from vectorpool.errors import VectorpoolError
from vectorpool.shard.protocol import Answered, Failed
from vectorpool.telemetry.families import FAMILIES, SHARD_DEATHS, SHARD_SILENT, SHARD_UNDER_WAY, SHARD_UP
from vectorpool.telemetry.figures import Sample
from vectorpool.telemetry.ledger import Ledger


class ShardCounts:
    """The figures of one shard over all its processes, each of which counts from zero."""

    def __init__(self, label: str, ledger: Ledger) -> None:
        self.label = label
        self.run = 0
        self._ledger = ledger

    def begin(self) -> None:
        """Note that a process was started."""
        self.run = self._ledger.begin(self.label)
        self._ledger.add(Sample(SHARD_DEATHS.name, (self.label,), 0))

    def note_death(self) -> None:
        """Note that a process ended unexpectedly."""
        self._ledger.add(Sample(SHARD_DEATHS.name, (self.label,), 1))

    def take(self, run: int, samples: Iterable[Sample]) -> list[Sample]:
        """Note what the process of a run counted, and return its gauges."""
        samples = list(samples)
        self._ledger.note(self.label, run, samples)
        return [sample for sample in samples if FAMILIES[sample.family].kind == "gauge"]

    def answer(self, reply: object, context: RequestContext) -> Answer:
        """Return the answer that a reply is, and tell its times to the request. Raises the error that the reply is."""
        if isinstance(reply, Failed):
            context.took(reply.parts, reply.steps, self.label)
            raise VectorpoolError.from_wire(reply.error)
        assert isinstance(reply, Answered)
        context.took(reply.parts, reply.steps, self.label, reply.commit)
        return Answer(reply.body, reply.commit)

    def seen(self, *, is_up: bool, is_silent: bool, under_way: int) -> list[Sample]:
        """Return what the front sees of the shard."""
        labels = (self.label,)
        return [
            Sample(SHARD_UP.name, labels, is_up),
            Sample(SHARD_SILENT.name, labels, is_silent),
            Sample(SHARD_UNDER_WAY.name, labels, under_way),
        ]
