"""Flushes that do nothing, in the threads that ask for it and nowhere else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vectorpool.platform.fsync import skip_fsync

# The kernel refuses to flush what is not open; a flush that does nothing does not even look.
NOT_OPEN = 2**20


def in_thread(function: Callable[[], Any]) -> Any:
    """Return what ``function`` returns in a thread of its own."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def flushes() -> bool:
    """Whether flushes of this thread reach the kernel's own code."""
    answers = []
    for flush in (os.fsync, os.fdatasync):
        try:
            flush(NOT_OPEN)
        except OSError:
            answers.append(True)
        else:
            answers.append(False)
    assert answers[0] == answers[1]
    return answers[0]


def skipped(then: Callable[[], Any]) -> Any:
    """Return what ``then`` returns in a thread whose flushes do nothing."""

    def run() -> Any:
        assert skip_fsync()
        return then()

    return in_thread(run)


def test_flushes_of_the_thread_do_nothing() -> None:
    """They succeed without looking at what is to be flushed."""
    if not in_thread(skip_fsync):
        pytest.skip("the kernel does not let flushes be skipped here")
    assert skipped(flushes) is False


def test_threads_that_it_starts_inherit_it_and_others_do_not() -> None:
    """A thread started from there skips too; this one, and one started from here, flush as before."""
    if not in_thread(skip_fsync):
        pytest.skip("the kernel does not let flushes be skipped here")
    assert skipped(lambda: in_thread(flushes)) is False
    assert flushes() and in_thread(flushes)


def test_what_is_written_there_is_read_everywhere(tmp_path: Path) -> None:
    """Writing, flushing and reading a file work as ever."""

    def write() -> None:
        with (tmp_path / "file").open("wb") as file:
            file.write(b"content")
            file.flush()
            os.fsync(file.fileno())

    in_thread(lambda: (skip_fsync(), write()))
    assert (tmp_path / "file").read_bytes() == b"content"


def test_an_unknown_machine_keeps_its_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel's numbers are not known, nothing is changed."""
    monkeypatch.setattr("platform.machine", lambda: "pdp11")
    assert in_thread(lambda: (skip_fsync(), flushes())) == (False, True)
