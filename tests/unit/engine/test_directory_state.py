"""What is called pristine is the image, in any order of events; and each rule of that, broken on purpose, is noticed.

What is called known holds every change of the database.

The directory here is a set of changes, and so is the image of its commit. The real ones are in
``tests/integration/test_patched_replicas.py``, and the protocol around them in the simulation.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from vectorpool.engine.directory_state import ChangedBlocks, DirectoryState, Kind, NotPristine
from vectorpool.engine.journal import ChangedPages, FileMark

MARK = FileMark(0, 0, 0, 0, 0)
SEEDS = 3_000
EVENTS = 40


class Violation(Exception):
    """A directory is called pristine, or was changed in place, and is not its image; or a change counts as known."""


class Directory:
    """A directory with its image, and the writers that may change it. ``tracked`` holds what an undo knows."""

    def __init__(self, state: Callable[[], DirectoryState], dice: random.Random) -> None:
        self._make = state
        self._dice = dice
        self._numbers = itertools.count()
        self.build()

    def build(self) -> None:
        """Hydrate; a writer may come before the claim."""
        self.state = self._make()
        self.content: set[int] = set()
        self.image: set[int] = set()
        self.tracked: set[int] = set()
        self.of_sidecar: set[int] = set()
        self.captured: tuple[int | None, set[int]] | None = None
        self.is_chroma_open = False
        if self._dice.random() < 0.2:
            self._dice.choice([self.write, self.write_sidecar, self.write_unseen, self.open_chroma])()
        self.state.hydrated()

    def check(self) -> None:
        """Raise Violation unless the invariant holds."""
        if self.state.is_pristine and self.content != self.image:
            raise Violation
        changed = self.state.changed
        if changed is not None and not (self.content ^ self.image) - self.of_sidecar <= changed.numbers:
            raise Violation

    def _change(self) -> int:
        number = next(self._numbers)
        self.content.add(number)
        return number

    # --- Writers -------------------------------------------------------------------------------------

    def write(self) -> None:
        """A tracked writer."""
        self.state.tracked_write()
        self.tracked.add(self._change())

    def write_recorded(self) -> None:
        """A tracked writer that can say what it changed, unless it failed; others may write at the same time."""
        state = self.state
        number = state.tracked_write()
        self.check()
        made = self._change()
        self.tracked.add(made)
        if self._dice.random() < 0.2:
            others = [self.write, self.write_sidecar, self.write_unseen, self.open_chroma, self._commit_and_write]
            self._dice.choice(others)()
        pages = ChangedPages(frozenset({made}), MARK)
        state.recorded(number, self._dice.choice([pages, pages, pages, None]))

    def _commit_and_write(self) -> None:
        self.capture()
        self.acknowledge()
        self.write()

    def write_sidecar(self) -> None:
        """A tracked writer of another file than the database."""
        self.state.sidecar_write()
        made = self._change()
        self.tracked.add(made)
        self.of_sidecar.add(made)

    def write_unseen(self) -> None:
        """Another writer."""
        self.state.untracked_write()
        self._change()

    def open_chroma(self) -> None:
        """Chroma opens, and changes the files at once."""
        if not self.is_chroma_open:
            self.state.chroma_opens()
            self.is_chroma_open = True
            self._change()

    def chroma_works(self) -> None:
        """Chroma changes a file at a time of its own, which it tells no one."""
        if self.is_chroma_open:
            self._change()

    def close_chroma(self) -> None:
        """Chroma was closed, and its files are."""
        if self.is_chroma_open:
            self.is_chroma_open = False
            self.state.chroma_closed()

    # --- Commits -------------------------------------------------------------------------------------

    def capture(self) -> None:
        """Read everything."""
        self.captured = self.state.capturing(), set(self.content)

    def acknowledge(self) -> None:
        """The commit of the capture is durable."""
        if self.captured is not None:
            mark, self.image = self.captured
            self.captured = None
            self.state.committed(mark)

    def lose(self) -> None:
        """The commit of the capture lost its number, and is undone, or the directory is built anew."""
        if self.captured is None:
            return
        mark, captured = self.captured
        self.captured = None
        try:
            began = self.state.begin_undo(mark)
        except NotPristine:
            self.build()
            return
        self._in_place(began, lambda: self.content.difference_update((captured - self.image) & self.tracked))

    def patch(self) -> None:
        """Take in a newer commit, in place or by building anew."""
        self.captured = None
        try:
            began = self.state.begin_patch()
        except NotPristine:
            self.build()
            return
        if self.content != self.image:
            raise Violation
        self.image = self.image | {next(self._numbers)}
        self._in_place(began, lambda: self.content.update(self.image))

    def _in_place(self, began: int, last_byte: Callable[[], None]) -> None:
        half = self._change()
        self.check()
        if self._dice.random() < 0.2:
            # The disk failed.
            self.build()
            return
        self.content.discard(half)
        last_byte()
        if self._dice.random() < 0.2:
            # Nothing should write now. What writes all the same is not lost.
            self._dice.choice([self.write, self.write_unseen, self.open_chroma])()
        self.state.ended(began)


def _live(state: Callable[[], DirectoryState], seed: int) -> None:
    directory = Directory(state, dice := random.Random(seed))
    events = [
        *(directory.write, directory.write_recorded, directory.write_recorded, directory.write_sidecar),
        directory.write_unseen,
        *(directory.open_chroma, directory.chroma_works, directory.close_chroma, directory.close_chroma),
        *(directory.capture, directory.capture, directory.acknowledge, directory.acknowledge),
        *(directory.lose, directory.patch),
    ]
    for _ in range(EVENTS):
        dice.choice(events)()
        directory.check()


class OpensUnnoticed(DirectoryState):
    """Chroma's client opens, and the directory keeps its kind."""

    def chroma_opens(self) -> None:
        self._is_chroma_open = True


