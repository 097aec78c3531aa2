"""The process that reads documents: a template without a document, which is forked for each one.

The template imports the readers once, 0.3 s, and never touches a document's bytes. For each document it forks a process
that limits and seals itself (``platform.sandbox``), reads the order from standard input and writes the answer to
standard output, and ends. So no document meets anything of another one, whatever it made of its process, and a fork
takes some milliseconds. The template says on the control descriptor how the process ended; after anything but success
it ends too, because bytes of the order may be left.

A frame is four bytes, the length, and msgpack.
"""

from __future__ import annotations

import codecs
import gc
import os
import select
import struct
import sys
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from vectorpool.bounds import EXTRACT_BYTES, READING_DESCRIPTORS
from vectorpool.errors import DocumentTooCostly, DocumentUnreadable, ErrorWire, VectorpoolError
from vectorpool.extraction.extracts import Extract
from vectorpool.platform import sandbox

READY_SEALED: Final = b"\1"
READY_OPEN: Final = b"\0"
LENGTH: Final = struct.Struct("<I")
# The exit code of a process that had no memory left.
NO_MEMORY: Final = 3
STATUS: Final = struct.Struct("<i")
# Below the front and the shards, for which somebody waits.
_NICENESS: Final = 10
# Encodings that documents name. They are modules, and a sealed process opens no file.
_ENCODINGS: Final = (
    [f"iso8859-{number}" for number in (*range(1, 12), *range(13, 17))]
    + [f"cp{number}" for number in (437, 850, 852, 866, 932, 936, 949, 950, *range(1250, 1259))]
    + ["ascii", "latin-1", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "koi8-r"]
    + ["koi8-u", "mac-roman", "gb2312", "gbk", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr", "iso2022_jp"]
    + ["quopri", "base64", "idna", "punycode", "unicode_escape"]
)


class Order(msgspec.Struct, frozen=True, array_like=True):
    """A document to read: its path as the user names it, its bytes, and its content type if one is known."""

    path: str
    data: bytes
    content_type: str | None = None


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """A document's text, or why there is none."""

    extract: Extract | None = None
    error: ErrorWire | None = None


def frame_of(message: Order | Reply) -> bytes:
    """Return a message with its length before it."""
    body = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(body)) + body


def answer(order: Order) -> bytes:
    """Return the frame that answers an order. Raises nothing that a document can cause."""
    from vectorpool.extraction.readers import read  # noqa: PLC0415 - the other side never imports the readers

    error: VectorpoolError
    try:
        frame = frame_of(Reply(read(order.path, order.data, order.content_type)))
        if len(frame) <= EXTRACT_BYTES:
            return frame
        error = DocumentTooCostly("The document has too many parts. Split it into several documents.")
    except VectorpoolError as refusal:
        # Without its traceback, whose frames hold what was read.
        error = refusal.with_traceback(None)
        error.__context__ = error.__cause__ = None
    except (MemoryError, RecursionError):
        error = DocumentTooCostly("The document takes more memory than one document may. Split it.")
    except BaseException as failure:
        # Native code panics with a BaseException.
        kind = type(failure).__name__
        error = DocumentUnreadable(f"The document cannot be read: its reader failed ({kind}). Save it again.")
    return frame_of(Reply(error=error.to_wire()))


def _read_exactly(descriptor: int, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = os.read(descriptor, min(1 << 20, count - len(parts)))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _serve(answers: int, memory_bytes: int, cpu_s: int) -> NoReturn:
    """Read one order, answer it, and end this process."""
    status = 1
    try:
        sandbox.limit(memory_bytes=memory_bytes, cpu_s=cpu_s, descriptors=READING_DESCRIPTORS)
        sandbox.seal()
        (length,) = LENGTH.unpack(_read_exactly(0, LENGTH.size))
        order = msgspec.msgpack.decode(_read_exactly(0, length), type=Order)
        _write_all(answers, answer(order))
        status = 0
    except MemoryError:
        # Not even the refusal had room.
        status = NO_MEMORY
    finally:
        os._exit(status)


def _is_sealable() -> bool:
    """Whether the kernel seals a process here: one that tries it says so."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if sandbox.seal() else 1)
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    """Serve orders until standard input ends. Arguments: control descriptor, bytes of memory, seconds."""
    control, memory_bytes, cpu_s = (int(argument) for argument in sys.argv[-3:])
    # A library that prints must not break the frames.
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)
    with suppress(OSError):
        os.nice(_NICENESS)
    from vectorpool.extraction import readers  # noqa: F401, PLC0415 - imported here once, for all forks

    for name in _ENCODINGS:
        with suppress(LookupError):
            codecs.lookup(name)
    gc.collect()
    # Objects of the template are not touched by the collector of a fork, so their pages stay shared.
    gc.freeze()
    os.write(control, READY_SEALED if _is_sealable() else READY_OPEN)
    orders = select.poll()
    orders.register(0, select.POLLIN)
    while orders.poll()[0][1] & select.POLLIN:
        pid = os.fork()
        if pid == 0:
            os.close(control)
            _serve(answers, memory_bytes, cpu_s)
        status = os.waitpid(pid, 0)[1]
        os.write(control, STATUS.pack(status))
        if status:
            return
