"""Mutations of valid inputs, for tests of decoders: of a tree of values, and of the bytes of an encoded one."""

from __future__ import annotations

import random
from typing import Any, Final

# Values that a member never has, or whose kind or size is wrong.
HOSTILE: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**53,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    1e308,
    0.5,
    "",
    "\0",
    "../../etc/passwd",
    "ä" * 600,
    "\u202e",
    [],
    {},
    [[]],
    {"": None},
    [0] * 2000,
)
_BYTES: Final = (b"", b"\0", b"\xff" * 17, b"\xed\xa0\x80", b"x" * 5000)
DEPTH: Final = 2000


def deep(leaf: Any) -> Any:
    """Return lists in lists around a value, deeper than a parser should follow."""
    for _ in range(DEPTH):
        leaf = [leaf]
    return leaf


def mutate(tree: Any, dice: random.Random, *, with_bytes: bool = False) -> Any:
    """Return a copy of a tree of dicts and lists with one to three places changed."""
    for _ in range(dice.randint(1, 3)):
        tree = _changed(tree, dice, (*HOSTILE, *_BYTES) if with_bytes else HOSTILE)
    return tree


def _changed(tree: Any, dice: random.Random, hostile: tuple[Any, ...]) -> Any:
    if isinstance(tree, dict) and tree and dice.random() < 0.8:
        key = dice.choice(list(tree))
        kind = dice.randrange(8)
        if kind == 0:
            return {name: value for name, value in tree.items() if name != key}
        if kind == 1:
            return {**tree, "surplus": tree[key], **({} if dice.random() < 0.5 else {"": dice.choice(hostile)})}
        return {**tree, key: _changed(tree[key], dice, hostile)}
    if isinstance(tree, list) and tree and dice.random() < 0.8:
        at = dice.randrange(len(tree))
        kind = dice.randrange(8)
        if kind == 0:
            return tree[:at] + tree[at + 1 :]
        if kind == 1:
            return tree[: at + 1] + tree[at:]
        return [*tree[:at], _changed(tree[at], dice, hostile), *tree[at + 1 :]]
    if isinstance(tree, int) and not isinstance(tree, bool) and dice.random() < 0.5:
        # Near misses pass the first check and reach the next.
        return max(-(2**63), min(tree + dice.choice((-1, 1, 4096, -4096, 2**32)), 2**64 - 1))
    if isinstance(tree, bytes) and tree and dice.random() < 0.5:
        return scramble(tree, dice)
    return dice.choice(hostile)


def scramble(data: bytes, dice: random.Random) -> bytes:
    """Return bytes with one to four places changed: flipped, cut, repeated, put in, or exchanged."""
    for _ in range(dice.randint(1, 4)):
        at, end = sorted(dice.randint(0, len(data)) for _ in range(2))
        data = dice.choice(
            (
                data[:at] + bytes((dice.randrange(256),)) + data[at + 1 :],
                data[:at],
                data[:at] + data[end:],
                data[:end] + data[at:],
                data[:at] + dice.randbytes(dice.choice((1, 2, 9))) + data[at:],
                data[end:] + data[:at],
            )
        )
    return data
