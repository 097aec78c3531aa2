"""Bodies and answers at the edge of a shard: large ones are decoded beside the event loop, too large ones refused."""

from __future__ import annotations

import mmap
from collections.abc import Generator
from typing import Final

from vectorpool.answers import Answer
from vectorpool.chroma_bodies import Target, decode_body, decoding
from vectorpool.commands import Command
from vectorpool.errors import LimitExceeded
from vectorpool.settings import Settings
from vectorpool.turns import Turns

# Decoding less than this takes about as long as asking a thread to do it.
_INLINE_BYTES: Final = 32 * 1024
# What may cross to the front in one piece. Half of a frame's limit, which is that of a defect.
MAX_ANSWER_BYTES: Final = 1 << 29


async def decoded(user_id: str, target: Target, parts: list[bytes], settings: Settings, turns: Turns) -> Command:
    """Return the command of a user's body, which came in parts. Raises what ``decoding`` does."""
    if sum(map(len, parts)) <= _INLINE_BYTES:
        return decode_body(target, b"".join(parts), settings)
    return await turns.run(user_id, _decoding(target, parts, settings))


def _decoding(target: Target, parts: list[bytes], settings: Settings) -> Generator[None, None, Command]:
    if len(parts) == 1:
        return (yield from decoding(target, parts[0], settings))
    # To join 60 MB in one step takes 40 ms, most of it for memory that was never touched.
    size = sum(map(len, parts))
    whole, at = memoryview(mmap.mmap(-1, size)), 0
    parts.reverse()
    while parts:
        part = parts.pop()
        whole[at : at + len(part)] = part
        at += len(part)
        yield
    return (yield from decoding(target, whole, settings))


def check_size(answer: Answer) -> None:
    """Raise LimitExceeded if an answer is larger than one response should be."""
    if len(answer.body) > MAX_ANSWER_BYTES:
        raise LimitExceeded(
            f"The answer has {len(answer.body)} bytes; at most {MAX_ANSWER_BYTES} are sent. Ask for fewer records at "
            "a time (limit, offset), or leave embeddings out.",
            extra={"limit": MAX_ANSWER_BYTES, "limit_name": "answer bytes", "count": len(answer.body)},
        )
