"""The caller's side of reading: a bounded number of templates, each with one document at a time.

A template is started when it is first needed, and ended when none was needed for five minutes. What goes wrong
in one costs only the document that it was reading.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from vectorpool.bounds import EXTRACT_BYTES, READING_QUEUE
from vectorpool.errors import (
    DocumentTooCostly,
    DocumentUnreadable,
    Draining,
    InternalError,
    QueueFull,
    VectorpoolError,
)
from vectorpool.extraction.extracts import Extract, refuse_blank, refuse_empty
from vectorpool.extraction.formats import recognise
from vectorpool.extraction.markdown import extract_markdown
from vectorpool.extraction.plain_text import extract_code, extract_text
from vectorpool.extraction.process import LENGTH, NO_MEMORY, READY_OPEN, STATUS, Order, Reply, frame_of
from vectorpool.settings import Settings

logger = logging.getLogger(__name__)

# Plain text up to here is read in a thread: a few milliseconds, and no start of a process.
SMALL_BYTES: Final = 64 * 1024
_SMALL: Final = {"markdown": extract_markdown, "text": extract_text, "code": extract_code}
_START_S: Final = 60.0
_IDLE_S: Final = 300.0
_PART: Final = 1 << 20
_MAIN: Final = (
    "import sys; sys.path.append(sys.argv[1]); from vectorpool.extraction.process import main; sys.exit(main())"
)
_PACKAGES: Final = str(Path(__file__).resolve().parents[2])


class _Ended(Exception):
    """The template ended, or does not answer in time."""


class _Template:
    """One template process. Its methods block, and one thread calls them at a time."""

    def __init__(self, memory_bytes: int, cpu_s: int) -> None:
        """Start the process and wait until it is ready. Raises InternalError."""
        control, theirs = os.pipe()
        self._control = control
        try:
            # A new session, so that it can be killed with its fork; nothing of this process's environment.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _MAIN, _PACKAGES, str(theirs), str(memory_bytes), str(cpu_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs,),
                env={"LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2"},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            os.close(control)
            raise InternalError(f"The process that reads documents does not start: {error}.") from error
        finally:
            os.close(theirs)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._orders.fileno(), False)
        try:
            self.is_sealed = self._receive(self._control, 1, time.monotonic() + _START_S) != READY_OPEN
        except _Ended:
            self.end()
            raise InternalError(
                "The process that reads documents does not start. Its installation is broken."
            ) from None

    def _receive(self, descriptor: int, count: int, deadline: float) -> bytes:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise _Ended
        data = os.read(descriptor, count)
        if len(data) < count:
            raise _Ended
        return data

    def read(self, frame: bytes, timeout_s: float) -> tuple[bytes, int]:
        """Return the answer to an order and the status of the process that made it. Raises _Ended."""
        deadline = time.monotonic() + timeout_s
        orders, answers = self._orders.fileno(), self._answers.fileno()
        poll = select.poll()
        poll.register(orders, select.POLLOUT)
        poll.register(answers, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        left, got, status = memoryview(frame), bytearray(), None
        while status is None or (status == 0 and not _is_whole(got)):
            ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not ready:
                raise _Ended
            for descriptor, _ in ready:
                if descriptor == orders:
                    with suppress(BlockingIOError):
                        try:
                            left = left[os.write(orders, left[:_PART]) :]
                        except BrokenPipeError:
                            left = left[:0]
                    if not left:
                        poll.unregister(orders)
                elif descriptor == answers:
                    part = os.read(answers, _PART)
                    got += part
                    if not part or len(got) > EXTRACT_BYTES + LENGTH.size:
                        raise _Ended
                else:
                    status = STATUS.unpack(self._receive(self._control, STATUS.size, deadline))[0]
        return bytes(memoryview(got)[LENGTH.size :]), status

    def kill(self) -> None:
        """Kill the process and its fork; the thread that reads then ends the template."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill the process and its fork, and close what leads to them."""
        self.kill()
        self._process.wait()
        for file in (self._orders, self._answers):
            with suppress(OSError):
                file.close()
        os.close(self._control)


