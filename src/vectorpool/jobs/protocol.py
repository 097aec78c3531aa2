"""Messages between the front and its worker: frames of msgpack over a socket pair.

A request has a number, and the reply has the same. Bodies of replies are JSON, which the front passes on.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final

import msgspec

from vectorpool.commands import PipelineChoice
from vectorpool.errors import ErrorWire
from vectorpool.jobs.views import JobKind, JobOptions, JobState, Transfer
from vectorpool.settings import Settings
from vectorpool.telemetry.spans import CURRENT

_LENGTH: Final = struct.Struct("<I")
MAX_FRAME_BYTES: Final = 64 * 1024**2


class WorkerHello(msgspec.Struct, frozen=True, tag="hello"):
    """The configuration, and how the worker reaches the service."""

    settings: Settings
    url: str
    key: str


class WorkerReady(msgspec.Struct, frozen=True, tag="ready"):
    """The worker takes requests."""


class Enqueue(msgspec.Struct, frozen=True, tag="enqueue"):
    """A new job; a ``sync``, ``export`` and ``forget`` join another that waits. Answers views.Job.

    ``traceparent`` names the span that asks for it, by default that of the running request.
    """

    number: int
    user_id: str
    avatar_id: str
    kind: JobKind
    paths: list[str] | None = None
    force: bool = False
    choice: PipelineChoice | None = None
    options: JobOptions | None = None
    is_numbered: bool = False
    transfer: Transfer | None = None
    traceparent: str = msgspec.field(default_factory=CURRENT.get)


class FindJobs(msgspec.Struct, frozen=True, tag="find"):
    """Jobs of an avatar by their numbers; those that are not there are left out. Answers views.JobPage."""

    number: int
    user_id: str
    avatar_id: str
    numbers: list[int]


class ShowJob(msgspec.Struct, frozen=True, tag="show"):
    """One job, with a page of its documents. Answers views.Job.

    With ``wait_s`` the answer comes when the job has another version than ``version``, or is finished, or after that.
    """

    number: int
    user_id: str
    job_id: str
    limit: int = 0
    after: str = ""
    version: int | None = None
    only_finished: bool = False
    wait_s: float = 0.0


class ListJobs(msgspec.Struct, frozen=True, tag="list"):
    """Jobs of a user, of these avatars only. Answers views.JobPage."""

    number: int
    user_id: str
    avatars: list[str] | None
    state: JobState | None
    limit: int
    after: str


class CancelJob(msgspec.Struct, frozen=True, tag="cancel"):
    """Ends a job. Answers views.Job."""

    number: int
    user_id: str
    job_id: str


class RetryJob(msgspec.Struct, frozen=True, tag="retry"):
    """Takes what failed again, in the trace of the request that asks for it. Answers views.Job."""

    number: int
    user_id: str
    job_id: str
    traceparent: str = msgspec.field(default_factory=CURRENT.get)


class CountJobs(msgspec.Struct, frozen=True, tag="count"):
    """How many jobs the database has, by state. Answers views.JobsByState."""

    number: int


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Is the worker alive?"""

    number: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The answer of a request."""

    number: int
    body: bytes


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The error of a request; number 0 is that of the start."""

    number: int
    error: ErrorWire


Request = Enqueue | ShowJob | ListJobs | CancelJob | RetryJob | CountJobs | FindJobs | Ping
ToWorker = WorkerHello | Request
FromWorker = WorkerReady | Done | Refused

_encoder: Final = msgspec.msgpack.Encoder()
to_worker_decoder: Final = msgspec.msgpack.Decoder(ToWorker)
from_worker_decoder: Final = msgspec.msgpack.Decoder(FromWorker)


def encode_frame(message: ToWorker | FromWorker) -> bytearray:
    """Return a message as a frame."""
    frame = bytearray(_LENGTH.size)
    _encoder.encode_into(message, frame, _LENGTH.size)
    _LENGTH.pack_into(frame, 0, len(frame) - _LENGTH.size)
    return frame


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Return the next message's bytes, or None when the other side is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return await reader.readexactly(length) if length <= MAX_FRAME_BYTES else None
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
