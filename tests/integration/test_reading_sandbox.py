"""The process that reads a document has no files, no sockets, no children, and bounded memory and time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.document_files import FACT, pdf
from vectorpool.errors import DocumentTooCostly, Draining, InvalidRequest
from vectorpool.extraction.workshop import Workshop
from vectorpool.platform import seccomp
from vectorpool.settings import Settings

needs_filter = pytest.mark.skipif(seccomp.ARCHITECTURE is None, reason="this machine has no filter of system calls")


def sealed(tmp_path: Path, attempt: str) -> str:
    """Return what an attempt in a sealed process prints: the name of its error, or that it succeeded."""
    code = f"""
        import ctypes, os, resource, signal, socket, subprocess, sys, threading
        from vectorpool.platform import sandbox
        sandbox.limit(memory_bytes=2**30, cpu_s=20, descriptors=32)
        libc = ctypes.CDLL(None, use_errno=True)
        folder = {str(tmp_path)!r}
        assert sandbox.seal()
        def attempt():
{textwrap.indent(textwrap.dedent(attempt), " " * 12)}
        try:
            result = attempt()
        except BaseException as error:
            result = type(error).__name__
        os.write(1, str(result).encode())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=120, check=False, text=True
    )
    return done.stdout if done.returncode == 0 else f"status {done.returncode}: {done.stderr[-300:]}"


ATTEMPTS = [
    "socket.socket(socket.AF_INET)",
    "socket.socket(socket.AF_UNIX)",
    "open('/etc/passwd').read()",
    "open(folder + '/file', 'w')",
    "os.mkdir(folder + '/made')",
    "os.unlink(folder + '/kept')",
    "os.listdir('/')",
    "os.fork()",
    "subprocess.run(['/bin/true'])",
    "os.execv('/bin/true', ['true'])",
    "os.kill(os.getppid(), 0)",
    "os.kill(os.getpid(), 0)",
    "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "resource.setrlimit(resource.RLIMIT_CPU, (100, 100))",
    "os.setuid(0)",
    "os.chdir('/')",
    "os.memfd_create('x')",
]


@needs_filter
def test_a_sealed_process_can_do_nothing_but_compute(tmp_path: Path) -> None:
    """Sockets, files, directories, processes, signals, limits: each attempt is an error, and leaves nothing behind."""
    (tmp_path / "kept").write_text("kept")
    attempt = f"""
        outcomes = []
        for text in {ATTEMPTS!r}:
            try:
                eval(text)
                outcomes.append("done: " + text)
            except (OSError, ValueError) as error:
                # The resource module makes a ValueError of what is not permitted.
                outcomes.append(type(error).__name__)
        return sorted(set(outcomes))
    """
    assert sealed(tmp_path, attempt) == "['PermissionError', 'ValueError']"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@needs_filter
def test_a_sealed_process_cannot_go_around_the_filter(tmp_path: Path) -> None:
    """Raw system calls: io_uring, ptrace, another process's memory, a fork by clone, signals by fcntl."""
    attempt = """
        calls = {"io_uring_setup": (425, 8, 0), "ptrace": (101, 0, 0), "process_vm_readv": (310, os.getppid(), 0),
                 "clone": (56, 17, 0), "fcntl F_SETOWN": (72, 1, 8), "clone3": (435, 0, 88)}
        found = []
        for name, (number, *arguments) in calls.items():
            ctypes.set_errno(0)
            answer = libc.syscall(number, *arguments)
            found.append((name, answer, ctypes.get_errno()))
        return [name for name, answer, error in found if answer != -1 or error not in (1, 38)]
    """
    if sys.platform == "linux" and os.uname().machine == "x86_64":
        assert sealed(tmp_path, attempt) == "[]"


@needs_filter
def test_a_sealed_process_computes_with_threads_and_memory(tmp_path: Path) -> None:
    """What readers need stays: threads, memory, pipes; and memory has its bound."""
    attempt = """
        found = []
        thread = threading.Thread(target=lambda: found.append(sum(range(1000))))
        thread.start()
        thread.join()
        os.close(os.pipe()[0])
        try:
            bytearray(2 * 2**30)
        except MemoryError:
            return found
    """
    assert sealed(tmp_path, attempt) == "[499500]"