def _is_whole(got: bytearray) -> bool:
    return len(got) >= LENGTH.size and len(got) - LENGTH.size >= LENGTH.unpack_from(got)[0]


class Workshop:
    """Reads documents in processes without rights."""

    def __init__(self, settings: Settings) -> None:
        """Start nothing: the first document that needs a process starts one."""
        self._timeout_s = settings.extraction_timeout_s
        self._memory_bytes = settings.extraction_memory_bytes
        self._threads = ThreadPoolExecutor(settings.extraction_processes, thread_name_prefix="reading")
        self._lock = threading.Lock()
        self._idle: list[_Template] = []
        self._busy: set[_Template] = set()
        self._waiting = 0
        self._closed = False
        self._ending: asyncio.TimerHandle | None = None
        self._has_warned = False

    async def read(self, path: str, data: bytes, content_type: str | None = None) -> Extract:
        """Return a document's text. Raises an InvalidRequest that says why it cannot be read, QueueFull, Draining."""
        if len(data) <= SMALL_BYTES:
            refuse_empty(data)
            reader = _SMALL.get(recognise(path, data, content_type).name)
            if reader is not None:
                return refuse_blank(await asyncio.to_thread(reader, data))
        if self._closed:
            raise Draining("The instance is shutting down. Send the request again, to another instance.")
        if self._waiting >= READING_QUEUE:
            raise QueueFull(f"{self._waiting} documents wait to be read. Send the request again in a moment.")
        self._waiting += 1
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._read, Order(path, data, content_type))
        finally:
            self._waiting -= 1
            if self._ending is not None:
                self._ending.cancel()
            self._ending = loop.call_later(_IDLE_S, self._end_idle)

    def _read(self, order: Order) -> Extract:
        template = self._take()
        try:
            body, status = template.read(frame_of(order), self._timeout_s)
            reply = None if status else msgspec.msgpack.decode(body, type=Reply)
        except (_Ended, OSError, msgspec.DecodeError):
            self._give_back(template, is_usable=False)
            if self._closed:
                raise Draining("The instance is shutting down. Send the request again.") from None
            raise DocumentTooCostly(
                f"The document was not read within {self._timeout_s:g} s. Split it, save it in simpler form, or raise "
                "VECTORPOOL_EXTRACTION_TIMEOUT_S."
            ) from None
        except BaseException:
            self._give_back(template, is_usable=False)
            raise
        self._give_back(template, is_usable=status == 0)
        if reply is None:
            raise self._failure(status)
        if reply.extract is not None:
            return reply.extract
        assert reply.error is not None
        raise VectorpoolError.from_wire(reply.error)

    def _failure(self, status: int) -> VectorpoolError:
        ended = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        if ended or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == NO_MEMORY):
            return DocumentTooCostly(
                "The document takes more processor time or memory than one document may. Split it, or save it in a "
                "simpler form."
            )
        return DocumentUnreadable(
            "The document cannot be read: its reader crashed, which damaged documents cause, and some that take more "
            f"than {self._memory_bytes} bytes of memory. Save it again, or split it."
        )

    def _take(self) -> _Template:
        with self._lock:
            if self._idle:
                template = self._idle.pop()
                self._busy.add(template)
                return template
        template = _Template(self._memory_bytes, math.ceil(self._timeout_s))
        if not template.is_sealed and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "documents are read in processes with limits, but without a filter of system calls: this kernel or "
                "container refuses it"
            )
        with self._lock:
            self._busy.add(template)
        return template

    def _give_back(self, template: _Template, *, is_usable: bool) -> None:
        with self._lock:
            self._busy.discard(template)
            is_usable = is_usable and not self._closed
            if is_usable:
                self._idle.append(template)
        if not is_usable:
            template.end()

    def _end_idle(self) -> None:
        self._ending = None
        with self._lock:
            idle, self._idle = self._idle, []
        for template in idle:
            # Killing takes a moment only: the process has nothing to finish.
            template.end()

    async def close(self) -> None:
        """Kill every process; documents that are being read fail with Draining."""
        with self._lock:
            self._closed = True
            busy = list(self._busy)
        if self._ending is not None:
            self._ending.cancel()
        self._end_idle()
        for template in busy:
            template.kill()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
