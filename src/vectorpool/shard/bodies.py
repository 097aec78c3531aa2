"""Bodies and answers at the edge of a shard: large ones are decoded beside the event loop, too large ones refused."""

from __future__ import annotations

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


async def decoded(user_id: str, target: Target, body: bytes | bytearray, settings: Settings, turns: Turns) -> Command:
    """Return the command of a user's body. Raises what ``decoding`` does."""
    if len(body) <= _INLINE_BYTES:
        return decode_body(target, body, settings)
    return await turns.run(user_id, decoding(target, body, settings))


def check_size(answer: Answer) -> None:
    """Raise LimitExceeded if an answer is larger than one response should be."""
    if len(answer.body) > MAX_ANSWER_BYTES:
        raise LimitExceeded(
            f"The answer has {len(answer.body)} bytes; at most {MAX_ANSWER_BYTES} are sent. Ask for fewer records at "
            "a time (limit, offset), or leave embeddings out.",
            extra={"limit": MAX_ANSWER_BYTES, "limit_name": "answer bytes", "count": len(answer.body)},
        )
