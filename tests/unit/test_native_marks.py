"""Marks of the users in native code: written by one process, read by another after it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vectorpool.platform import native_marks
from vectorpool.platform.native_marks import Marks, inside, owned

_CHILD = """
import os, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
from vectorpool.platform.native_marks import inside, install, owned
install(int(sys.argv[1]), int(sys.argv[2]))
workers = ThreadPoolExecutor(4)
there = threading.Barrier(3)
def stay():
    with inside():
        there.wait()
        threading.Event().wait()
def leave():
    with inside():
        pass
owned(workers, "gone").submit(leave).result()
owned(workers, "J\\u00f6rg").submit(stay)
owned(workers, "x" * 128).submit(stay)
there.wait()
def fault():
    with inside():
        exec(sys.argv[3])
owned(workers, "hostile").submit(fault).result()
"""


def _run(marks: Marks, fault: str) -> int:
    descriptors = [marks.descriptor, marks.report]
    return subprocess.run(
        [sys.executable, "-c", _CHILD, *map(str, descriptors), fault], pass_fds=descriptors, stderr=subprocess.DEVNULL
    ).returncode


def test_what_a_killed_process_leaves() -> None:
    """The users whose calls were in progress are there, those whose calls had ended are not."""
    marks = Marks()
    try:
        assert _run(marks, "os.kill(os.getpid(), signal.SIGKILL)") == -signal.SIGKILL
        assert marks.users() == marks.suspects() == {"Jörg", "x" * 128, "hostile"}
    finally:
        marks.close()


@pytest.mark.parametrize(
    "fault",
    [
        "import faulthandler; faulthandler._sigsegv()",
        "import faulthandler; faulthandler._sigabrt()",
        "import faulthandler; faulthandler._stack_overflow()",
        "signal.raise_signal(signal.SIGBUS)",
    ],
)
def test_the_thread_that_faults_has_an_author(fault: str) -> None:
    """Of several users in native code, only the one whose thread faults is a suspect; an overflow of its stack too."""
    marks = Marks()
    try:
        assert _run(marks, fault) < 0
        assert marks.users() == {"Jörg", "x" * 128, "hostile"}
        assert marks.suspects() == {"hostile"}
    finally:
        marks.close()


def test_a_fault_of_a_thread_without_a_mark_leaves_all_under_suspicion() -> None:
    """Native code has threads of its own: whoever was in native code may have caused their fault."""
    marks = Marks()
    try:
        elsewhere = "import faulthandler\nt = threading.Thread(target=faulthandler._sigsegv)\nt.start(); t.join()"
        assert _run(marks, elsewhere) == -signal.SIGSEGV
        assert marks.suspects() == {"Jörg", "x" * 128, "hostile"}
    finally:
        marks.close()


def test_places_are_bounded_and_given_back() -> None:
    """A call beyond the places is not marked; a place that was given back is used again."""
    marks = Marks()
    try:
        places = [marks.enter(f"user-{i}") for i in range(512)]
        assert None not in places and len(marks.users()) == 512
        assert marks.enter("one more") is None
        marks.leave(places[0] or 0)
        assert marks.enter("another") is not None
        assert len(marks.users()) == 512
    finally:
        marks.close()


def test_an_owner_belongs_to_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread has an owner only while it does that owner's work, also after an error; else nothing is marked."""
    marks = Marks()
    monkeypatch.setattr(native_marks._Process, "marks", marks)
    seen: list[set[str]] = []

    def work(fails: bool) -> None:
        with inside():
            seen.append(marks.users())
            if fails:
                raise ValueError(threading.get_ident())

    try:
        with ThreadPoolExecutor(1) as workers:
            with pytest.raises(ValueError):
                owned(workers, "a").submit(work, True).result()
            workers.submit(work, False).result()
            owned(workers, "b").submit(work, False).result()
        assert seen == [{"a"}, set(), {"b"}]
        assert marks.users() == set()
    finally:
        marks.close()
    with pytest.raises(OSError):
        os.fstat(marks.descriptor)