@pytest.fixture
async def hasty() -> AsyncIterator[Workshop]:
    """A workshop with one process and little time."""
    shop = Workshop(Settings(extraction_processes=1, extraction_timeout_s=3.0, extraction_memory_bytes=512 * 1024**2))
    yield shop
    await shop.close()


async def test_a_document_that_takes_too_long_is_given_up_and_the_next_is_read() -> None:
    """Seconds of work within a tenth of one: the process is killed at its time, and only this document fails."""
    shop = Workshop(Settings(extraction_processes=1))
    await shop.read("warm.pdf", pdf())
    shop._timeout_s = 0.1
    slow = b"<a>" + b"<b c='1'>x</b>" * 500_000 + b"</a>"
    with pytest.raises(DocumentTooCostly, match="was not read within"):
        await shop.read("slow.xml", slow)
    shop._timeout_s = 60.0
    assert FACT in (await shop.read("good.pdf", pdf())).text
    await shop.close()


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("large.xml", b"<a>" + b"<b c='1'>x</b>" * 2_000_000 + b"</a>"),
        ("large.json", b"[" + b'[1,{"a":2}],' * 2_000_000 + b"1]"),
    ],
    ids=["xml", "json"],
)
async def test_a_document_that_takes_too_much_memory_is_too_costly(path: str, data: bytes) -> None:
    """The bound of memory has the same answer wherever in the reader it is met, and the next document is read."""
    shop = Workshop(Settings(extraction_processes=1, extraction_memory_bytes=256 * 1024**2))
    with pytest.raises(DocumentTooCostly, match="memory"):
        await shop.read(path, data)
    assert FACT in (await shop.read("good.pdf", pdf())).text
    await shop.close()


async def test_processes_that_are_killed_or_stopped_cost_one_document(hasty: Workshop) -> None:
    """The template killed from outside while idle, or stopped: one error, then a new one."""
    await hasty.read("warm.pdf", pdf())
    template = hasty._idle[0]
    os.kill(template._process.pid, signal.SIGKILL)
    template._process.wait()
    with pytest.raises(InvalidRequest):
        await hasty.read("a.pdf", pdf())
    assert FACT in (await hasty.read("b.pdf", pdf())).text
    os.kill(hasty._idle[0]._process.pid, signal.SIGSTOP)
    with pytest.raises(DocumentTooCostly):
        await hasty.read("c.pdf", pdf())
    assert FACT in (await hasty.read("d.pdf", pdf())).text


async def test_the_process_inherits_no_secret_and_no_descriptor(
    hasty: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its environment has two names, and its descriptors are those that it needs."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    await hasty.read("warm.pdf", pdf())
    process = Path("/proc") / str(hasty._idle[0]._process.pid)
    if not process.exists():
        pytest.skip("there is no /proc")
    names = {entry.partition("=")[0] for entry in (process / "environ").read_text().split("\0") if entry}
    assert names <= {"LANG", "MALLOC_ARENA_MAX", "LC_CTYPE"}
    targets = [str(entry.readlink()) for entry in (process / "fd").iterdir()]
    assert all(target.startswith(("pipe:", "/dev/null")) for target in targets), targets


async def test_documents_do_not_meet(hasty: Workshop) -> None:
    """Each is read by a process of its own: the template's children come and go, and it stays."""
    await hasty.read("warm.pdf", pdf())
    pid = hasty._idle[0]._process.pid
    for number in range(5):
        assert f"page {number}" in (await hasty.read("a.pdf", pdf(f"page {number}"))).text
    assert [template._process.pid for template in hasty._idle] == [pid]


async def test_closing_ends_what_is_read_and_every_process() -> None:
    """A document under way fails at once with Draining, and no process stays."""
    shop = Workshop(Settings(extraction_processes=1))
    await shop.read("warm.pdf", pdf())
    pid = shop._idle[0]._process.pid
    reading = asyncio.create_task(shop.read("slow.xml", b"<a>" + b"<b c='1'>x</b>" * 2_000_000 + b"</a>"))
    while shop._idle:
        await asyncio.sleep(0.01)
    await shop.close()
    with pytest.raises(Draining):
        await reading
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(Draining):
        await shop.read("a.pdf", pdf())
