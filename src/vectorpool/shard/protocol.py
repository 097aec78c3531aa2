"""What crosses between the front process and a shard: length-prefixed msgpack frames on a socket pair.

A frame is a 4-byte little-endian length and a msgpack message. The front sends ``Hello`` first; the shard sends
``Ready`` when it can serve. Requests and replies carry a number and may overtake each other.

A body of Chroma's own protocol crosses as it came, in ``Part`` frames while it arrives and then in ``ExecuteBody``:
the front neither holds nor decodes it.
"""

from __future__ import annotations

import struct

import msgspec
import xxhash

from vectorpool.answers import PoolView, TaskView
from vectorpool.chroma_bodies import Target
from vectorpool.commands import WireCommand
from vectorpool.context import CarriedContext
from vectorpool.errors import ErrorWire
from vectorpool.settings import Settings
from vectorpool.telemetry.figures import Sample
from vectorpool.telemetry.parts import Step

_LENGTH = struct.Struct("<I")
LENGTH_BYTES = _LENGTH.size
# A body limit's worth of request with room for its encoding; a longer frame is a defect, not a request.
MAX_FRAME_BYTES = 1 << 30


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The shard's number, of how many, and the configuration.

    ``is_isolated``: it serves one user in quarantine, and does no upkeep.
    """

    shard: int
    shards: int
    settings: Settings
    is_isolated: bool = False


class Execute(msgspec.Struct, frozen=True, tag="execute"):
    """One command for one user."""

    number: int
    user_id: str
    command: WireCommand
    context: CarriedContext = CarriedContext()


class Part(msgspec.Struct, frozen=True, tag="part"):
    """The next bytes of a body whose ``ExecuteBody`` follows."""

    number: int
    data: bytes


class ExecuteBody(msgspec.Struct, frozen=True, tag="execute-body"):
    """One command for one user, as the body of a request; ``data`` is what the parts before it did not carry."""

    number: int
    user_id: str
    target: Target
    data: bytes
    context: CarriedContext = CarriedContext()


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """No one waits for the answer any more: drop the parts that came, and stop what may stop. It gets no reply."""

    number: int


class Press(msgspec.Struct, frozen=True, tag="press"):
    """Whether the instance is short of memory. It gets no reply."""

    is_short: bool


class View(msgspec.Struct, frozen=True, tag="view"):
    """A request for the pool's slots."""

    number: int


class ShowTasks(msgspec.Struct, frozen=True, tag="show-tasks"):
    """Asks for the state of the shard's background tasks."""

    number: int


class ShowFigures(msgspec.Struct, frozen=True, tag="show-figures"):
    """Asks for the shard's figures."""

    number: int


class Settle(msgspec.Struct, frozen=True, tag="settle"):
    """Asks the shard to commit all that is acknowledged and not committed, within the budget."""

    number: int
    budget_s: float


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """A request to finish, commit and end within the budget."""

    number: int
    budget_s: float


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The shard serves."""


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """An answer: JSON, ready to send, and the commit that it saw.

    ``parts`` are the seconds that it took, by part; ``steps`` are there if it is traced.
    """

    number: int
    body: bytes
    commit: int
    parts: list[float] = []
    steps: list[Step] = []


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """An error; with number 0, the shard cannot start. It has times as an answer has."""

    number: int
    error: ErrorWire
    parts: list[float] = []
    steps: list[Step] = []


class Viewed(msgspec.Struct, frozen=True, tag="viewed"):
    """The pool's slots."""

    number: int
    view: PoolView


class TasksShown(msgspec.Struct, frozen=True, tag="tasks-shown"):
    """The state of the shard's background tasks."""

    number: int
    tasks: list[TaskView]


class FiguresShown(msgspec.Struct, frozen=True, tag="figures-shown"):
    """The shard's figures."""

    number: int
    samples: list[Sample]


class Settled(msgspec.Struct, frozen=True, tag="settled"):
    """How many vectorstores hold what is acknowledged and not committed."""

    number: int
    uncommitted: int


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    """The shard has left; what it could not finish or commit, and its last figures."""

    number: int
    unfinished: int
    uncommitted: list[str]
    samples: list[Sample] = []


ToShard = Hello | Execute | Part | ExecuteBody | Cancel | Press | View | ShowTasks | ShowFigures | Settle | Drain
FromShard = Ready | Answered | Failed | Viewed | TasksShown | FiguresShown | Settled | Drained

_encoder = msgspec.msgpack.Encoder()
to_shard_decoder = msgspec.msgpack.Decoder(ToShard)
from_shard_decoder = msgspec.msgpack.Decoder(FromShard)


def label_of(shard: int, *, is_isolated: bool) -> str:
    """Return the name of a shard in figures, logs and traces."""
    return f"isolated-{shard}" if is_isolated else str(shard)


def shard_of(user_id: str, shards: int) -> int:
    """Return the number of the shard that owns a user: by hash, the same in every process."""
    return xxhash.xxh3_64_intdigest(user_id.encode()) % shards


def encode_frame(message: ToShard | FromShard) -> bytearray:
    """Return a message as a frame."""
    frame = bytearray(_LENGTH.size)
    _encoder.encode_into(message, frame, _LENGTH.size)
    _LENGTH.pack_into(frame, 0, len(frame) - _LENGTH.size)
    return frame