class OpensBriefly(DirectoryState):
    """That Chroma is open is not remembered."""

    def chroma_opens(self) -> None:
        self._write(Kind.UNKNOWN)


class TracksTheUnknown(DirectoryState):
    """A tracked write makes an unknown directory ours."""

    def _write_tracked(self) -> None:
        self._write(Kind.OURS)


class TracksNoOther(DirectoryState):
    """Any write counts as tracked."""

    def untracked_write(self) -> None:
        self.tracked_write()


class WritesWithoutNumber(DirectoryState):
    """Writes have no numbers, so that a claim of before a write is honoured after it."""

    def _write(self, kind: Kind) -> None:
        self._kind = kind


class HydratesAnything(DirectoryState):
    """A directory that was written since it was built counts as built."""

    def hydrated(self) -> None:
        self._become_pristine()


class CapturesBesideChroma(DirectoryState):
    """A capture that Chroma may write beneath counts as one of everything."""

    def capturing(self) -> int | None:
        return self._writes


class CommitsAnything(DirectoryState):
    """Any acknowledged commit makes the directory pristine."""

    def committed(self, mark: int | None) -> None:
        self._kind = Kind.PRISTINE


class PatchesOurs(DirectoryState):
    """A directory with writes that are not committed is patched."""

    def begin_patch(self) -> int:
        self._kind = Kind.PRISTINE if self._kind is Kind.OURS else self._kind
        return super().begin_patch()


class PatchesTheUnknown(DirectoryState):
    """A directory of which nothing is known is patched."""

    def begin_patch(self) -> int:
        self._kind = Kind.PRISTINE
        return super().begin_patch()


class PatchesWhilePristine(DirectoryState):
    """A directory stays pristine while it is patched."""

    def begin_patch(self) -> int:
        if self._kind is not Kind.PRISTINE:
            raise NotPristine
        return self._writes


class UndoesTheUnknown(DirectoryState):
    """A commit of a directory that others wrote is undone."""

    def begin_undo(self, mark: int | None) -> int:
        if mark is None or mark != self._writes:
            raise NotPristine
        self._write(Kind.UNKNOWN)
        return self._writes


class UndoesLaterWrites(DirectoryState):
    """A commit is undone although something wrote since its capture."""

    def begin_undo(self, mark: int | None) -> int:
        return super().begin_undo(self._writes)


class EndsAnything(DirectoryState):
    """A patch or an undo that something wrote beside counts as whole."""

    def ended(self, mark: int) -> None:
        self._kind = Kind.PRISTINE


class RecordsTheUnknown(DirectoryState):
    """What a transaction changed counts as all that changed, whatever was before it."""

    def recorded(self, number: int, pages: ChangedPages | None) -> None:
        self._changed_before = self._changed_before or ChangedBlocks()
        super().recorded(number, pages)


class RecordsBesideOthers(DirectoryState):
    """A transaction counts as recorded although something wrote since it began."""

    def recorded(self, number: int, pages: ChangedPages | None) -> None:
        super().recorded(self._writes, pages)


class RecordsFailures(DirectoryState):
    """A transaction without a journal counts as one that changed nothing."""

    def recorded(self, number: int, pages: ChangedPages | None) -> None:
        super().recorded(number, pages or ChangedPages(frozenset(), MARK))


class RecordsTheLastOnly(DirectoryState):
    """What earlier transactions changed is forgotten at the next."""

    def recorded(self, number: int, pages: ChangedPages | None) -> None:
        if self._changed_before is not None:
            self._changed_before = ChangedBlocks()
        super().recorded(number, pages)


class TrustsWritersOfAnything(DirectoryState):
    """Every tracked writer counts as one of the sidecar only."""

    def tracked_write(self) -> int:
        self.sidecar_write()
        return self._writes


class KnowsWhatOthersWrote(DirectoryState):
    """What changed stays known when an untracked writer comes."""

    def untracked_write(self) -> None:
        changed = self._changed
        super().untracked_write()
        self._changed = changed


class KnowsWhatChromaWrites(DirectoryState):
    """What changed stays known when Chroma opens."""

    def chroma_opens(self) -> None:
        changed = self._changed
        super().chroma_opens()
        self._changed = changed


MUTATIONS: list[type[DirectoryState]] = [
    *(OpensUnnoticed, OpensBriefly, TracksTheUnknown, TracksNoOther, WritesWithoutNumber, HydratesAnything),
    *(CapturesBesideChroma, CommitsAnything, PatchesOurs, PatchesTheUnknown, PatchesWhilePristine),
    *(UndoesTheUnknown, UndoesLaterWrites, EndsAnything),
    *(RecordsTheUnknown, RecordsBesideOthers, RecordsFailures, RecordsTheLastOnly),
    *(TrustsWritersOfAnything, KnowsWhatOthersWrote, KnowsWhatChromaWrites),
]


def test_what_is_called_pristine_is_the_image() -> None:
    """In no order of writes, captures, commits, patches and undoes does a directory differ that is called pristine."""
    for seed in range(SEEDS // 3):
        _live(DirectoryState, seed)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_broken_rule_is_noticed(mutation: type[DirectoryState]) -> None:
    """Within some thousand lives, mostly within the first dozen, a directory is called pristine and is not."""
    for seed in range(SEEDS):
        try:
            _live(mutation, seed)
        except Violation:
            print(f"{mutation.__name__} is noticed by seed {seed}")
            return
    pytest.fail(f"{SEEDS} lives did not notice: {mutation.__doc__}")
