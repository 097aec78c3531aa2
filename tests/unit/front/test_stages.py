"""What the stages share: the first lines of a request, read once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.front.parts import scope_of
from vectorpool.front.stages import announced_length, head_of, segments_of, user_of


def with_headers(*headers: tuple[bytes, bytes]) -> Any:
    """Return a scope with these headers."""
    return {**scope_of(), "headers": list(headers)}


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([], 0),
        ([(b"content-length", b"0")], 0),
        ([(b"content-length", b"17")], 17),
        ([(b"content-length", b"9" * 19)], int("9" * 19)),
        ([(b"content-length", b"9" * 20)], None),
        ([(b"content-length", b"-1")], None),
        ([(b"content-length", b"")], None),
        ([(b"transfer-encoding", b"chunked")], None),
        ([(b"content-length", b"17"), (b"transfer-encoding", b"chunked")], None),
    ],
)
def test_the_length_of_a_body_is_known_or_not(headers: list[tuple[bytes, bytes]], length: int | None) -> None:
    """A length that is no number, and a body in chunks, are not known."""
    assert announced_length(with_headers(*headers)) == length


def test_headers_that_are_sent_twice_are_noticed() -> None:
    """The last one counts, and who must have one finds that there are several."""
    head = head_of(with_headers((b"host", b"a"), (b"host", b"b"), (b"origin", b"c")))
    assert head.fields == {b"host": b"b", b"origin": b"c"}
    assert head.has_repeated and head.has_several(b"host")
    assert not head.has_several(b"origin") and not head.has_several(b"cookie")
    assert not head_of(with_headers((b"host", b"a"))).has_repeated


def test_the_first_lines_are_read_once() -> None:
    """All stages see the same object, in a scope that has no state yet too."""
    scope = scope_of("/users//42/")
    del scope["state"]
    assert head_of(scope) is head_of(scope)
    assert segments_of(scope) == ["users", "42"] and user_of(scope) == "42"
    scope = {**scope_of("/root/users/42"), "root_path": "/root"}
    assert segments_of(scope) == ["users", "42"]
